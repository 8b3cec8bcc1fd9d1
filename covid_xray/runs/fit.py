"""Train a network through all phases of a schedule, then test it; the same call continues a stopped run."""

import contextlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from covid_xray.data.augmentation import Augmentation
from covid_xray.data.datamodule import XrayDataModule
from covid_xray.errors import UserError
from covid_xray.files import resource_errors, write_atomically
from covid_xray.runs.config import Config
from covid_xray.runs.folder import RunFolder, changes_nothing, flatten, is_main_process
from covid_xray.runs.load import Run, load_run
from covid_xray.training.adversary import SourceAdversary
from covid_xray.training.callbacks.averaging import WeightAverage
from covid_xray.training.callbacks.checkpoint import RunCheckpoint, damage, resume_point
from covid_xray.training.callbacks.console import ConsoleProgress
from covid_xray.training.callbacks.figures import AuditFigure, ConfusionMatrices, FirstLayerFilters, ShowBatch
from covid_xray.training.callbacks.throughput import Throughput
from covid_xray.training.curves_logger import CurvesLogger, SaveCurves
from covid_xray.training.loggers import (
    HyperParameters,
    LoggerFactory,
    close_loggers,
    create_loggers,
    first_step,
    log_finish,
    log_start,
    open_loggers,
    tensorboard_logger,
)
from covid_xray.training.mixing import Mixing
from covid_xray.training.module import OptimizerFactory, XrayClassifier
from covid_xray.training.trainer import build_trainer, needed_callbacks

# Groups of settings that are no hyperparameters.
NO_HYPERPARAMETERS = ("logger", "callbacks", "sweep", "hydra", "name")
# Adam with decoupled weight decay on every parameter, as in the article; rates and beta1 come from the schedule.
ADAMW: OptimizerFactory = partial(torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01, fused=True)


def fit(
    network: nn.Module,
    data: XrayDataModule,
    folder: str | Path,
    *,
    seed: int = 0,
    select: str = "best",
    optimizer: OptimizerFactory = ADAMW,
    callbacks: Sequence[Callback] | None = None,
    logger: LoggerFactory | Sequence[LoggerFactory] | None = tensorboard_logger,
    trainer: Mapping[str, Any] | None = None,
    every_minutes: float | None = None,
    resume: str = "auto",
    allow_leakage: bool = False,
    deterministic: bool = False,
    compile_mode: str | None = None,
    mask_centre: float | None = None,
    loss: nn.Module | None = None,
    mixing: Mixing | None = None,
    averaging: WeightAverage | None = None,
    adversary: SourceAdversary | None = None,
) -> Run:
    """Train a network through all phases of the data's schedule, and test it.

    The callbacks and Trainer settings that the schedule and exact resume need are set here. A run that was stopped or
    killed continues with the same call, and ends with the same weights to the last bit.

    Args:
        network: A network as `covid_xray.networks.create.create_network` makes it, or one that satisfies
            `covid_xray.networks.layer_groups.LayeredNetwork`.
        data: The data, with the schedule.
        folder: The run folder.
        seed: Seed of dropout, per step.
        select: Which weights are tested: ``best`` (lowest validation loss at the last size) or ``last``.
        optimizer: Makes the optimiser from parameter groups.
        callbacks: Further callbacks; None for console output, speed and figures.
        logger: Makes a logger of Lightning, called with ``save_dir``; or several of these. None: no logger.
            The scalars are in ``curves.csv`` in any case.
        trainer: Further arguments of `lightning.Trainer`, such as ``accelerator``.
        every_minutes: Also save within epochs after this time.
        resume: ``auto`` (continue the run in the folder) or ``never`` (remove it and start again).
        allow_leakage: Whether to go on if the data leaks between splits; the results are marked as leaked.
        deterministic: Whether to refuse operations that are not reproducible on GPUs.
        compile_mode: See `XrayClassifier`.
        mask_centre: See `XrayClassifier`.
        loss: Loss of the training, such as ``FocalLoss(data.class_counts())``; None: the plain cross-entropy.
        mixing: See `covid_xray.training.mixing`.
        averaging: Makes the run keep, validate and test an average of the weights; None: the weights.
        adversary: Such as ``SourceAdversary(network, data.group_counts())``, from which the network hides the source.

    Returns:
        The finished run.

    Raises:
        UserError: If a setting does not fit, the data leaks, or the folder holds another run.
        TrainingStopped: If a stop signal came; the state is saved.
    """
    settings = dict(trainer or {})
    config: Config = {
        "name": Path(folder).name,
        "seed": seed,
        "model": getattr(network, "config", {"_target_": f"{type(network).__module__}.{type(network).__qualname__}"}),
        "data": data.records.attrs.get("reader"),
        "crop": data.records.attrs.get("crop"),
        "schedule": {"_target_": "covid_xray.schedule.Schedule", **asdict(data.schedule)},
        "augment": _augment_config(data.augment),
        "optimizer": _partial_config(optimizer),
        "datamodule": {
            "normalization": data.normalization,
            "num_workers": data.num_workers,
            "cache": None if data.cache is None else str(data.cache),
            "audit_cache": data.audit_cache,
        },
        "trainer": settings,
        "checkpoint": {"select": select, "every_minutes": every_minutes},
        "allow_leakage": allow_leakage,
        "deterministic": deterministic,
        "compile": compile_mode,
        "mask_centre": mask_centre,
        "loss": _object_config(loss),
        "sampler": _object_config(data.sampler),
        "mixing": None if mixing is None else repr(mixing),
        "averaging": _object_config(averaging),
        "adversary": _object_config(adversary),
    }
    config = json.loads(json.dumps(config))  # tuples become lists, as in YAML
    data.prepare_data()
    data.setup()
    others = default_callbacks() if callbacks is None else callbacks
    module = XrayClassifier(
        network,
        data.schedule,
        data.class_names,
        optimizer,
        *data.statistics(network),
        compile_mode,
        mask_centre,
        loss,
        mixing,
        adversary,
    )
    train(
        module,
        data,
        RunFolder(Path(folder)),
        config,
        callbacks=others if averaging is None else [averaging, *others],
        logger=logger,
        resume=resume,
        hyper_parameters=hyper_parameters(config),
    )
    return load_run(folder, network=network)


def hyper_parameters(
    config: Mapping[str, Any], choices: Mapping[str, str] | None = None, changed: Sequence[str] = ()
) -> HyperParameters:
    """Everything that may change a run's result, under flat names, none of them None.

    A name has the same type in all runs: TensorBoard shows no run at all where it compares a number with text. So
    settings that may be either are text; `covid_xray.training.loggers.log_start` adds each phase's peak rate.

    Args:
        config: The configuration.
        choices: Chosen option by config group.
        changed: Names of the settings that the user changed.
    """
    settings: dict[str, bool | float | str] = dict(choices or {})
    for key, value in flatten(config).items():
        if not changes_nothing(key) and key.split(".")[0] not in NO_HYPERPARAMETERS:
            text = key.startswith("trainer.") or key.endswith(".max_lr") or key in ("split.folds", "mask_centre")
            settings[key] = str(value) if text else value
    return HyperParameters(settings, changed)


def default_callbacks() -> list[Callback]:
    """Console output, speed, and pictures for the loggers."""
    return [Throughput(), ShowBatch(), FirstLayerFilters(), ConfusionMatrices(), ConsoleProgress()]


def train(
    module: XrayClassifier,
    data: XrayDataModule,
    folder: RunFolder,
    config: Config,
    *,
    callbacks: Sequence[Callback] = (),
    logger: LoggerFactory | Sequence[LoggerFactory] | None = None,
    resume: str = "auto",
    hyper_parameters: HyperParameters | None = None,
    trainer_settings: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train, test, and write everything into the run folder: what `fit` and the command ``train`` share.

    Args:
        module: The classifier.
        data: The data, set up.
        folder: The run folder.
        config: The configuration, plain types, written as ``config.yaml``.
        callbacks: Callbacks besides the needed ones.
        logger: Makes a logger, or several of these.
        resume: ``auto`` or ``never``.
        hyper_parameters: For the loggers; None: empty.
        trainer_settings: Arguments of the Trainer, if they differ from ``config["trainer"]`` for this job.

    Returns:
        The final metrics, as in ``metrics.json``.

    Raises:
        UserError: If a setting does not fit, the data leaks, or the folder holds another run.
        TrainingStopped: If a stop signal came; the state is saved.
    """
    if resume not in ("auto", "never"):
        raise UserError(f"resume must be auto or never, not {resume!r}")
    checkpoint_settings = config["checkpoint"]
    if checkpoint_settings["select"] not in ("best", "last"):
        raise UserError(f"checkpoint.select must be best or last, not {checkpoint_settings['select']!r}")
    if not isinstance(config["deterministic"], bool):
        raise UserError(f"deterministic must be true or false, not {config['deterministic']!r}")
    if not config["allow_leakage"]:
        data.audit.raise_for_leaks()
    resume_from = resume_point(folder.last) if resume == "auto" else None
    if resume_from not in (None, folder.last) and is_main_process():
        print(f"{folder.last} is damaged or missing, so the run continues from {resume_from}, the checkpoint before it")
    checkpoint = RunCheckpoint(folder.last, folder.best, checkpoint_settings["every_minutes"])
    created, curves = create_loggers(logger, folder.path, resume_from), CurvesLogger(folder.curves)
    # Before the run folder is written, so that a wrong setting leaves no run behind.
    trainer = build_trainer(
        config["trainer"] if trainer_settings is None else trainer_settings,
        folder.path,
        needed_callbacks([*callbacks, AuditFigure(), SaveCurves(curves)], config["seed"], checkpoint),
        [*created, curves],
        module.schedule.epochs,
        config["deterministic"],
    )
    module.schedule.check(module.group_names, trainer.world_size)  # before other processes are started
    threads = torch.get_num_threads() if trainer.strategy.root_device.type == "cpu" else None
    session = folder.session(config, resume == "never", threads) if is_main_process() else contextlib.nullcontext()
    # What ends the session may be interrupted by dead workers, too.
    with checkpoint.worker_failures(), session, resource_errors(folder.path), checkpoint.signals(), _closing(created):
        if is_main_process():
            folder.write_splits(data.splits_csv())
        if trainer.is_global_zero:
            first = first_step(resume_from)
            open_loggers(created, folder.log_id(), folder.path.absolute().name, first, curves.begin(first))
            yaml, settings = folder.config.read_text(encoding="utf-8"), hyper_parameters or HyperParameters()
            log_start(created, yaml, settings, data, module, continues=resume_from is not None)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
        except Exception as error:
            if config["compile"] and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = " ".join(str(error).partition("Set TORCHDYNAMO")[0].split())[:300]
                raise UserError(
                    f"compile={config['compile']}: torch cannot compile here ({reason}); use compile=null"
                ) from None
            raise
        if (done := trainer.current_epoch) < module.schedule.epochs:
            raise UserError(
                f"training ended after {done} of {module.schedule.epochs} epochs, so the run is not finished: a "
                f"callback set trainer.should_stop; remove it, and continue with the same command"
            )
        return _test(trainer, module, data, folder, checkpoint, curves, checkpoint_settings["select"])


@contextlib.contextmanager
def _closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close the loggers at the end of the block."""
    try:
        yield
    except BaseException:
        close_loggers(loggers, failed=True)
        raise
    close_loggers(loggers)


def _test(
    trainer: Trainer,
    module: XrayClassifier,
    data: XrayDataModule,
    folder: RunFolder,
    checkpoint: RunCheckpoint,
    curves: CurvesLogger,
    select: str,
) -> dict[str, float]:
    """Test the selected weights on every test set, and write ``metrics.json``."""
    metrics = dict(checkpoint.best if select == "best" else checkpoint.last)
    chosen = folder.checkpoint(select)
    if reason := damage(chosen):
        raise UserError(f"{chosen} cannot be used ({reason}); restore it, or start again with resume=never")
    trainer.test(module, datamodule=data, ckpt_path=chosen, verbose=False, weights_only=True)
    tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
    sets = data.test_sets()
    metrics |= {name: value for name, value in tested.items() if name.partition("/")[0] in sets}
    metrics["leaks"] = float(len(data.audit.leaks()))
    if trainer.is_global_zero:
        log_finish(trainer.loggers, metrics, trainer.global_step)
        curves.write()
        counts = {}
        for split, table in {"val": data.subset("val"), **sets}.items():
            of_class = table["label"].value_counts().sort_index()
            counts[f"{split}/images"] = float(of_class.sum())
            counts |= {f"{split}/images/{name}": float(count) for name, count in of_class.items()}
        # JSON has no NaN: a metric that is not defined, such as the recall of a class without images, is left out.
        defined = {name: value for name, value in (metrics | counts).items() if math.isfinite(value)}
        write_atomically(folder.metrics, json.dumps(defined, indent=2, allow_nan=False) + "\n")
    return metrics


def _augment_config(augment: Augmentation) -> Config:
    """An augmentation as ``config.yaml`` has it."""
    transforms = []
    for transform in augment.transforms:
        names = [name for name in inspect.signature(type(transform).__init__).parameters if name != "self"]
        settings = {name: getattr(transform, name) for name in names}
        transforms.append({"_target_": f"{type(transform).__module__}.{type(transform).__qualname__}", **settings})
    return {"_target_": "covid_xray.data.augmentation.Augmentation", "transforms": transforms}


def _object_config(value: Any) -> Config | None:
    """An object as ``config.yaml`` has it: its class and its plain settings."""
    if value is None:
        return None
    plain = {key: item for key, item in vars(value).items() if isinstance(item, bool | int | float | str)}
    weight = getattr(value, "weight", None)
    weights = {} if weight is None else {"weight": weight.tolist()}
    return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **plain, **weights}


def _partial_config(factory: Any) -> Config:
    """A factory, with the arguments that `functools.partial` bound, as ``config.yaml`` has it."""
    target = getattr(factory, "func", factory)
    return {"_target_": f"{target.__module__}.{target.__qualname__}", **getattr(factory, "keywords", {})}
