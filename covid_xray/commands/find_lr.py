"""Find a learning rate: raise it step by step, draw the loss, print two suggestions; nothing is trained for keeps."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from covid_xray.commands.build import build_data, build_module, build_schedule, build_trainer, make
from covid_xray.errors import UserError
from covid_xray.files import write_atomically
from covid_xray.schedule import Schedule

if TYPE_CHECKING:
    from covid_xray.training.module import XrayClassifier


def run(cfg: DictConfig) -> None:
    """Sweep the rate in one phase of the schedule, frozen or not as the phase says."""
    schedule = build_schedule(cfg)
    name = cfg.phase or next(iter(schedule.phases))
    if name not in schedule.phases:
        raise UserError(f"phase={name!r} is not in the schedule; use one of {', '.join(schedule.phases)}")
    # As many epochs as the steps may need, however few batches an epoch has.
    phase = replace(schedule.phases[name], epochs=cfg.steps)
    single = replace(schedule, phases={name: phase})
    folder = Path(HydraConfig.get().runtime.output_dir)
    data = build_data(cfg, single)
    module = build_module(cfg, single, data, pretrained=cfg.checkpoint_path is None)
    if cfg.checkpoint_path is not None:
        _load(module, Path(cfg.checkpoint_path))
    sweep = _sweep(cfg, folder, single, data, module)
    from covid_xray.plots.classification import figure_png

    figure = sweep.figure(f"{name}, {phase.image_size} px, trains {phase.trains}")
    write_atomically(folder / "find_lr.png", figure_png(figure))
    if cfg.logger is not None:
        from covid_xray.training.callbacks.lr_finder import write_tensorboard

        logger = make(cfg, "logger", save_dir=str(folder))
        write_tensorboard(logger, sweep, figure)
        logger.finalize("success")
    print(f"{name}: {len(sweep.losses)} steps from {sweep.rates[0]:.1e} to {sweep.rates[-1]:.1e}")
    print(f"Steepest descent: {sweep.steepest():.2e}")
    print(f"Minimum / 10:     {sweep.minimum_tenth():.2e}")
    print(f"Curve: {folder / 'find_lr.png'}")


def _sweep(cfg: DictConfig, folder: Path, schedule: Schedule, data: Any, module: "XrayClassifier") -> Any:
    from covid_xray.training.callbacks.freezing import PhaseFreezing
    from covid_xray.training.callbacks.lr_finder import RateFinder
    from covid_xray.training.callbacks.seeding import StepSeeding

    finder = RateFinder(cfg.start_lr, cfg.end_lr, cfg.steps)
    trainer = build_trainer(
        cfg, folder, [StepSeeding(cfg.seed), PhaseFreezing(), finder], logger=False, epochs=schedule.epochs
    )
    trainer.limit_val_batches = 0
    trainer.fit(module, datamodule=data)
    return finder.sweep


def _load(module: "XrayClassifier", path: Path) -> None:
    from covid_xray.networks.weights import read_state_dict

    try:
        module.load_state_dict(read_state_dict(path))
    except RuntimeError as error:
        raise UserError(
            f"checkpoint_path={path} does not fit this model ({str(error).splitlines()[-1].strip()})"
        ) from None
