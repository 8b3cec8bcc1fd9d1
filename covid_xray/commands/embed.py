"""Write the features of a run or a pretrained network for every image, with path, label and patient."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from covid_xray.commands._build import build_records, resolve
from covid_xray.errors import UserError
from covid_xray.imports import quick_imports
from covid_xray.runs.config import Config, build, check_run, checkpoint_of, select

if TYPE_CHECKING:
    from torch import nn

    from covid_xray.runs.load import Run


def run(cfg: DictConfig) -> None:
    """Compute the features and write them into one file."""
    _check(cfg)
    groups = [name for name in ("data", "model") if cfg.get(name) is not None]
    config = resolve(cfg, *(groups or ["run"]))
    records = build_records(config) if config.get("data") else None
    if config["run"] is not None:
        check_run(config["run"], config["checkpoint"], config["trust"])
    with quick_imports():
        from covid_xray.runs.embedding import check_ending, embed

    output = check_ending(Path(str(config["output"])))
    encoder, name = _encoder(config)
    features = embed(
        encoder,
        records,
        image_size=config["image_size"],
        batch_size=config["batch_size"],
        accelerator=config["accelerator"],
        threads=config["threads"],
        name=name,
    )
    features.write(output)
    count, dimensions = features.values.shape
    print(f"{count} images, {dimensions} features each, by {name}: {output}")
    if seen := int(features.table["seen"].sum()):
        print(f"{seen} of them were in the training or validation of the encoder; covid-xray probe leaves them out")


def _check(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "output") or cfg.output is None:
        raise UserError("output must be given: add output=FILE.npz or output=FILE.parquet to the command")
    if (cfg.run is None) == (cfg.get("model") is None):
        raise UserError("give either run=RUN_FOLDER, or model=... with weights=...")
    if OmegaConf.is_list(cfg.run):
        raise UserError("run must be one run folder or bundle: embed each run into a file of its own")
    if cfg.run is None and cfg.get("data") is None:
        raise UserError("data must be given with model=...: name the images, such as data=folder data.root=...")
    for key in ("batch_size", "threads", "image_size"):
        value = cfg[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{key} must be a whole number of at least 1, or null, not {value!r}")
    if cfg.batch_size is None:
        raise UserError("batch_size must be a whole number of at least 1, not null")


def _encoder(config: Config) -> "tuple[Run | nn.Module, str]":
    """The run or the network, and what it is called."""
    if config["run"] is not None:
        from covid_xray.runs.load import load_run

        path = Path(str(config["run"]))
        return load_run(path, config["checkpoint"], config["accelerator"], config["trust"]), path.resolve().name
    import torch

    from covid_xray.networks.weights import load_weights

    torch.manual_seed(config["seed"])
    network: nn.Module = build(config, "model", num_classes=2)
    weights = config["weights"]
    if weights is not None:
        load_weights(network, checkpoint_of(str(weights)))
    name = select(config, "model.architecture") or str(select(config, "model._target_")).rsplit(".", 1)[-1]
    return network, f"{name}, {'random weights' if weights is None else Path(str(weights)).name}"
