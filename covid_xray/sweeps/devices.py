"""One GPU per job, for sweeps that run several jobs at a time on one machine."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from covid_xray.errors import UserError
from covid_xray.files import lock

_claimed: dict[int, IO[str] | None] = {}  # this process's device, with its lock file if the lock was free


def refuse_several_devices(trainer: Mapping[str, Any], slurm: bool) -> None:
    """Refuse several devices for a job of a sweep, unless SLURM starts the job's processes.

    Lightning would start them with the sweep's command line, so each process would run the whole sweep.

    Args:
        trainer: The trainer's settings.
        slurm: Whether the jobs run on a SLURM cluster.

    Raises:
        UserError: If the job asks for several devices or nodes without SLURM.
    """
    devices = trainer.get("devices", "auto")
    listed = isinstance(devices, Sequence) and not isinstance(devices, str)
    single = len(devices) == 1 if listed else str(devices) == "1"
    if not (single and trainer.get("num_nodes", 1) == 1) and not slurm:
        raise UserError(
            "a job of a sweep trains on one device here: use trainer.devices=1, with hydra/launcher=joblib for several "
            "jobs at a time, or hydra/launcher=submitit_slurm, whose jobs may have several devices each"
        )


def claim_device(job: int) -> int | None:
    """Claim a GPU of this machine for this process, until the process ends. Call it before CUDA starts.

    The lock files are in the machine's temporary folder, so sweeps from several shells share the GPUs. A cluster's
    scheduler shows a job only its own devices, and only those are claimed.

    Args:
        job: Number of the job.

    Returns:
        Index among the visible devices: the first free one in the order of `device_order`, or the first of that order
        if none is free. None if fewer than two devices are visible.
    """
    devices = visible_devices()
    if len(devices) < 2:
        return None
    if not _claimed:
        index, file = _find_free(devices, device_order(job, len(devices)))
        _claimed[index] = file
    return next(iter(_claimed))


def visible_devices() -> list[str]:
    """Names of the CUDA devices that this process may use; does not start CUDA."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def device_order(job: int, count: int) -> list[int]:
    """Order in which a job tries the devices: it begins at the job's number, so that jobs spread evenly."""
    return [(job + step) % count for step in range(count)]


def _find_free(devices: Sequence[str], order: Sequence[int]) -> tuple[int, IO[str] | None]:
    folder = Path(tempfile.gettempdir()) / f"covid-xray-{os.getuid() if hasattr(os, 'getuid') else 0}"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        for index in order:
            file = lock(folder / f"gpu-{devices[index].strip().replace('/', '_')}.lock")
            if file is not None:
                return index, file
    return order[0], None
