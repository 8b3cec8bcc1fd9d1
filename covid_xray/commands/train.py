"""Train a network through all phases of a schedule, then test it; the same command continues a stopped run."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from covid_xray.commands._build import (
    build_callbacks,
    build_data,
    build_loggers,
    build_module,
    build_schedule,
    resolve,
)
from covid_xray.commands.sweep.jobs import is_sweep, on_own_device
from covid_xray.errors import UserError
from covid_xray.imports import quick_imports
from covid_xray.runs.config import Config
from covid_xray.runs.folder import RunFolder, is_main_process, seconds_spent

if TYPE_CHECKING:
    from covid_xray.data.datamodule import XrayDataModule
    from covid_xray.training.loggers import HyperParameters
    from covid_xray.training.module import XrayClassifier


def run(cfg: DictConfig) -> float:
    """Train, test and write the metrics.

    Returns:
        The final metric named by ``objective``, for sweepers.
    """
    config = resolve(cfg)
    schedule = build_schedule(config)
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    if config["resume"] == "auto" and (metrics := folder.finished_metrics()) is not None:
        if is_main_process():
            folder.begin(config)
            print(f"{folder.path} is finished: metrics in {folder.metrics}; use resume=never to train it again")
        return metrics.get(config["objective"], float("nan"))
    with quick_imports():
        from covid_xray.runs.fit import train
        from covid_xray.training.callbacks.checkpoint import TrainingStopped
    callbacks, loggers = build_callbacks(config), build_loggers(config)
    data = build_data(config, schedule)
    _check_objective(config["objective"], data.class_names)
    continues = config["resume"] == "auto" and folder.begun
    module = build_module(config, data, pretrained=not continues)
    if is_main_process():
        _introduce(config, folder, data, continues)
    placed = resolve(on_own_device(cfg, HydraConfig.get().job.num)) if is_sweep() else config
    try:
        metrics = train(
            module,
            data,
            folder,
            config,
            callbacks=callbacks,
            logger=loggers,
            resume=config["resume"],
            hyper_parameters=_hyper_parameters(config),
            trainer_settings=placed["trainer"],
        )
    except TrainingStopped as stop:
        if is_main_process():
            saved = f"the state is saved in {folder.last}" if folder.begun else "no step is finished yet"
            print(f"\nStopped; {saved}. The same command continues.")
        raise SystemExit(128 + stop.signum) from None
    if is_main_process():
        _summarise(config, folder, module, metrics)
    return metrics.get(config["objective"], float("nan"))


def _check_objective(objective: str, class_names: list[str]) -> None:
    metrics = ["loss", "accuracy", "f1_weighted", *(f"recall/{name}" for name in class_names)]
    if objective not in [f"{split}/{metric}" for split in ("val", "test") for metric in metrics]:
        raise UserError(f"objective={objective!r} is no metric of a run; use val/ with one of {', '.join(metrics)}")


def _hyper_parameters(config: Config) -> "HyperParameters":
    from covid_xray.runs.fit import NO_HYPERPARAMETERS, hyper_parameters

    chosen = HydraConfig.get().runtime.choices
    choices = {name: chosen[name] or "null" for name in chosen if "/" not in name and name not in NO_HYPERPARAMETERS}
    changed = [override.lstrip("+~").split("=")[0] for override in HydraConfig.get().overrides.task]
    return hyper_parameters(config, choices, changed)


def _introduce(config: Config, folder: RunFolder, data: "XrayDataModule", continues: bool) -> None:
    counts = data.counts()
    classes = "; ".join(
        f"{name} {'/'.join(map(str, row))}" for name, row in zip(counts.index, counts.values, strict=True)
    )
    print(f"{'Continuing' if continues else 'Run'}: {folder.path}")
    print(f"Images (train/val/test): {classes}")
    print(f"Patients (train/val/test): {'/'.join(map(str, data.patient_counts()))}")
    for warning in data.audit.warnings():
        print(f"Warning: {warning}")
    if config["allow_leakage"] and (leaks := data.audit.leaks()):
        print(f"LEAKED DATA ({len(leaks)} findings, allowed by allow_leakage), the first: {leaks[0]}")


def _summarise(config: Config, folder: RunFolder, module: "XrayClassifier", metrics: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names, confusion = module.class_names, module.confusions["test"]
    table = Table(title="Test images: confusion matrix (rows: truth)", title_justify="left")
    for column in ("", *names, "recall"):
        table.add_column(Text(column), justify="right")
    for name, row in zip(names, confusion.tolist(), strict=True):
        recall = metrics.get(f"test/recall/{name}", math.nan)
        table.add_row(Text(name), *map(str, row), "undefined" if math.isnan(recall) else f"{recall:.1%}")
    Console(highlight=False).print(table)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"Test accuracy {metrics['test/accuracy']:.1%} on {int(confusion.sum())} images, "
        f"weighted F1 {metrics['test/f1_weighted']:.3f} ({config['checkpoint']['select']} checkpoint, "
        f"epoch {int(metrics['epoch']) + 1}); trained in {(seconds_spent(folder.path) or 0) / 60:.1f} min"
    )
    if metrics["leaks"]:
        unseen = metrics.get("unseen/accuracy")
        corrected = f"; on test patients that are not in training: {unseen:.1%}" if unseen is not None else ""
        text = f"LEAKED: test images or patients are in training, so this is too good{corrected}"
        console.print(text, style="bold")
    board = "tensorboard" in (config.get("logger") or {})
    print(f"Metrics:   {folder.metrics}")
    print(f"Curves:    {f'tensorboard --logdir {folder.path}' if board else folder.curves}")
    print("Research only: not for diagnosis.")
