"""What a run shows in TensorBoard besides its curves: settings, audit, a layout, and the final figures by settings."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from covid_xray.commands.build import make
from covid_xray.runs.folder import NON_RESULT_KEYS, RunFolder, flatten

if TYPE_CHECKING:
    from lightning.pytorch.loggers import TensorBoardLogger

    from covid_xray.data.datamodule import XrayDataModule
    from covid_xray.schedule import Schedule
    from covid_xray.training.module import XrayClassifier

Settings = dict[str, bool | float | str]

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
# Settings, and groups of settings, that are no hyper-parameters.
_LEFT_OUT = ("name", *NON_RESULT_KEYS)
_LEFT_OUT_GROUPS = ("logger", "callbacks", "sweep", "hydra")


def build_logger(cfg: DictConfig, folder: RunFolder, resume_from: Path | None) -> Any:
    """The configured logger, told where a run takes up; false where the run keeps no log."""
    if cfg.logger is None:
        return False
    extra: dict[str, Any] = {}
    if cfg.logger["_target_"].endswith("TensorBoardLogger"):
        # Steps after the checkpoint were logged before the kill and will be logged again; all of them without one.
        extra["purge_step"] = _global_step(resume_from) if resume_from else 0
    return make(cfg, "logger", save_dir=str(folder.path), **extra)


def log_start(
    cfg: DictConfig, folder: RunFolder, logger: Any, data: "XrayDataModule", module: "XrayClassifier"
) -> None:
    """Write settings, phases and audit as text, the layout of the charts, and the hyper-parameters."""
    from covid_xray.reporting.audit import figure, markdown

    if (board := _tensorboard(logger)) is None:
        return
    writer = board.experiment
    yaml = folder.config.read_text(encoding="utf-8")
    writer.add_text("configuration", f"```yaml\n{yaml}```")
    writer.add_text("phases", _phase_table(module.schedule))
    leaks = "".join(f"\n- **LEAKED: {leak}**" for leak in data.audit.leaks())
    writer.add_text("audit", f"{_counts_table(data)}\n\n{markdown(data.audit)}{leaks}")
    writer.add_figure("audit/associations", figure(data.audit))
    writer.add_custom_scalars(LAYOUT)
    choices = {group: choice for group, choice in HydraConfig.get().runtime.choices.items() if "/" not in group}
    settings = hyper_parameters(cfg, choices, module.schedule, module.group_names)
    _log_session_start(board, settings, HydraConfig.get().overrides.task, module.class_names)


def log_finish(logger: Any, metrics: dict[str, float], step: int) -> None:
    """Write the final figures, as ``metrics.json`` has them, where the table of hyper-parameters finds them.

    The curves' last points are not these figures: a run is tested with its best epoch, which may be an earlier one.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    if (board := _tensorboard(logger)) is None:
        return
    for name, value in metrics.items():
        board.experiment.add_scalar(FINAL + name, value, step)
    end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    _write_hparams(board, metadata.SESSION_END_INFO_TAG, session_end_info=end)
    board.experiment.close()


def hyper_parameters(
    cfg: DictConfig, choices: dict[str, str | None], schedule: "Schedule", groups: tuple[str, ...]
) -> Settings:
    """Everything that may change a run's result, under flat names, none of them None.

    A name has the same type in all runs, whatever its value there: TensorBoard shows no run at all where it compares a
    number with a word. So settings that may be either are words, and each phase's highest rate is given as a number
    beside its ``max_lr``, which may be a list or a slice.

    Args:
        cfg: Composed configuration.
        choices: What was chosen of each config group (``model=resnet50``), by the group's name.
        schedule: The schedule.
        groups: Names of the layer groups.
    """
    found: Settings = {group: choice or "null" for group, choice in choices.items() if group not in _LEFT_OUT_GROUPS}
    for key, value in flatten(cfg).items():
        if key in _LEFT_OUT or key.split(".")[0] in _LEFT_OUT_GROUPS:
            continue
        found[key] = str(value) if _may_be_a_word(key) else value
    for name, phase in schedule.phases.items():
        found[f"schedule.phases.{name}.max_lr.{groups[-1]}"] = phase.group_max_lrs(len(groups))[-1]
    return found


def _log_session_start(
    board: "TensorBoardLogger", settings: Settings, overrides: list[str], class_names: list[str]
) -> None:
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    types = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    changed = [override.lstrip("+~").split("=")[0] for override in overrides]
    rates = [key for key in changed if key.endswith(".max_lr")]
    infos = [
        api_pb2.HParamInfo(
            name=key,
            type=types.get(type(value), api_pb2.DATA_TYPE_FLOAT64),
            # TensorBoard shows these first: what was given on the command line is what runs differ in.
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


def _write_hparams(board: "TensorBoardLogger", tag: str, **content: Any) -> None:
    """Write a message of TensorBoard's HParams plugin, whose own way to do so needs TensorFlow."""
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


def _may_be_a_word(key: str) -> bool:
    return key.startswith("trainer.") or key.endswith(".max_lr") or key == "data.folds"


def _phase_table(schedule: "Schedule") -> str:
    rows, first = [], 1
    for name, phase in schedule.phases.items():
        epochs = f"{first} to {first + phase.epochs - 1}"
        rows.append(
            f"| {name} | {epochs} | {phase.image_size} px | {phase.batch_size} | {phase.trains} | {phase.max_lr} |"
        )
        first += phase.epochs
    head = ["| phase | epochs | images | batch | trains | highest rate |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _counts_table(data: "XrayDataModule") -> str:
    counts = data.counts()
    head = ["", *map(str, counts.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(counts.index, counts.values, strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(["Images", "", *lines])


def _global_step(checkpoint: Path) -> int:
    import torch

    return int(torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def _tensorboard(logger: Any) -> "TensorBoardLogger | None":
    from lightning.pytorch.loggers import TensorBoardLogger

    return logger if isinstance(logger, TensorBoardLogger) else None
