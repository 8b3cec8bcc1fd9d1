"""A run's folder: what lies in it, and whether it is new, to be continued, or finished."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.files import lock, write_atomically
from covid_xray.sweeps.jobs import CLOCK, seconds_spent

# Settings that do not change the result.
NON_RESULT_KEYS = (
    "run_dir",
    "resume",
    "objective",
    "checkpoint.every_minutes",
    "data.num_workers",
    "data.audit_cache",
    "data.cache",
    "trainer.profiler",
    "trainer.log_every_n_steps",
)
# Where the data lies may change; its content is compared by splits.csv.
DATA_KEYS = ("data.root", "data.manifest")


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration that the run began with."""
        return self.path / "config.yaml"

    @property
    def splits(self) -> Path:
        """Which image is in which split."""
        return self.path / "splits.csv"

    @property
    def metrics(self) -> Path:
        """Final figures; there only when the run is finished."""
        return self.path / "metrics.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of ``last.ckpt`` and ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss."""
        return self.checkpoints / "best.ckpt"

    def begin(self, cfg: DictConfig) -> None:
        """Make the folder ready to start or to continue a run with this configuration.

        Raises:
            UserError: If the folder holds a run with another configuration, or cannot be written.
        """
        try:
            if cfg.resume == "never":
                self._clear()
            elif self.config.is_file():
                self._refuse_changes(cfg)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, OmegaConf.to_yaml(cfg, resolve=True))
        except OSError as error:
            raise UserError(f"cannot write into the run folder {self.path}: {error.strerror or error}") from None

    @contextlib.contextmanager
    def session(self, cfg: DictConfig) -> Iterator[None]:
        """Begin, and hold the folder and its clock until the attempt ends.

        Raises:
            UserError: As `begin`; and if another process is at it, such as a job that outlived its killed sweep.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = lock(self.path / ".lock")
        except OSError as error:
            raise UserError(f"cannot write into the run folder {self.path}: {error.strerror or error}") from None
        if held is None:
            raise UserError(f"another process is training in {self.path}; wait for its end, or use another run_dir")
        with held:
            self.begin(cfg)
            before, begun = seconds_spent(self.path) or 0.0, time.time()
            self._set_clock(before, begun)
            try:
                yield
            finally:
                self._set_clock(before + time.time() - begun, None)

    def seconds(self) -> float:
        """Wall-clock seconds of this and all earlier attempts, while one runs."""
        clock = json.loads((self.path / CLOCK).read_text(encoding="utf-8"))
        return float(clock["seconds"] + time.time() - clock["begun"])

    def _set_clock(self, seconds: float, begun: float | None) -> None:
        write_atomically(self.path / CLOCK, json.dumps({"seconds": round(seconds, 3), "begun": begun}) + "\n")

    def finished_metrics(self) -> dict[str, float] | None:
        """Final figures if the run is finished, else None."""
        if not self.metrics.is_file():
            return None
        metrics: dict[str, float] = json.loads(self.metrics.read_text(encoding="utf-8"))
        return metrics

    def _clear(self) -> None:
        for file in (self.metrics, self.splits, self.config, self.path / CLOCK):
            file.unlink(missing_ok=True)
        for events in self.path.glob("events.out.tfevents.*"):
            events.unlink()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.checkpoints)

    def _refuse_changes(self, cfg: DictConfig) -> None:
        try:
            before = flatten(OmegaConf.load(self.config))
        except Exception as error:
            raise UserError(f"{self.config} is damaged ({error}); remove the folder or use resume=never") from None
        now = flatten(OmegaConf.create(OmegaConf.to_yaml(cfg, resolve=True)))
        changed = [
            f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key not in NON_RESULT_KEYS + DATA_KEYS
        ]
        if changed:
            raise UserError(
                f"{self.path} holds a run with other settings ({'; '.join(changed[:8])}); use another run_dir, "
                f"the same settings, or resume=never to start anew in this folder"
            )


def flatten(cfg: Any, prefix: str = "") -> dict[str, bool | int | float | str]:
    """Flatten nested mappings to dotted keys; lists become text, None the word ``null``."""
    node: Any = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    if isinstance(node, dict):
        flat: dict[str, bool | int | float | str] = {}
        for key, value in node.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(node, bool | int | float | str):
        return {prefix: node}
    return {prefix: "null" if node is None else str(node)}


def is_main_process() -> bool:
    """Whether this process is rank 0, known before any process group exists."""
    return not any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
