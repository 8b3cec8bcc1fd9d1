"""One GPU per job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from covid_xray.errors import UserError
from covid_xray.sweeps.devices import claim_device, device_order, refuse_several_devices

CLAIM = """
import sys, time
from covid_xray.sweeps.devices import claim_device
print(claim_device(int(sys.argv[1])), flush=True)
print(claim_device(int(sys.argv[1]) + 1), flush=True)
time.sleep(60)
"""


def test_devices_by_job_number() -> None:
    assert [device_order(job, 3)[0] for job in range(5)] == [0, 1, 2, 0, 1]
    assert device_order(4, 3) == [1, 2, 0]


def test_processes_claim_different_devices_and_keep_them(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3,5", "TMPDIR": str(tmp_path)}
    claimed, holders = [], []
    try:
        for job in (0, 2, 4):  # all three try the first device first
            command = [sys.executable, "-c", CLAIM, str(job)]
            holder = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            holders.append(holder)
            assert holder.stdout is not None
            first, second = holder.stdout.readline(), holder.stdout.readline()
            claimed.append(first.strip())
            assert first == second, "a process keeps its device"
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
    assert claimed == ["0", "1", "0"], "the third shares"


def test_a_single_device_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert claim_device(1) is None


@pytest.mark.parametrize("devices", [1, "1", [3]])
def test_one_device_is_accepted(devices: object) -> None:
    refuse_several_devices({"devices": devices}, slurm=False)


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": "auto"}, {"devices": [0, 1]}, {}, {"devices": True}])
def test_several_devices_need_slurm(trainer: dict[str, object]) -> None:
    refuse_several_devices(trainer, slurm=True)
    with pytest.raises(UserError, match="trains on one device here"):
        refuse_several_devices(trainer, slurm=False)
