"""Loggers of a run: make and continue them, and log settings, texts, pictures and final metrics into each."""

import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from covid_xray.data.datamodule import XrayDataModule
from covid_xray.errors import UserError
from covid_xray.plots.classification import figure_png
from covid_xray.schedule import Schedule
from covid_xray.training.module import XrayClassifier

Settings = dict[str, bool | float | str]
LoggerFactory = Callable[..., Logger]

FINAL = "final/"
_EVENTS = "events.out.tfevents.*"
# A regular expression for each chart, so that runs with other classes or layer groups share the charts.
LAYOUT = {
    "Learning": {
        "loss, training and validation": ["Multiline", ["^(train|val)/loss$"]],
        "accuracy and weighted F1, validation": ["Multiline", ["^val/(accuracy|f1_weighted)$"]],
        "recall by class, validation": ["Multiline", ["^val/recall/"]],
    },
    "Schedule": {
        "learning rate by layer group": ["Multiline", ["^lr/"]],
        "phase": ["Multiline", ["^phase$"]],
        "image size and batch size": ["Multiline", ["^(image|batch)_size$"]],
    },
    "Speed": {
        "images per second": ["Multiline", ["^images_per_second$"]],
        "share of the time waiting for data": ["Multiline", ["^data_wait_share$"]],
    },
}


@dataclass(frozen=True)
class HyperParameters:
    """What a run's table of hyperparameters shows.

    Attributes:
        settings: Value by flat name, none of them None.
        changed: Names of the settings that the user changed; TensorBoard shows them first.
    """

    settings: Settings = field(default_factory=dict)
    changed: Sequence[str] = ()


@runtime_checkable
class RunLogger(Protocol):
    """A logger that keeps many runs in one place, finds a run again, and has every step of it once."""

    def open(self, run_id: str, name: str, first_step: int) -> None:
        """Find or start the run; see `open_loggers`."""

    def log_file(self, name: str, text: str) -> None:
        """Store a text file with the run."""

    def close(self, failed: bool) -> None:
        """End the session, so that the next run of this process starts its own."""


def tensorboard_logger(save_dir: str, **settings: Any) -> TensorBoardLogger:
    """TensorBoard events directly in the run folder."""
    return TensorBoardLogger(save_dir, name="", version="", default_hp_metric=False, **settings)


def create_loggers(
    factories: LoggerFactory | Sequence[LoggerFactory] | None, folder: Path, resume_from: Path | None = None
) -> list[Logger]:
    """Make a run's loggers.

    Args:
        factories: Each is called with ``save_dir``; None: no logger.
        folder: The run folder.
        resume_from: The checkpoint that the run continues from; steps logged after it will be logged again.

    Raises:
        UserError: If a logger cannot be made with its settings.
    """
    loggers = []
    for factory in [factories] if callable(factories) else factories or []:
        target = getattr(factory, "func", factory)
        is_board = target is tensorboard_logger or (isinstance(target, type) and issubclass(target, TensorBoardLogger))
        purge = {"purge_step": first_step(resume_from)} if is_board else {}
        with _mistakes(getattr(target, "__name__", str(target))):
            loggers.append(factory(save_dir=str(folder), **purge))
    return loggers


def open_loggers(
    loggers: Sequence[Logger],
    run_id: str,
    name: str,
    first: int = 0,
    before: Mapping[int, Mapping[str, float]] = MappingProxyType({}),
) -> None:
    """Find the run of an earlier session in each logger, and log what a kill has taken from it.

    Args:
        loggers: The loggers.
        run_id: Identifier of the run, for loggers that hold many runs.
        name: Shown name of the run.
        first: The first step that will be logged (again).
        before: What the run logged before that: value by metric, by step.
    """
    for logger in loggers:
        newest: dict[str, int] | None = None  # step by metric, of what the logger has
        if isinstance(logger, RunLogger):
            logger.open(run_id, name, first)
            newest = {}  # these leave out what they have
        elif isinstance(logger, TensorBoardLogger):
            newest = _steps_in_events(Path(logger.log_dir), first)
            with _mistakes(type(logger).__name__):
                _ = logger.experiment  # is made now, from settings that were not checked before
        elif isinstance(logger, CSVLogger):
            newest = _keep_rows(logger, first)
        if newest is None:
            continue
        for step, values in before.items():
            missing = {metric: value for metric, value in values.items() if step > newest.get(metric, -1)}
            if missing:
                logger.log_metrics(missing, step)


def close_loggers(loggers: Sequence[Logger], failed: bool = False) -> None:
    """End the session in loggers that keep many runs."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.close(failed)


def log_start(
    loggers: Sequence[Logger],
    config: str,
    hyper_parameters: HyperParameters,
    data: XrayDataModule,
    module: XrayClassifier,
    continues: bool = False,
) -> None:
    """Log configuration, phases and audit as text, the layout of TensorBoard's charts, and the settings.

    Args:
        loggers: The run's loggers.
        config: The configuration as YAML.
        hyper_parameters: For the table of hyperparameters.
        data: The data, set up.
        module: The classifier.
        continues: Whether this is not the run's first session. TensorBoard would show texts of two sessions twice, so
            they are logged only where this session wrote the first of its files.
    """
    settings = dict(hyper_parameters.settings)
    for name, phase in module.schedule.phases.items():
        peak = module.schedule.max_lrs(phase, len(module.group_names))[-1]
        settings[f"schedule.phases.{name}.max_lr.{module.group_names[-1]}"] = peak
    leaks = "".join(f"\n- **LEAKED: {leak}**" for leak in data.audit.leaks())
    texts = {
        "phases": _phase_table(module.schedule),
        "audit": f"{_counts_table(data)}\n\n{data.audit.to_markdown()}{leaks}",
    }
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings)
            if isinstance(logger, RunLogger):
                logger.log_file("config.yaml", config)
                for name, text in texts.items():
                    logger.log_file(f"{name}.md", text)
        elif not continues or len(list(Path(logger.log_dir).glob(_EVENTS))) == 1:
            for name, text in {"configuration": f"```yaml\n{config}```", **texts}.items():
                logger.experiment.add_text(name, text)
            logger.experiment.add_custom_scalars(LAYOUT)
            _log_session_start(logger, settings, hyper_parameters.changed, module.class_names)


def log_picture(loggers: Sequence[Logger], tag: str, picture: Figure | Tensor, step: int) -> None:
    """Log a picture into every logger that shows pictures.

    Args:
        loggers: The loggers.
        tag: Its name, such as ``confusion_matrix/val``.
        picture: A figure, or pixels (3, h, w) in [0, 1].
        step: Number of the training step.
    """
    image: Image.Image | None = None
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            if isinstance(picture, Figure):
                FigureCanvasAgg(picture)
                logger.experiment.add_figure(tag, picture, step)
            else:
                logger.experiment.add_image(tag, picture, step)
        elif hasattr(logger, "log_image"):  # Lightning's method of loggers that show pictures
            if image is None:
                if isinstance(picture, Figure):
                    image = Image.open(io.BytesIO(figure_png(picture))).convert("RGB")
                else:
                    image = to_pil_image(picture)
            logger.log_image(tag, [image], step)


def log_finish(loggers: Sequence[Logger], metrics: Mapping[str, float], step: int) -> None:
    """Log the final metrics, as in ``metrics.json``, beside the settings.

    They differ from the last points of the curves: a run is tested with its best epoch, which may be an earlier one.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    for logger in loggers:
        logger.log_metrics({FINAL + name: value for name, value in metrics.items()}, step)
        logger.save()
        if isinstance(logger, TensorBoardLogger):
            end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
            _write_hparams(logger, metadata.SESSION_END_INFO_TAG, session_end_info=end)
            logger.experiment.close()


def first_step(resume_from: Path | None) -> int:
    """The first step that a run will log: 0, or where its checkpoint ends."""
    if resume_from is None:
        return 0
    return int(torch.load(resume_from, map_location="cpu", mmap=True, weights_only=True)["global_step"])


@contextlib.contextmanager
def _mistakes(name: str) -> Iterator[None]:
    """Turn what a logger raises because of its settings, which may be anything, into a `UserError`."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"logger: {name} cannot be made ({reason}); correct the settings of logger") from error


def _steps_in_events(folder: Path, before: int) -> dict[str, int]:
    """Newest step by scalar in the TensorBoard files of a folder, of those before a step that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    newest: dict[str, int] = {}
    for file in sorted(folder.glob(_EVENTS)):
        for content in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(content)
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                # TensorBoard hides what an earlier session logged from this step on.
                newest = {tag: min(step, event.step - 1) for tag, step in newest.items()}
            if event.step < before:
                newest |= {value.tag: event.step for value in event.summary.value}
    return newest


def _keep_rows(logger: CSVLogger, before: int) -> dict[str, int]:
    """Keep the rows before a step, which the logger would remove; returns the newest step by metric."""
    file, kept = Path(logger.log_dir) / "metrics.csv", []
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace", newline="") as table:
            rows = [row for row in csv.DictReader(table) if (row.get("step") or "").isdecimal()]
        kept = [
            {key: value for key, value in row.items() if key and value} for row in rows if int(row["step"]) < before
        ]
    experiment: Any = logger.experiment
    experiment.metrics.extend(kept)
    logger.save()
    return {metric: int(row["step"]) for row in kept for metric in row}


def _log_session_start(
    board: TensorBoardLogger, settings: Settings, changed: Sequence[str], class_names: list[str]
) -> None:
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    types = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    rates = [key for key in changed if key.endswith(".max_lr")]
    infos = [
        api_pb2.HParamInfo(
            name=key,
            type=types.get(type(value), api_pb2.DATA_TYPE_FLOAT64),
            # TensorBoard shows these first: what the user changed is what runs differ in.
            differs=key in changed or key.rpartition(".")[0] in rates,
        )
        for key, value in settings.items()
    ]
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=FINAL + name), display_name=name)
        for name in _metric_names(class_names)
    ]
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics, time_created_secs=time.time())
    _write_hparams(board, metadata.EXPERIMENT_TAG, experiment=experiment)
    start = SessionStartInfo(start_time_secs=time.time())
    kinds = {bool: "bool_value", str: "string_value"}
    for key, value in settings.items():
        setattr(start.hparams[key], kinds.get(type(value), "number_value"), value)
    _write_hparams(board, metadata.SESSION_START_INFO_TAG, session_start_info=start)


def _write_hparams(board: TensorBoardLogger, tag: str, **content: Any) -> None:
    """Write a message of TensorBoard's HParams plugin, whose own writer needs TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    summary = Summary()
    about = metadata.create_summary_metadata(HParamsPluginData(**content))
    summary.value.add(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
    board.experiment._get_file_writer().add_summary(summary)


def _metric_names(class_names: list[str]) -> list[str]:
    # TensorBoard shows the first five.
    first = ["test/accuracy", "test/f1_weighted", "test/loss", "val/accuracy", "val/loss", "val/f1_weighted"]
    recalls = [f"{split}/recall/{name}" for split in ("test", "val") for name in class_names]
    return [*first, *recalls, "unseen/accuracy", "leaks", "epoch"]


def _phase_table(schedule: Schedule) -> str:
    rows, first = [], 1
    for name, phase in schedule.phases.items():
        epochs = f"{first} to {first + phase.epochs - 1}"
        rows.append(
            f"| {name} | {epochs} | {phase.image_size} px | {phase.batch_size} | {phase.trains} | {phase.max_lr} |"
        )
        first += phase.epochs
    head = ["| phase | epochs | images | batch | trains | highest rate |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _counts_table(data: XrayDataModule) -> str:
    counts = data.counts()
    head = ["", *map(str, counts.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(counts.index, counts.values, strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(["Images", "", *lines])
