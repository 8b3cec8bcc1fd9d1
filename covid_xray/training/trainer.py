"""Lightning's Trainer with the settings and callbacks that the schedule and exact resume need."""

import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import profilers
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from covid_xray.errors import UserError
from covid_xray.hardware import accelerator, best_precision
from covid_xray.training.callbacks.checkpoint import RunCheckpoint
from covid_xray.training.callbacks.freezing import PhaseFreezing
from covid_xray.training.callbacks.log_interval import LogInterval
from covid_xray.training.callbacks.one_cycle import OneCycle
from covid_xray.training.callbacks.resizing import ProgressiveResizing
from covid_xray.training.callbacks.seeding import StepSeeding

PROFILERS = {
    "simple": profilers.SimpleProfiler,
    "advanced": profilers.AdvancedProfiler,
    "pytorch": profilers.PyTorchProfiler,
}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

# docs/trainer_settings.md lists all arguments of the Trainer; a test compares it with these.
# Arguments that the project sets, and what to use instead.
FIXED_SETTINGS = {
    "max_epochs": "set epochs in the phases of the schedule",
    "deterministic": "use deterministic=true",
    "default_root_dir": "use run_dir",
    "callbacks": "use the config group callbacks",
    "logger": "use the config group logger",
    "reload_dataloaders_every_n_epochs": "the schedule needs new loaders in every epoch",
    "use_distributed_sampler": "the data divide each batch among the processes",
    "num_sanity_val_steps": "validation follows every epoch",
    "enable_progress_bar": "use callbacks.console",
    "enable_model_summary": "add the callback lightning.pytorch.callbacks.ModelSummary",
    "enable_checkpointing": "every epoch is saved",
}
_LENGTH = "the schedule sets the length of the training"
_IMAGES = "an epoch has all images of a split"
_VALIDATION = "validation follows every epoch"
# Arguments that would cut the schedule or change what a step is.
REFUSED_SETTINGS = {
    **dict.fromkeys(("max_time", "max_steps", "min_steps", "min_epochs", "fast_dev_run"), _LENGTH),
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches"), _IMAGES),
    **dict.fromkeys(("limit_predict_batches", "overfit_batches"), _IMAGES),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), _VALIDATION),
    "accumulate_grad_batches": "batch_size is that of an optimiser step; set accumulate in the phases of the schedule",
    "barebones": "it switches checkpoints and logs off",
}
_SCHEDULE = "would change the schedule, which sets the length, the rates and the frozen layer groups of the training"
_WEIGHTS = "would test other weights than those that the checkpoints hold; use averaging=ema instead"
# Callbacks that do not work here, and why.
REFUSED_CALLBACKS: dict[type[Callback], str] = {
    lightning_callbacks.EarlyStopping: _SCHEDULE,
    lightning_callbacks.Timer: _SCHEDULE,
    lightning_callbacks.GradientAccumulationScheduler: _SCHEDULE,
    lightning_callbacks.BaseFinetuning: _SCHEDULE,
    lightning_callbacks.BatchSizeFinder: _SCHEDULE,
    lightning_callbacks.LearningRateFinder: _SCHEDULE,
    lightning_callbacks.StochasticWeightAveraging: _WEIGHTS,
    lightning_callbacks.WeightAveraging: _WEIGHTS,
    lightning_callbacks.ModelPruning: "would rename the weights, so that no command could load them",
}


def needed_callbacks(callbacks: Sequence[Callback], seed: int, checkpoint: RunCheckpoint | None) -> list[Callback]:
    """The callbacks, and before them the ones that the schedule needs and that are missing.

    Args:
        callbacks: Callbacks in order.
        seed: Seed of the run, for `StepSeeding`.
        checkpoint: Added at the end; None: no checkpoints.
    """
    needed: dict[type[Callback], Callback] = {
        StepSeeding: StepSeeding(seed),
        PhaseFreezing: PhaseFreezing(),
        ProgressiveResizing: ProgressiveResizing(),
        OneCycle: OneCycle(),
    }
    missing = [new for kind, new in needed.items() if not any(isinstance(given, kind) for given in callbacks)]
    return [*missing, *callbacks, *([checkpoint] if checkpoint else [])]


def build_trainer(
    settings: Mapping[str, Any],
    folder: Path,
    callbacks: Sequence[Callback],
    logger: Any,
    epochs: int,
    deterministic: bool = False,
) -> Trainer:
    """Make the Trainer.

    Args:
        settings: Arguments of `lightning.Trainer`. ``precision="auto"`` becomes bf16 mixed precision where the hardware
            computes in bfloat16, else float32. ``log_every_n_steps=None`` is chosen by `LogInterval`. ``profiler`` is a
            name in `PROFILERS`; it writes into the folder.
        folder: The run folder.
        callbacks: Callbacks in order; see `needed_callbacks`.
        logger: Lightning's logger, or False.
        epochs: Epochs of the schedule.
        deterministic: Whether to refuse operations that are not reproducible on GPUs.

    Raises:
        UserError: If a setting is unknown, out of range, or set by the project.
    """
    # Lightning repeats on several lines what the console callback prints in one, and calls deprecated functions.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Our batch sampler starts where a resumed epoch stopped; Lightning only knows loaders with a state.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # CSVLogger says this of every run folder; `continue_log` keeps the rows.
    warnings.filterwarnings("ignore", message=".*Previous log files in this directory will be deleted.*")
    given: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "precision": "auto",
        "log_every_n_steps": None,
        **settings,
    }
    pace = LogInterval(given["log_every_n_steps"])
    given["log_every_n_steps"] = 1 if pace.given is None else pace.given
    if given["precision"] == "auto":
        device = given["accelerator"]
        given["precision"] = best_precision(accelerator() if device == "auto" else device)
    if isinstance(name := given.get("profiler"), str):
        if name not in PROFILERS:
            raise UserError(f"trainer.profiler must be one of {', '.join(PROFILERS)}, or null, not {name!r}")
        given["profiler"] = PROFILERS[name](dirpath=folder, filename="profile")
    fixed: dict[str, Any] = {
        "max_epochs": epochs,
        "deterministic": deterministic,
        "default_root_dir": str(folder),
        "reload_dataloaders_every_n_epochs": 1,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, RunCheckpoint) for callback in callbacks),
        "callbacks": [*callbacks, pace],
        "logger": logger,
    }
    for key, instead in FIXED_SETTINGS.items():
        if key in given:
            raise UserError(f"trainer.{key} is set by the project and cannot be changed: {instead}")
    defaults = inspect.signature(Trainer).parameters
    for key, reason in REFUSED_SETTINGS.items():
        if given.get(key) is not None and given[key] != defaults[key].default:
            raise UserError(f"trainer.{key}={given[key]} would change the schedule: {reason}; remove trainer.{key}")
    for callback in callbacks:
        for kind, reason in REFUSED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise UserError(f"the callback {type(callback).__name__} {reason}; remove it from callbacks")
    try:
        trainer = Trainer(**given, **fixed)
    except Exception as error:  # Lightning's MisconfigurationException is a plain Exception
        if not isinstance(error, TypeError | ValueError | RuntimeError) and "Misconfig" not in type(error).__name__:
            raise
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from error
    _check(trainer)
    return trainer


def _check(trainer: Trainer) -> None:
    """Refuse weights that are not float32, and strategies that divide the weights or cannot freeze groups."""
    if trainer.precision not in PRECISIONS:
        raise UserError(f"trainer.precision must be auto, {', '.join(PRECISIONS)}, not {trainer.precision!r}")
    strategy = trainer.strategy
    if isinstance(strategy, SingleDeviceStrategy):
        return
    if not isinstance(strategy, DDPStrategy) or not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise UserError(
            f"several processes with {type(strategy).__name__} cannot train phases with frozen layer groups; use "
            f"trainer=ddp (trainer.strategy=ddp_find_unused_parameters_true)"
        )
