"""From a composed configuration to the project's objects."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.schedule import Schedule

if TYPE_CHECKING:
    from lightning import Callback, Trainer

    from covid_xray.data.datamodule import XrayDataModule
    from covid_xray.training.module import XrayClassifier


def make(cfg: DictConfig, group: str, **objects: Any) -> Any:
    """Call the ``_target_`` of a config group with its settings and with objects that YAML cannot hold.

    Raises:
        UserError: If the group's settings are not those that its target takes.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg[group])):
        raise UserError(f"{group}.{missing[0]} must be given: add {group}.{missing[0]}=... to the command")
    factory = instantiate(cfg[group], _partial_=True, _convert_="all")
    try:
        inspect.signature(factory).bind(**objects)
    except (TypeError, ValueError) as error:  # a ValueError where the settings alone do not fit, from a TypeError
        reason = error.__cause__ or error.__context__ or error
        raise UserError(f"{group}: {reason}; see its settings with --cfg job --package {group}") from None
    return factory(**objects)


def build_schedule(cfg: DictConfig) -> Schedule:
    """The schedule, checked; quick, so that its mistakes are told before torch is imported."""
    schedule: Schedule = make(cfg, "schedule")
    return schedule


def build_data(cfg: DictConfig, schedule: Schedule) -> "XrayDataModule":
    """Images, split, with augmentation."""
    augment = make(cfg, "augment")
    data: XrayDataModule = make(cfg, "data", schedule=schedule, augment=augment, seed=cfg.seed)
    return data


def build_module(
    cfg: DictConfig, schedule: Schedule, data: "XrayDataModule", pretrained: bool = True
) -> "XrayClassifier":
    """Network, loss and optimiser.

    Args:
        cfg: Composed configuration.
        schedule: The schedule.
        data: Gives class names and pixel statistics.
        pretrained: Whether to load pretrained weights; not needed where a checkpoint is loaded afterwards.
    """
    import lightning

    from covid_xray.training.module import XrayClassifier

    lightning.seed_everything(cfg.seed, verbose=False)
    model = cfg if pretrained else OmegaConf.merge(cfg, {"model": {"weights": None}})
    assert isinstance(model, DictConfig)
    mean, std = data.statistics()
    return XrayClassifier(
        network=make(model, "model", num_classes=len(data.class_names)),
        schedule=schedule,
        class_names=data.class_names,
        optimizer=instantiate(cfg.optimizer, _partial_=True, _convert_="all"),
        mean=mean,
        std=std,
        compile_mode=cfg.compile,
    )


def build_trainer(cfg: DictConfig, run_dir: Path, callbacks: "list[Callback]", logger: Any, epochs: int) -> "Trainer":
    """Lightning's Trainer, with what the project relies on set firmly.

    ``precision: auto`` becomes bf16 mixed precision where the hardware computes in it, else float32.
    """
    import logging
    import warnings

    from covid_xray.hardware import accelerator, best_precision

    # Lightning repeats on several lines what the command says in one, and calls functions that torch deprecated.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Our batch sampler begins where a resumed epoch stopped; Lightning only knows loaders with a state.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    if settings.get("precision") == "auto":
        device = settings["accelerator"]
        settings["precision"] = best_precision(accelerator() if device == "auto" else device)
    objects: dict[str, Any] = {"callbacks": callbacks, "logger": logger}
    if isinstance(settings.get("profiler"), str):
        objects["profiler"] = _profiler(settings.pop("profiler"), run_dir)
    fixed = {
        "max_epochs": epochs,
        "deterministic": cfg.deterministic,
        "default_root_dir": str(run_dir),
        "reload_dataloaders_every_n_epochs": 1,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(type(callback).__name__ == "RunCheckpoint" for callback in callbacks),
    }
    if taken := [key for key in fixed if key in settings]:
        raise UserError(f"trainer.{taken[0]} is set by the project and cannot be changed")
    node = OmegaConf.create({"trainer": settings})
    try:
        trainer: Trainer = make(node, "trainer", **objects, **fixed)
    except (ValueError, RuntimeError) as error:  # Lightning's MisconfigurationException is a plain Exception
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from error
    return trainer


def _profiler(name: str, run_dir: Path) -> Any:
    """One of Lightning's profilers, which writes ``fit-profile.txt`` into the run folder."""
    from lightning.pytorch import profilers

    kinds = {
        "simple": profilers.SimpleProfiler,
        "advanced": profilers.AdvancedProfiler,
        "pytorch": profilers.PyTorchProfiler,
    }
    if name not in kinds:
        raise UserError(f"trainer.profiler must be one of {', '.join(kinds)}, or null, not {name!r}")
    return kinds[name](dirpath=run_dir, filename="profile")


def build_callbacks(cfg: DictConfig) -> "list[Callback]":
    """Callbacks of the config group, in order; an entry set to null is left out."""
    return [instantiate(node, _convert_="all") for node in (cfg.callbacks or {}).values() if node is not None]
