"""More than one process: launchers of sweeps, torchrun and SLURM."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TESTS, Command, differences, load_state
from omegaconf import OmegaConf
from small_network import SMALL_NETWORK

from covid_xray.commands.sweep.jobs import on_own_device
from covid_xray.sweeps import devices
from covid_xray.sweeps.jobs import read_sweep

SWEEP = ("train", "-m", "experiment=tiny", SMALL_NETWORK, "logger=none", "seed=-1,0")

# A cluster of one machine. Output and environment variables follow SLURM's manual.
CLUSTER = {
    "sbatch": """
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "${!#}")
        for task in $(seq 0 "$last"); do
            export SLURM_JOB_ID=$((77 + task)) SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_NAME=sweep
            export SLURM_NTASKS=1 SLURM_NNODES=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NODELIST=localhost
            bash "${!#}" > "$CLUSTER_LOG.$task" 2>&1
        done &> /dev/null &
        cp "${!#}" "$CLUSTER_LOG.sh"
        echo "Submitted batch job 77"
    """,
    "srun": """
        while [[ $1 == -* ]]; do [[ $1 == --output || $1 == --error ]] && shift; shift; done
        exec "$@"
    """,
    "sacct": "printf 'JobID|State|NodeList\\n77_0|RUNNING|localhost\\n77_1|RUNNING|localhost\\n'",
}


def cluster(folder: Path) -> dict[str, str]:
    """Environment with these programs in place of SLURM's."""
    folder.mkdir()
    for name, script in CLUSTER.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "CLUSTER_LOG": str(folder / "log")}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("submitit_local", "submitit_slurm")]


@pytest.mark.parametrize("launcher", ["joblib", *SLOW])
def test_failure_loses_no_other_job(covid_xray: Command, workplace: Path, tmp_path: Path, launcher: str) -> None:
    folder = f"launched-{launcher}"
    asked = ("hydra.launcher.partition=gpus",) if launcher == "submitit_slurm" else ()
    environment = cluster(tmp_path / "bin") if asked else {}
    result = covid_xray(*SWEEP, f"hydra/launcher={launcher}", *asked, f"hydra.sweep.dir={folder}", env=environment)
    assert result.returncode == 2, result.stderr
    failed, finished = read_sweep(workplace / folder)
    assert (failed.status, finished.status) == ("failed", "finished")
    assert "seed must be" in str(failed.error)
    assert "1 of the sweep's jobs failed" in result.stderr
    assert "ConfigStore schema" not in result.stderr
    assert "Traceback" not in result.stderr
    assert (workplace / folder / "sweep.csv").is_file()
    if asked:
        said = (tmp_path / "bin/log.sh").read_text()
        for option in (
            "partition=gpus",
            "gpus-per-node=1",
            "time=1440",
            "mem=32GB",
            "cpus-per-task=8",
            "signal=USR2@120",
        ):
            assert f"#SBATCH --{option}\n" in said


def test_only_a_job_that_asks_for_one_gpu_gets_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "_claimed", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for trainer in ({"accelerator": "cpu", "devices": 1}, {"accelerator": "gpu", "devices": [1]}):
        cfg = OmegaConf.create({"trainer": trainer})
        assert on_own_device(cfg, 1) == cfg
    cfg = OmegaConf.create({"trainer": {"accelerator": "auto", "devices": 1}})
    assert on_own_device(cfg, 3).trainer == {"accelerator": "auto", "devices": [1]}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert on_own_device(cfg, 1) == cfg


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def torchrun(node: int, port: int) -> tuple[list[str], dict[str, str]]:
    start = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}"]
    return [sys.executable, *start, "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "covid_xray"], {}


def slurm(node: int, port: int) -> tuple[list[str], dict[str, str]]:
    job = {"JOB_ID": "1", "JOB_NAME": "train", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2"}
    task = {"PROCID": str(node), "LOCALID": "0", "NODEID": str(node), "NODELIST": "127.0.0.1"}
    return [sys.executable, "-m", "covid_xray"], {
        "MASTER_PORT": str(port),
        **{f"SLURM_{key}": value for key, value in (job | task).items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize("start", [torchrun, slurm])
def test_two_nodes_train_as_one(workplace: Path, start: Callable[[int, int], tuple[list[str], dict[str, str]]]) -> None:
    name = f"nodes-{start.__name__}"
    settings = ["train", "experiment=tiny", "logger=none", f"run_dir={name}", "datamodule.num_workers=0"]
    settings += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"]
    settings += ["+callbacks.dump._target_=probe_callbacks.StateDump"]
    port, nodes = free_port(), []
    for node in (0, 1):
        command, extra = start(node, port)
        environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", **extra}
        nodes.append(subprocess.Popen([*command, *settings], cwd=workplace, env=environment, stderr=subprocess.PIPE))
    for process in nodes:
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err.decode()
    ranks = [load_state(workplace / name / f"state-epoch3-rank{rank}.pt") for rank in (0, 1)]
    weights = [{k: v for k, v in state["weights"].items() if "running_" not in k} for state in ranks]
    assert differences(weights[0], weights[1]) == []
    assert (workplace / name / "metrics.json").is_file()
