"""Find a learning rate: raise it step by step, plot the loss, print two suggestions; the weights are not kept."""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from covid_xray.commands._build import build_data, build_loggers, build_module, build_schedule, resolve
from covid_xray.errors import UserError
from covid_xray.files import write_atomically
from covid_xray.imports import quick_imports
from covid_xray.runs.config import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from covid_xray.data.datamodule import XrayDataModule
    from covid_xray.training.callbacks.lr_finder import RateCurve, RateFinder
    from covid_xray.training.loggers import LoggerFactory
    from covid_xray.training.module import XrayClassifier


def run(cfg: DictConfig) -> None:
    """Raise the rate in one phase of the schedule, with that phase's frozen layer groups."""
    config = resolve(cfg)
    schedule = build_schedule(config)
    name = config["phase"] or next(iter(schedule.phases))
    if name not in schedule.phases:
        raise UserError(f"phase={name!r} is not in the schedule; use one of {', '.join(schedule.phases)}")
    # As many epochs as the steps may need, for any number of batches in an epoch.
    phase = replace(schedule.phases[name], epochs=config["steps"])
    with quick_imports():
        from covid_xray.plots.classification import figure_png
        from covid_xray.training.callbacks.lr_finder import RateFinder
    finder = RateFinder(config["start_lr"], config["end_lr"], config["steps"])
    folder, factories = Path(HydraConfig.get().runtime.output_dir), build_loggers(config)
    data = build_data(config, replace(schedule, phases={name: phase}))
    checkpoint = config["checkpoint_path"]
    module = build_module(config, data, pretrained=checkpoint is None)
    if checkpoint is not None:
        _load(module, Path(checkpoint))
    _sweep(config, folder, data, module, finder)
    curve = finder.curve
    figure = curve.figure(f"{name}, {phase.image_size} px, trains {phase.trains}")
    write_atomically(folder / "find_lr.png", figure_png(figure))
    _log(factories, folder, curve, figure)
    print(f"{name}: {len(curve.losses)} steps from {curve.rates[0]:.1e} to {curve.rates[-1]:.1e}")
    print(f"Steepest descent: {curve.steepest():.2e}")
    print(f"Minimum / 10:     {curve.minimum_tenth():.2e}")
    print(f"Curve: {folder / 'find_lr.png'}")


def _sweep(
    config: Config, folder: Path, data: "XrayDataModule", module: "XrayClassifier", finder: "RateFinder"
) -> None:
    from covid_xray.training.callbacks.freezing import PhaseFreezing
    from covid_xray.training.callbacks.seeding import StepSeeding
    from covid_xray.training.trainer import build_trainer

    callbacks = [StepSeeding(config["seed"]), PhaseFreezing(), finder]
    trainer = build_trainer(
        config["trainer"], folder, callbacks, False, module.schedule.epochs, config["deterministic"]
    )
    trainer.limit_val_batches = 0
    trainer.fit(module, datamodule=data)


def _log(factories: "list[LoggerFactory]", folder: Path, curve: "RateCurve", figure: "Figure") -> None:
    from covid_xray.training.callbacks.lr_finder import log_curve
    from covid_xray.training.loggers import close_loggers, create_loggers, open_loggers

    loggers = create_loggers(factories, folder)
    open_loggers(loggers, uuid.uuid4().hex[:16], folder.name)  # a new run for loggers that keep many
    log_curve(loggers, curve, figure)
    for logger in loggers:
        logger.finalize("success")
    close_loggers(loggers)


def _load(module: "XrayClassifier", path: Path) -> None:
    from covid_xray.networks.weights import read_state_dict

    try:
        module.load_weights(read_state_dict(path))
    except RuntimeError as error:
        raise UserError(
            f"checkpoint_path={path} does not fit this model ({str(error).splitlines()[-1].strip()})"
        ) from None
