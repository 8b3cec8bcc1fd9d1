"""A run folder: the names of all its files, and whether the run is new, interrupted or finished."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from covid_xray.errors import UserError
from covid_xray.files import lock, write_atomically

CONFIG_FILE = "config.yaml"  # the configuration that the run began with
SPLITS_FILE = "splits.csv"  # the split of every image
METRICS_FILE = "metrics.json"  # final metrics; exists only when the run is finished
PREDICTIONS_FILE = "predictions.csv"  # in the folder of an evaluation
CALIBRATION_FILE = "calibration.json"  # what the validation images gave: temperature, thresholds, limits
RUNTIME_FILE = "runtime.json"  # seconds spent so far, and when the present session began
JOB_FILE = "job.json"  # of a sweep's job: its overrides and the time of its first start
FAILURE_FILE = "failure.txt"  # of a sweep's job: why the last session failed, in its first line
EVENTS = "events.out.tfevents.*"

# Settings that do not change the result.
NON_RESULT_KEYS = (
    "run_dir",
    "resume",
    "objective",
    "checkpoint.every_minutes",
    "datamodule.num_workers",
    "datamodule.audit_cache",
    "datamodule.cache",
    "trainer.profiler",
    "trainer.log_every_n_steps",
)
# The place of the data may change; its content is compared by splits.csv.
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
        return self.path / CONFIG_FILE

    @property
    def splits(self) -> Path:
        """The split of every image."""
        return self.path / SPLITS_FILE

    @property
    def metrics(self) -> Path:
        """Final metrics; the file exists only when the run is finished."""
        return self.path / METRICS_FILE

    @property
    def calibration(self) -> Path:
        """Temperature, operating points and limits from the validation images."""
        return self.path / CALIBRATION_FILE

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss at the last image size."""
        return self.checkpoints / "best.ckpt"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint ``best`` or ``last``."""
        return self.best if name == "best" else self.last

    def evaluation(self, name: str) -> Path:
        """Folder of an evaluation."""
        return self.path / "evaluation" / name

    def export(self, name: str) -> Path:
        """An exported file."""
        return self.path / "export" / name

    def begin(self, config: Mapping[str, Any], restart: bool = False) -> None:
        """Create the folder, or check that it holds a run with this configuration.

        Args:
            config: The resolved configuration, plain types.
            restart: Whether to remove an earlier run.

        Raises:
            UserError: If the folder holds a run with another configuration, or cannot be written.
        """
        try:
            if restart:
                self._clear()
            elif self.config.is_file():
                self._refuse_changes(config)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        except OSError as error:
            raise UserError(f"cannot write into the run folder {self.path}: {error.strerror or error}") from None

    @contextlib.contextmanager
    def session(self, config: Mapping[str, Any], restart: bool = False) -> Iterator[None]:
        """Begin, and hold the folder's lock and clock until the session ends.

        Raises:
            UserError: As `begin`, and if another process trains in this folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = lock(self.path / ".lock")
        except OSError as error:
            raise UserError(f"cannot write into the run folder {self.path}: {error.strerror or error}") from None
        if held is None:
            raise UserError(f"another process is training in {self.path}; wait for its end, or use another run folder")
        with held:
            self.begin(config, restart)
            before, begun = seconds_spent(self.path) or 0.0, time.time()
            self._write_runtime(before, begun)
            try:
                yield
            finally:
                self._write_runtime(before + time.time() - begun, None)

    def finished_metrics(self) -> dict[str, float] | None:
        """Final metrics if the run is finished, else None."""
        return read_json(self.metrics) or None

    def write_splits(self, splits: str) -> None:
        """Write ``splits.csv``; on resume, check that it is unchanged.

        Raises:
            UserError: If the images, labels or splits of a run to continue have changed.
        """
        if self.splits.is_file() and self.last.is_file() and self.splits.read_text(encoding="utf-8") != splits:
            raise UserError(
                f"{self.path}: the images, labels or splits are not those that the run began with ({SPLITS_FILE}); "
                f"restore the data, or use resume=never"
            )
        write_atomically(self.splits, splits)

    def _write_runtime(self, seconds: float, begun: float | None) -> None:
        write_atomically(self.path / RUNTIME_FILE, json.dumps({"seconds": round(seconds, 3), "begun": begun}) + "\n")

    def _clear(self) -> None:
        for file in (self.metrics, self.splits, self.config, self.path / RUNTIME_FILE, *self.path.glob(EVENTS)):
            file.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.checkpoints)

    def _refuse_changes(self, config: Mapping[str, Any]) -> None:
        try:
            before = flatten(OmegaConf.to_container(OmegaConf.load(self.config), resolve=True))
        except Exception as error:
            raise UserError(f"{self.config} is damaged ({error}); remove the folder or use resume=never") from None
        # Through YAML, because it is not the same for every type: 1e-8 comes back as text.
        now = flatten(OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(dict(config))))))
        changed = [
            f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key not in NON_RESULT_KEYS + DATA_KEYS
        ]
        if changed:
            raise UserError(
                f"{self.path} holds a run with other settings ({'; '.join(changed[:8])}); use another run_dir, "
                f"the same settings, or resume=never to start again in this folder"
            )


def seconds_spent(folder: Path) -> float | None:
    """Wall-clock seconds of a run over all sessions; None if it was never begun.

    A killed session counts to its newest checkpoint: the work after that is lost and done again.
    """
    clock = read_json(folder / RUNTIME_FILE)
    if not clock:
        return None
    seconds = float(clock["seconds"])
    newest = RunFolder(folder).last
    if clock["begun"] is not None and newest.is_file():
        seconds += max(0.0, newest.stat().st_mtime - float(clock["begun"]))
    return seconds


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object; empty if there is no such file.

    Raises:
        UserError: If the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); restore or remove it") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged (no JSON object); restore or remove it")
    return content


def flatten(node: Any, prefix: str = "") -> dict[str, bool | int | float | str]:
    """Flatten nested mappings to dotted keys; lists become text, None the word ``null``."""
    if isinstance(node, Mapping):
        flat: dict[str, bool | int | float | str] = {}
        for key, value in node.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(node, bool | int | float | str):
        return {prefix: node}
    return {prefix: "null" if node is None else str(node)}


def check_name(name: str) -> str:
    """Return a name that can be the name of a folder.

    Raises:
        UserError: If it cannot.
    """
    if name in ("", ".", "..") or {"/", "\\"} & set(name) or not name.isprintable():
        raise UserError(f"name must be the name of a folder, not {name!r}")
    return name


def is_main_process() -> bool:
    """Whether this process is rank 0, known before any process group exists."""
    return not any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
