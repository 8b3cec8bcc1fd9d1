"""Compares schedule, layer groups, head and freezing with a record of fastai 2 (``experiments/parity``)."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from covid_xray.networks.heads import ConcatPool
from covid_xray.networks.layer_groups import freeze_for, parameter_groups
from covid_xray.networks.resnet import TransferResNet
from covid_xray.schedule import Schedule

REPOSITORY = Path(__file__).parent.parent
PARITY = REPOSITORY / "experiments" / "parity"
ROWS = list(csv.DictReader((PARITY / "schedule_fastai.csv").open()))
FASTAI: dict[str, Any] = json.loads((PARITY / "groups_fastai.json").read_text())
# Biases of the article's head (fastai 1); fastai 2 has none before a BatchNorm.
EXTRA_BIASES = {"head.3.bias", "head.7.bias"}


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    """The schedule that ``experiment=article`` uses."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "schedule" / "article.yaml"))
    assert settings.pop("_target_") == "covid_xray.schedule.Schedule"
    return Schedule(**settings)


@pytest.fixture
def network() -> TransferResNet:
    return TransferResNet(num_classes=3, architecture="resnet50")


def test_schedule_has_the_recorded_phases(schedule: Schedule) -> None:
    assert list(schedule.phases) == list(dict.fromkeys(row["phase"] for row in ROWS))


@pytest.mark.parametrize("name", ["frozen_small", "unfrozen_small", "frozen_large", "unfrozen_large"])
def test_rates_and_beta1_of_every_step(schedule: Schedule, name: str) -> None:
    rows = [row for row in ROWS if row["phase"] == name]
    epochs = [epoch for epoch in range(schedule.epochs) if schedule.at(epoch).name == name]
    batches, rest = divmod(len(rows), len(epochs))
    assert rest == 0
    for row in rows:
        epoch, batch = epochs[int(row["step"]) // batches], int(row["step"]) % batches
        progress = schedule.progress(epoch, batch, batches)
        ours = [*schedule.learning_rates(epoch, progress, n_groups=3), schedule.momentum(progress)]
        theirs = [float(row[column]) for column in ("lr_early", "lr_late", "lr_head", "beta1")]
        assert ours == pytest.approx(theirs, rel=1e-6, abs=0), f"step {row['step']}"


def test_layer_groups_hold_the_same_parameters(network: TransferResNet) -> None:
    names = {parameter: our_name(name) for name, parameter in network.named_parameters()}
    ours = {group["name"]: {names[p] for p in group["params"]} for group in parameter_groups(network.layer_groups())}
    theirs = {name: in_our_head(parameters) for name, parameters in FASTAI["groups"].items()}
    theirs["head"] |= EXTRA_BIASES
    assert list(ours) == list(theirs)
    assert ours == theirs


def test_head_has_the_same_layers(network: TransferResNet) -> None:
    pool, *theirs = [layer for layer in FASTAI["head"] if layer["type"] != "Flatten"]
    features = torch.rand(2, 8, 3, 3)
    parts = {"max": features.amax(dim=(2, 3)), "mean": features.mean(dim=(2, 3))}
    assert isinstance(network.head[0], ConcatPool)
    assert torch.equal(network.head[0](features), torch.cat([parts[name] for name in pool["order"]], dim=1))
    assert [describe(layer) for layer in network.head[1:]] == [
        without(layer, "bias", "initial_bias") for layer in theirs
    ]


def test_biases_of_the_head_are_zero_as_in_the_article(network: TransferResNet) -> None:
    biases = [layer.bias for layer in network.head if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
    assert all(bias is not None and not bias.any() for bias in biases)


@pytest.mark.parametrize("phase", ["frozen_small", "frozen_large"])
def test_frozen_phase_trains_what_fastai_trains(schedule: Schedule, network: TransferResNet, phase: str) -> None:
    freeze_for(schedule.phases[phase], network.layer_groups())
    theirs = {name: in_our_head(values) for name, values in FASTAI["frozen"].items()}
    parameters = {our_name(name): parameter for name, parameter in network.named_parameters()}
    assert {name for name, p in parameters.items() if p.requires_grad} == theirs["requires_grad"] | EXTRA_BIASES
    batch_norms = {our_name(name): m for name, m in network.named_modules() if isinstance(m, _BatchNorm)}
    assert {name for name, m in batch_norms.items() if m.training} == theirs["batch_norm_in_training_mode"]

    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(network.layer_groups()), lr=1e-3, weight_decay=0.01)
    loss = nn.functional.cross_entropy(network(torch.rand(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    changed = {our_name(name) for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed & set(parameters) == theirs["changed_by_a_step"] | EXTRA_BIASES
    assert {name for name in batch_norms if f"{name}.running_mean" in changed} == theirs["statistics_changed_by_a_step"]


@pytest.mark.parametrize("phase", ["unfrozen_small", "unfrozen_large"])
def test_unfrozen_phase_trains_everything(schedule: Schedule, network: TransferResNet, phase: str) -> None:
    freeze_for(schedule.phases["frozen_small"], network.layer_groups())
    freeze_for(schedule.phases[phase], network.layer_groups())
    assert all(parameter.requires_grad for parameter in network.parameters()) == FASTAI["unfrozen_trains_everything"]


def our_name(name: str) -> str:
    """Name of a parameter of our network in the record, where the body has no prefix, as in torchvision."""
    return name.removeprefix("body.")


def in_our_head(names: list[str]) -> set[str]:
    """Recorded names with the layer numbers of our head, which has no Flatten (layer 1 of fastai's head)."""
    parts = [name.split(".") for name in names]
    return {".".join([p[0], str(int(p[1]) - 1), *p[2:]] if p[0] == "head" else p) for p in parts}


def describe(layer: nn.Module) -> dict[str, Any]:
    """Type and settings of one layer of the head, with the keys of ``record.py``."""
    settings: dict[str, Any] = {"type": type(layer).__name__}
    if isinstance(layer, nn.Linear):
        settings |= {"shape": [layer.in_features, layer.out_features]}
    elif isinstance(layer, nn.BatchNorm1d):
        settings |= {"shape": [layer.num_features], "eps": layer.eps, "momentum": layer.momentum}
    elif isinstance(layer, nn.Dropout):
        settings |= {"p": layer.p}
    return settings


def without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The settings without those in which fastai 2 differs from fastai 1, which the article used."""
    return {key: value for key, value in settings.items() if key not in keys}
