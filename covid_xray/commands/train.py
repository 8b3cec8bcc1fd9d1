"""Train a network through all phases of a schedule, then test it; the same command continues a stopped run."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from covid_xray.commands.build import build_callbacks, build_data, build_module, build_schedule, build_trainer
from covid_xray.commands.sweep_devices import on_own_device
from covid_xray.commands.sweep_jobs import is_sweep, refuse_several_devices
from covid_xray.errors import UserError
from covid_xray.files import write_atomically
from covid_xray.runs.folder import RunFolder, is_main_process
from covid_xray.training.loggers import build_logger, log_finish, log_start

if TYPE_CHECKING:
    from lightning import Callback, Trainer

    from covid_xray.data.datamodule import XrayDataModule
    from covid_xray.training.callbacks.checkpoint import RunCheckpoint
    from covid_xray.training.module import XrayClassifier


def run(cfg: DictConfig) -> float:
    """Train, test and write the figures.

    Returns:
        The final figure named by ``objective``, for sweepers.
    """
    schedule = build_schedule(cfg)
    _check(cfg)
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    if cfg.resume != "never" and (metrics := folder.finished_metrics()) is not None:
        if is_main_process():
            folder.begin(cfg)
            print(f"{folder.path} is finished: figures in {folder.metrics}; use resume=never to train it anew")
        return metrics.get(cfg.objective, float("nan"))
    data = build_data(cfg, schedule)
    _check_objective(cfg.objective, data.class_names)
    module = build_module(cfg, schedule, data, pretrained=not folder.last.is_file() or cfg.resume == "never")
    with folder.session(cfg) if is_main_process() else contextlib.nullcontext():
        if is_main_process():
            _write_splits(data, folder)
        metrics = _train(cfg, folder, data, module)
    return metrics.get(cfg.objective, float("nan"))


def _check(cfg: DictConfig) -> None:
    if cfg.resume not in ("auto", "never"):
        raise UserError(f"resume must be auto or never, not {cfg.resume!r}")
    if cfg.checkpoint.select not in ("best", "last"):
        raise UserError(f"checkpoint.select must be best or last, not {cfg.checkpoint.select!r}")
    if not isinstance(cfg.deterministic, bool):
        raise UserError(f"deterministic must be true or false, not {cfg.deterministic!r}")
    if is_sweep():
        refuse_several_devices(cfg.trainer, slurm=os.environ.get("SUBMITIT_EXECUTOR") == "slurm")


def _check_objective(objective: str, class_names: list[str]) -> None:
    figures = ["loss", "accuracy", "f1_weighted", *(f"recall/{name}" for name in class_names)]
    if objective not in [f"{split}/{figure}" for split in ("val", "test") for figure in figures]:
        raise UserError(f"objective={objective!r} is no figure of a run; use val/ with one of {', '.join(figures)}")


def _train(cfg: DictConfig, folder: RunFolder, data: "XrayDataModule", module: "XrayClassifier") -> dict[str, float]:
    from covid_xray.training.callbacks.checkpoint import RunCheckpoint, TrainingStopped
    from covid_xray.training.callbacks.seeding import StepSeeding

    checkpoint = RunCheckpoint(folder.checkpoints, cfg.checkpoint.every_minutes)
    callbacks: list[Callback] = [StepSeeding(cfg.seed), *build_callbacks(cfg), checkpoint]
    resume_from = folder.last if cfg.resume == "auto" and folder.last.is_file() else None
    logger = build_logger(cfg, folder, resume_from)
    placed = on_own_device(cfg, HydraConfig.get().job.num) if is_sweep() else cfg
    trainer = build_trainer(placed, folder.path, callbacks, logger, module.schedule.epochs)
    module.schedule.check(module.group_names, trainer.world_size)  # before other processes are started
    if trainer.is_global_zero:
        _introduce(cfg, folder, data, trainer, resume_from)
        if logger and not resume_from:
            log_start(cfg, folder, logger, data, module)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    except TrainingStopped as stop:
        if trainer.is_global_zero:
            print(f"\nStopped; the state is saved in {folder.last}. The same command continues.")
        raise SystemExit(128 + stop.signum) from None
    except Exception as error:
        if cfg.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = " ".join(str(error).partition("Set TORCHDYNAMO")[0].split())[:300]
            raise UserError(f"compile={cfg.compile}: torch cannot compile here ({reason}); use compile=null") from None
        raise
    return _finish(cfg, folder, data, module, trainer, checkpoint)


def _finish(
    cfg: DictConfig,
    folder: RunFolder,
    data: "XrayDataModule",
    module: "XrayClassifier",
    trainer: "Trainer",
    checkpoint: "RunCheckpoint",
) -> dict[str, float]:
    best = cfg.checkpoint.select == "best"
    metrics = dict(checkpoint.best if best else checkpoint.last)
    leaks = data.audit.leaks()
    # Where images leaked, those of patients that were not trained on tell the corrected figure beside the inflated one.
    for subset in ("unseen", "test") if leaks and len(data.subset("unseen")) else ("test",):
        module.test_name = data.tested = subset
        chosen = folder.best if best else None
        trainer.test(module, datamodule=data, ckpt_path=chosen, verbose=False, weights_only=True)
        tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics |= {name: value for name, value in tested.items() if name.startswith(f"{subset}/")}
    metrics["leaks"] = float(len(leaks))
    if trainer.is_global_zero:
        log_finish(trainer.logger, metrics, trainer.global_step)
        counts = _image_counts(data, [split for split in ("val", "test", "unseen") if f"{split}/loss" in metrics])
        write_atomically(folder.metrics, json.dumps(metrics | counts, indent=2) + "\n")
        _summarise(cfg, folder, module, metrics)
    return metrics


def _image_counts(data: "XrayDataModule", subsets: list[str]) -> dict[str, float]:
    """Images that the figures were counted on, in all and of each class: what their intervals need."""
    counts = {}
    for split in subsets:
        of_class = data.subset(split)["label"].value_counts().sort_index()
        counts[f"{split}/images"] = float(of_class.sum())
        counts |= {f"{split}/images/{name}": float(count) for name, count in of_class.items()}
    return counts


def _write_splits(data: "XrayDataModule", folder: RunFolder) -> None:
    old = folder.splits.read_text(encoding="utf-8") if folder.splits.is_file() else ""
    # A run that began without digests, as those of older versions, continues without.
    text = data.splits_csv(digests=not old or ",pixels" in old.split("\n", 1)[0])
    if old and folder.last.is_file() and old != text:
        raise UserError(
            f"{folder.path}: the images, labels or splits are not those that the run began with (splits.csv); "
            f"restore the data, or use resume=never"
        )
    write_atomically(folder.splits, text)


def _introduce(
    cfg: DictConfig, folder: RunFolder, data: "XrayDataModule", trainer: "Trainer", resume_from: Path | None
) -> None:
    counts = data.counts()
    classes = "; ".join(
        f"{name} {'/'.join(map(str, row))}" for name, row in zip(counts.index, counts.values, strict=True)
    )
    device = f"{type(trainer.accelerator).__name__.removesuffix('Accelerator')} x {trainer.world_size}"
    print(f"{'Continuing' if resume_from else 'Run'}: {folder.path}")
    print(f"Images (train/val/test): {classes}")
    for warning in data.audit.warnings():
        print(f"Warning: {warning}")
    if leaks := data.audit.leaks():
        print(f"LEAKED DATA ({len(leaks)} findings, allowed by data.allow_leakage), the first: {leaks[0]}")
    print(f"{cfg.model.get('architecture', cfg.model['_target_'])} on {device}, precision {trainer.precision}")


def _summarise(cfg: DictConfig, folder: RunFolder, module: "XrayClassifier", metrics: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = module.class_names
    table = Table(title="Test images: confusion matrix (rows: truth)", title_justify="left")
    for column in ("", *names, "recall"):
        table.add_column(column, justify="right")
    for name, row in zip(names, module.confusion.tolist(), strict=True):
        table.add_row(name, *map(str, row), f"{metrics[f'test/recall/{name}']:.1%}")
    Console(highlight=False).print(table)
    console = Console(highlight=False, soft_wrap=True)
    total = int(module.confusion.sum())
    console.print(
        f"Test accuracy {metrics['test/accuracy']:.1%} on {total} images, "
        f"weighted F1 {metrics['test/f1_weighted']:.3f} ({cfg.checkpoint.select} checkpoint, "
        f"epoch {int(metrics['epoch']) + 1}); trained in {folder.seconds() / 60:.1f} min"
    )
    if metrics["leaks"]:
        unseen = metrics.get("unseen/accuracy")
        corrected = f"; on test patients nobody trained on: {unseen:.1%}" if unseen is not None else ""
        console.print(f"[bold]LEAKED: test images or patients were trained on, so this is too good{corrected}[/bold]")
    print(
        f"Figures:   {folder.metrics}\nCurves:    tensorboard --logdir {folder.path}\nResearch only: not for diagnosis."
    )
