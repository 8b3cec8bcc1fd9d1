"""A run folder: the names of all its files, and whether the run is new, interrupted or finished."""

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from omegaconf import OmegaConf

from covid_xray.errors import UserError
from covid_xray.files import lock, read_text, write_atomically, write_failure
from covid_xray.schedule import Phase

CONFIG_FILE = "config.yaml"  # the configuration that the run began with
SPLITS_FILE = "splits.csv"  # the split of every image
METRICS_FILE = "metrics.json"  # final metrics; exists only when the run is finished
PREDICTIONS_FILE = "predictions.csv"  # in the folder of an evaluation
CALIBRATION_FILE = "calibration.json"  # what the validation images gave: temperature, thresholds, limits
RUNTIME_FILE = "runtime.json"  # seconds spent so far, when the present session began, threads of the first session
WEIGHTS_FILE = "model.safetensors"  # of a bundle
JOB_FILE = "job.json"  # of a sweep's job: its overrides and the time of its first start
FAILURE_FILE = "failure.txt"  # of a sweep's job: why the last session failed, in its first line
CURVES_FILE = "curves.csv"  # every scalar that was logged, up to the newest checkpoint
LOG_ID_FILE = "log-id.txt"  # identifies the run in loggers that hold many runs
EVENTS = "events.out.tfevents.*"
_WRITTEN_ATOMICALLY = (CONFIG_FILE, SPLITS_FILE, METRICS_FILE, RUNTIME_FILE, CURVES_FILE, LOG_ID_FILE)
_PHASE_DEFAULTS = {part.name: part.default for part in fields(Phase) if part.default is not MISSING}
_MAX_CONFIG, _MAX_JSON = 1 << 18, 1 << 26  # bytes
_MAX_DEPTH = 20  # of nested mappings and lists in a configuration

# Settings that do not change the result.
NON_RESULT_KEYS = (
    "run_dir",
    "resume",
    "objective",
    "logger",
    "checkpoint.every_minutes",
    "datamodule.num_workers",
    "datamodule.audit_cache",
    "datamodule.cache",
    "crop.folder",
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
    def curves(self) -> Path:
        """Every scalar that was logged, up to the newest checkpoint."""
        return self.path / CURVES_FILE

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the newest."""
        return self.checkpoints / "previous.ckpt"

    @property
    def begun(self) -> bool:
        """Whether there is a state to continue from."""
        return self.last.exists() or self.previous.exists()

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss at the last image size."""
        return self.checkpoints / "best.ckpt"

    @property
    def weights(self) -> Path:
        """The weights of a bundle; see `covid_xray.runs.bundle`."""
        return self.path / WEIGHTS_FILE

    @property
    def is_bundle(self) -> bool:
        """Whether this is a bundle, which is made for sharing, and not the folder of a training."""
        return self.weights.is_file() and not self.checkpoints.exists()

    def checkpoint(self, name: str) -> Path:
        """The checkpoint ``best`` or ``last``; of a bundle its only weights."""
        return self.weights if self.is_bundle else self.best if name == "best" else self.last

    @property
    def results(self) -> Path:
        """Where evaluations are written: into the run, but never into a bundle, because they name patients."""
        is_shared = self.is_bundle or (not self.config.exists() and any(self.path.glob(f"*/{WEIGHTS_FILE}")))
        return Path("outputs") / self.path.resolve().name if is_shared else self.path

    def evaluation(self, name: str) -> Path:
        """Folder of an evaluation."""
        return self.results / "evaluation" / name

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
            elif self.begun:
                raise UserError(
                    f"{self.config} is missing, but the run has a checkpoint; restore it or use resume=never"
                )
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        except OSError as error:
            raise write_failure(self.path, error) from None

    @contextlib.contextmanager
    def session(self, config: Mapping[str, Any], restart: bool = False, threads: int | None = None) -> Iterator[None]:
        """Begin, and hold the folder's lock and clock until the session ends.

        Args:
            config: The resolved configuration, plain types.
            restart: Whether to remove an earlier run.
            threads: Threads that torch computes with on the CPU; None: on another device. Sums depend on it.

        Raises:
            UserError: As `begin`, and if another process trains in this folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = lock(self.path / ".lock")
        except OSError as error:
            raise write_failure(self.path, error) from None
        if held is None:
            raise UserError(f"another process is training in {self.path}; wait for its end, or use another run folder")
        with held:
            self.begin(config, restart)
            for name in _WRITTEN_ATOMICALLY:
                for draft in self.path.glob(f"{name}.*.tmp"):
                    draft.unlink(missing_ok=True)  # of a killed session
            first_threads = self._first_threads(threads)
            before, begun, start = seconds_spent(self.path) or 0.0, time.time(), time.monotonic()
            self._write_runtime(before, begun, first_threads)
            try:
                yield
            except BaseException:
                with contextlib.suppress(UserError):  # such as a full disk, which must not hide the cause
                    self._write_runtime(before + time.monotonic() - start, None, first_threads)
                raise
            self._write_runtime(before + time.monotonic() - start, None, first_threads)

    def log_id(self) -> str:
        """Identifies the run in loggers that hold many runs; the same in every session."""
        file = self.path / LOG_ID_FILE
        known = read_text(file, 100).strip() if file.is_file() else ""
        if not re.fullmatch(r"[0-9a-f]{16}", known):
            known = uuid.uuid4().hex[:16]
            write_atomically(file, known + "\n")
        return known

    def finished_metrics(self) -> dict[str, float] | None:
        """Final metrics if the run is finished, else None; a metric that is not defined is left out.

        Raises:
            UserError: If the file is damaged.
        """
        found = {name: value for name, value in read_json(self.metrics).items() if value is not None}
        if wrong := [name for name, value in found.items() if not is_number(value)]:
            raise damaged(self.metrics, f"{wrong[0]} is not a number")
        shares = [name for name in found if name.split("/")[1:2] in (["accuracy"], ["recall"], ["f1_weighted"])]
        if wrong := [name for name in shares if not 0 <= found[name] <= 1]:
            raise damaged(self.metrics, f"{wrong[0]} is not from 0 to 1")
        return found or None

    def write_splits(self, splits: str) -> None:
        """Write ``splits.csv``; on resume, check that it is unchanged.

        Raises:
            UserError: If the images, labels or splits of a run to continue have changed.
        """
        if self.begun and not (self.splits.is_file() and self.splits.stat().st_size):
            raise UserError(
                f"{self.splits} is missing or empty, but the run has a checkpoint; restore it or use resume=never"
            )
        if self.begun and self.splits.read_bytes() != splits.encode("utf-8"):
            raise UserError(
                f"{self.path}: the images, labels or splits are not those that the run began with ({SPLITS_FILE}); "
                f"restore the data, or use resume=never"
            )
        write_atomically(self.splits, splits)

    def _first_threads(self, threads: int | None) -> int | None:
        """Threads that the run began with; a line is printed if this session has another number."""
        first = read_json(self.path / RUNTIME_FILE).get("threads", threads) if self.begun else threads
        first = first if isinstance(first, int) else None
        if threads is not None and first is not None and first != threads:
            print(
                f"The run began with {first} threads and continues with {threads}, which changes the last bits of the "
                f"weights; set OMP_NUM_THREADS={first} to get the same weights"
            )
        return first

    def _write_runtime(self, seconds: float, begun: float | None, threads: int | None) -> None:
        content = {"seconds": round(seconds, 3), "begun": begun, "threads": threads}
        write_atomically(self.path / RUNTIME_FILE, json.dumps(content) + "\n")

    def _clear(self) -> None:
        names = (RUNTIME_FILE, LOG_ID_FILE, CURVES_FILE)
        files = [self.metrics, self.splits, self.config, *(self.path / name for name in names)]
        for file in (*files, *self.path.glob(EVENTS)):
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path / "wandb"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)

    def _refuse_changes(self, config: Mapping[str, Any]) -> None:
        before = flatten(read_yaml(self.config))
        # Through YAML, because it is not the same for every type: 1e-8 comes back as text.
        now = flatten(OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(dict(config))))))
        changed = [
            f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
            for key in sorted(before.keys() | now.keys())
            if _value(before, key) != _value(now, key) and not changes_nothing(key) and key not in DATA_KEYS
        ]
        if changed:
            raise UserError(
                f"{self.path} holds a run with other settings ({'; '.join(changed[:8])}); use another run_dir, "
                f"the same settings, or resume=never to start again in this folder"
            )


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key; a setting that is new in this version, and not used, has its default."""
    return settings.get(key, _PHASE_DEFAULTS.get(key.rpartition(".")[2], "null"))


def changes_nothing(key: str) -> bool:
    """Whether a dotted key is, or is within, a setting that does not change the result."""
    return any(key == name or key.startswith(f"{name}.") for name in NON_RESULT_KEYS)


def seconds_spent(folder: Path) -> float | None:
    """Wall-clock seconds of a run over all sessions; None if it was never begun.

    A killed session counts to its newest checkpoint: the work after that is lost and done again.
    """
    clock = read_json(folder / RUNTIME_FILE)
    if not clock:
        return None
    seconds, begun, newest = clock.get("seconds"), clock.get("begun"), RunFolder(folder).last
    if not is_number(seconds) or not (begun is None or is_number(begun)):
        raise damaged(folder / RUNTIME_FILE, "seconds or begun is not a number")
    if begun is not None and newest.is_file():
        seconds += max(0.0, newest.stat().st_mtime - begun)  # the clock may have been set back
    return max(0.0, seconds)


def damaged(file: Path, reason: str) -> UserError:
    """The error for a file of a run whose content is wrong."""
    return UserError(f"{file} is damaged ({' '.join(reason.split())[:200]}); restore or remove it")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a file is a finite number, and not so large that a computation with it overflows."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e30


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object, NaN as None; empty if there is no such file.

    Raises:
        UserError: If the file is damaged.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(read_text(file, _MAX_JSON), parse_constant=lambda name: None)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise damaged(file, str(error)) from None
    if not isinstance(content, dict):
        raise damaged(file, "it is no JSON object")
    return content


def read_yaml(file: Path) -> dict[str, Any]:
    """Content of the ``config.yaml`` of a run, as plain types.

    The file may come from anyone. A run writes plain values: so an expression such as ``${oc.env:TOKEN}`` or an alias,
    with which a small file could become huge, is refused and never evaluated. So is a null character.

    Raises:
        UserError: If the file is damaged, or is not what a run writes.
    """
    text, depth = read_text(file, _MAX_CONFIG), 0
    remedy = "restore it, or train again with resume=never"
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            value = str(getattr(event, "value", ""))
            foreign = isinstance(event, yaml.AliasEvent) or "${" in value or "\0" in value
            if foreign or depth > _MAX_DEPTH:
                assert event.start_mark is not None
                kind = "a null character" if "\0" in value else "an expression or alias"
                what = kind if foreign else f"more than {_MAX_DEPTH} levels"
                raise UserError(f"{file}, line {event.start_mark.line + 1}: {what}, which no run writes; {remedy}")
        config = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else None
    except UserError:
        raise
    except Exception as error:  # YAML and OmegaConf raise classes of their own
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())[:200]}); {remedy}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} is damaged (it holds no settings); {remedy}")
    try:
        json.dumps(config, allow_nan=False)  # plain and finite, as reports write it
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from None
    return {str(key): value for key, value in config.items()}


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
