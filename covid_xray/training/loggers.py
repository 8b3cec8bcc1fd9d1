"""What a run logs besides its curves: configuration, audit, charts, and the hyperparameters with the final metrics."""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from covid_xray.data.datamodule import XrayDataModule
from covid_xray.plots.audit import audit_figure
from covid_xray.schedule import Schedule
from covid_xray.training.module import XrayClassifier

Settings = dict[str, bool | float | str]
LoggerFactory = Callable[..., Logger]

FINAL = "final/"
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


def tensorboard_logger(save_dir: str, **settings: Any) -> TensorBoardLogger:
    """TensorBoard events directly in the run folder."""
    return TensorBoardLogger(save_dir, name="", version="", default_hp_metric=False, **settings)


def create_logger(factory: LoggerFactory | None, folder: Path, resume_from: Path | None) -> Logger | None:
    """Make a run's logger.

    Args:
        factory: Called with ``save_dir``; None: no logger.
        folder: The run folder.
        resume_from: The checkpoint that the run continues from; steps logged after it will be logged again.
    """
    if factory is None:
        return None
    target = getattr(factory, "func", factory)
    if target is tensorboard_logger or (isinstance(target, type) and issubclass(target, TensorBoardLogger)):
        return factory(save_dir=str(folder), purge_step=_global_step(resume_from) if resume_from else 0)
    return factory(save_dir=str(folder))


def continue_log(logger: Logger | None, resume_from: Path) -> None:
    """Keep the rows of `CSVLogger` that were logged before the checkpoint; the logger itself would remove all.

    Args:
        logger: The run's logger; TensorBoard keeps its events itself.
        resume_from: The checkpoint that the run continues from.
    """
    if not isinstance(logger, CSVLogger):
        return
    file, first, kept = Path(logger.log_dir) / "metrics.csv", _global_step(resume_from), []
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace", newline="") as table:
            rows = [row for row in csv.DictReader(table) if (row.get("step") or "").isdecimal()]
        kept = [{key: value for key, value in row.items() if key and value} for row in rows if int(row["step"]) < first]
    experiment: Any = logger.experiment
    experiment.metrics.extend(kept)
    logger.save()


def log_start(
    logger: Logger | None, config: str, hyper_parameters: HyperParameters, data: XrayDataModule, module: XrayClassifier
) -> None:
    """Log configuration, phases and audit as text, the layout of the charts, and the hyperparameters.

    Args:
        logger: The run's logger; only TensorBoard shows these.
        config: The configuration as YAML.
        hyper_parameters: For the table of hyperparameters.
        data: The data, set up.
        module: The classifier.
    """
    if not isinstance(logger, TensorBoardLogger):
        return
    writer = logger.experiment
    writer.add_text("configuration", f"```yaml\n{config}```")
    writer.add_text("phases", _phase_table(module.schedule))
    leaks = "".join(f"\n- **LEAKED: {leak}**" for leak in data.audit.leaks())
    writer.add_text("audit", f"{_counts_table(data)}\n\n{data.audit.to_markdown()}{leaks}")
    writer.add_figure("audit/associations", audit_figure(data.audit))
    writer.add_custom_scalars(LAYOUT)
    settings = dict(hyper_parameters.settings)
    for name, phase in module.schedule.phases.items():
        peak = module.schedule.max_lrs(phase, len(module.group_names))[-1]
        settings[f"schedule.phases.{name}.max_lr.{module.group_names[-1]}"] = peak
    _log_session_start(logger, settings, hyper_parameters.changed, module.class_names)


def log_finish(logger: Logger | None, metrics: Mapping[str, float], step: int) -> None:
    """Log the final metrics, as in ``metrics.json``, into the table of hyperparameters.

    They differ from the last points of the curves: a run is tested with its best epoch, which may be an earlier one.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    if not isinstance(logger, TensorBoardLogger):
        return
    for name, value in metrics.items():
        logger.experiment.add_scalar(FINAL + name, value, step)
    end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    _write_hparams(logger, metadata.SESSION_END_INFO_TAG, session_end_info=end)
    logger.experiment.close()


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


def _global_step(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"])
