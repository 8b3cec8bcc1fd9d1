"""A device of its own for every job of a sweep that runs beside others on one machine."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import IO

from omegaconf import DictConfig, OmegaConf

from covid_xray.files import lock

_held: dict[int, IO[str] | None] = {}  # this process's device, with the lock file that it keeps open if it got one


def on_own_device(cfg: DictConfig, job: int) -> DictConfig:
    """The configuration with a GPU of this machine that no other job has, if there are several and the job wants one.

    To be asked before CUDA is started. The cluster's own scheduler is not interfered with: it shows a job only the
    devices that it may use.
    """
    if cfg.trainer.get("accelerator") not in ("auto", "gpu", "cuda") or cfg.trainer.get("devices") != 1:
        return cfg
    devices = visible_devices()
    if len(devices) < 2:
        return cfg
    own = OmegaConf.merge(cfg, {"trainer": {"devices": [_take(devices, job)]}})
    assert isinstance(own, DictConfig)
    return own


def visible_devices() -> list[str]:
    """Names of the CUDA devices that this process may use; does not start CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def device_order(job: int, count: int) -> list[int]:
    """Devices in the order in which a job tries them: first its number's own, so that a sweep spreads by itself."""
    return [(job + step) % count for step in range(count)]


def _take(devices: list[str], job: int) -> int:
    """Index of a free device, taken until this process ends; the job's own where none is free.

    The lock files lie on the machine, as the devices do, so that sweeps of several shells share it too.
    """
    if _held:
        return next(iter(_held))
    folder = Path(tempfile.gettempdir()) / f"covid-xray-{os.getuid() if hasattr(os, 'getuid') else 0}"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        for index in device_order(job, len(devices)):
            file = lock(folder / f"gpu-{devices[index].strip().replace('/', '_')}.lock")
            if file is not None:
                _held[index] = file
                return index
    _held[job % len(devices)] = None
    return job % len(devices)
