"""From a composed configuration to the package's objects: what `train`, `find-lr` and `audit` share."""

from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError
from covid_xray.runs.config import Config, build, checkpoint_of
from covid_xray.schedule import Schedule

if TYPE_CHECKING:
    import pandas as pd
    from lightning import Callback

    from covid_xray.data.cache import Images
    from covid_xray.data.datamodule import XrayDataModule
    from covid_xray.training.loggers import LoggerFactory
    from covid_xray.training.module import XrayClassifier

NEEDED_CALLBACKS = ("freezing", "resizing", "one_cycle", "seeding", "checkpoint")


def resolve(cfg: DictConfig, *groups: str) -> Config:
    """The configuration as plain types.

    Args:
        cfg: The composed configuration.
        *groups: Groups in which a value must not be missing; none: all.

    Raises:
        UserError: Naming a value that the user must give.
    """
    for group in groups or [str(key) for key in cfg]:
        node = cfg.get(group) if not OmegaConf.is_missing(cfg, group) else None
        missing = sorted(OmegaConf.missing_keys(node)) if OmegaConf.is_config(node) else []
        if missing:
            raise UserError(f"{group}.{missing[0]} must be given: add {group}.{missing[0]}=... to the command")
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return {str(key): value for key, value in config.items()}


def build_schedule(config: Config) -> Schedule:
    """The schedule, checked; fast, so that its mistakes are reported before torch is imported."""
    schedule: Schedule = build(config, "schedule")
    return schedule


def build_records(config: Config, need_images: bool = True) -> "pd.DataFrame":
    """The table of images.

    Args:
        config: The configuration.
        need_images: Whether the command opens the images.

    Raises:
        UserError: If the table is empty, or lists images that need not exist and the command opens them.
    """
    if need_images and config["data"].get("images") is False:
        raise UserError("data.images=false is for audit only, because the other commands open the images; leave it out")
    records: pd.DataFrame = build(config, "data")
    if records.empty:
        raise UserError("data: the data set is empty")
    if config.get("crop"):
        from covid_xray.data.crop import crop_records

        return crop_records(records, build(config, "crop"))
    return records


def split_records(config: Config, records: "pd.DataFrame", images: "Images | None") -> "pd.DataFrame":
    """The records with their splits, which depend on ``split.seed``, or on the seed of the run if that is null."""
    settings = dict(config["split"])
    seed = settings.pop("seed", None)
    found: pd.DataFrame = build(
        {"split": settings}, "split", records=records, images=images, seed=config["seed"] if seed is None else seed
    )
    return found


def build_data(config: Config, schedule: Schedule) -> "XrayDataModule":
    """Read, split and audit the images."""
    from covid_xray.data.cache import read_images
    from covid_xray.data.datamodule import XrayDataModule, cache_folder

    augment, settings = build(config, "augment"), dict(config["datamodule"])
    records = build_records(config)
    files, cache = records["file"].tolist(), cache_folder(settings["cache"])
    images = read_images(files, settings["audit_cache"], cache, schedule.max_image_size)
    records = split_records(config, records, images)
    sampler = build(config, "sampler")
    data = XrayDataModule(records, schedule, augment, seed=config["seed"], sampler=sampler, images=images, **settings)
    data.setup()
    return data


def build_module(config: Config, data: "XrayDataModule", pretrained: bool = True) -> "XrayClassifier":
    """Network and optimiser.

    Args:
        config: The configuration.
        data: Gives schedule, class names and pixel statistics.
        pretrained: Whether to load pretrained weights; not needed where a checkpoint is loaded afterwards.
    """
    import lightning

    from covid_xray.networks.weights import load_weights
    from covid_xray.training.module import XrayClassifier

    lightning.seed_everything(config["seed"], verbose=False)
    network = build(config, "model", num_classes=data.num_classes)
    if pretrained and config["weights"] is not None:
        load_weights(network, checkpoint_of(str(config["weights"])), data.class_names)
    mean, std = data.statistics(network)
    return XrayClassifier(
        network,
        data.schedule,
        data.class_names,
        _factory(config["optimizer"], "optimizer"),
        mean=mean,
        std=std,
        compile_mode=config["compile"],
        mask_centre=config["mask_centre"],
        loss=build(config, "loss", {"class_counts": data.class_counts, "group_counts": data.group_counts}),
        mixing=build(config, "mixing", num_classes=data.num_classes) if config.get("mixing") else None,
        adversary=build(config, "adversary", network=network, group_counts=data.group_counts())
        if config.get("adversary")
        else None,
    )


def build_callbacks(config: Config) -> "list[Callback]":
    """Weight averaging and the callbacks of the config group, in order; an entry set to null is left out.

    Raises:
        UserError: If a callback that the schedule needs is set to null.
    """
    callbacks = config.get("callbacks") or {}
    for name in NEEDED_CALLBACKS:
        if name in callbacks and callbacks[name] is None:
            raise UserError(f"callbacks.{name}=null: the schedule needs this callback; leave it in")
    averaging = [build(config, "averaging")] if config.get("averaging") else []
    return averaging + [build(callbacks, name) for name, node in callbacks.items() if node is not None]


def build_loggers(config: Config) -> "list[LoggerFactory]":
    """What makes each of the configured loggers from ``save_dir``.

    Raises:
        UserError: If a logger's code, or a package that it needs, is missing.
    """
    loggers = config.get("logger") or {}
    if not isinstance(loggers, dict):
        raise UserError(f"logger must be a mapping of a name to each logger, not {loggers!r}; use logger=[NAME,...]")
    return [_factory(node, f"logger.{name}") for name, node in loggers.items() if node is not None]


def _factory(node: Any, group: str) -> Any:
    """The target of a node with its settings bound, to be called with further arguments."""
    try:
        return partial(resolve_name(node["_target_"]), **{key: node[key] for key in node if key != "_target_"})
    except UserError:  # of a module that needs a package
        raise
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{group} must be a mapping with a _target_ that can be imported ({error})") from None
