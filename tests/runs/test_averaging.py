"""Weight averaging: one average for validation, tests, checkpoints and commands, exact on resume."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import differences
from hypothesis import given
from hypothesis import strategies as st
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from test_api import Small, make_data, records
from test_fit import DEFAULTS, WEIGHTS, AtHook, fit, terminate
from torch.nn.functional import cross_entropy

import covid_xray as cx
from covid_xray.data.sampling import Sample
from covid_xray.runs.folder import RunFolder
from covid_xray.training.callbacks.averaging import RAW, decay_at
from covid_xray.training.callbacks.checkpoint import TrainingStopped

__all__ = ["records"]
SCHEDULE = cx.Schedule({"top": cx.Phase(32, 8, 1, "top", 1e-2, False), "all": cx.Phase(32, 8, 2, "all", 1e-2)})
DECAY = 0.9
FLOAT32 = {"accelerator": "cpu", "precision": "32-true"}
Tensors = dict[str, torch.Tensor]


class Weights(Callback):
    """Keeps the weights after every step, and before the first step of every epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[Tensors]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append([copy(pl_module)])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        self.epochs[-1].append(copy(pl_module))


def copy(module: LightningModule) -> Tensors:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def averaged(records: pd.DataFrame, folder: Path, *callbacks: Callback, **settings: Any) -> dict[str, Any]:
    settings = {"averaging": cx.WeightAverage(DECAY), "callbacks": callbacks, "trainer": FLOAT32, **settings}
    return fit(records, folder, SCHEDULE, **settings)


@pytest.fixture(scope="module")
def whole(
    records: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[list[Tensors]]]:
    """Folder and final state of a run with averaging that nothing disturbed, and its weights after every step."""
    folder, weights = tmp_path_factory.mktemp("averaged") / "run", Weights()
    return folder, averaged(records, folder, weights), weights.epochs


@given(st.integers(0, 10**6), st.floats(0.2, 0.9999))
def test_decay_rises_to_its_value(step: int, decay: float) -> None:
    assert 0.1 <= decay_at(step, decay) <= decay_at(step + 1, decay) <= decay
    assert decay_at(math.ceil(9 / (1 - decay)), decay) == decay


def test_average_equals_the_formula_and_starts_anew_in_each_phase(
    whole: tuple[Path, dict[str, Any], list[list[Tensors]]],
) -> None:
    _, state, epochs = whole
    assert differences(state[RAW], epochs[-1][-1]) == []
    steps = [weights for epoch in epochs[1:] for weights in epoch[1:]]
    for name, average in state["state_dict"].items():
        expected = epochs[1][0][name].double()
        for step, weights in enumerate(steps):
            share = min(DECAY, (1 + step) / (10 + step))
            expected = share * expected + (1 - share) * weights[name].double()
        if name.endswith("num_batches_tracked"):
            expected = steps[-1][name].double()
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    assert differences(state["state_dict"], state[RAW]), "the average is the weights"


def test_frozen_weights_keep_their_bytes(records: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped):
        averaged(records, tmp_path / "run", AtHook("on_validation_epoch_start", terminate))
    state = torch.load(RunFolder(tmp_path / "run").last, weights_only=True)
    for part in ("state_dict", RAW):
        stem = {name: value for name, value in state[part].items() if ".stem." in name}
        assert differences(stem, {name: WEIGHTS[name.removeprefix("network.")] for name in stem}) == []
    assert differences(state["state_dict"]["network.top.weight"], state[RAW]["network.top.weight"])


@pytest.mark.parametrize("select", ["best", "last"])
def test_one_answer_to_which_weights(
    records: pd.DataFrame, whole: tuple[Path, dict[str, Any], list[list[Tensors]]], tmp_path: Path, select: str
) -> None:
    folder = RunFolder(whole[0])
    if select == "last":
        folder = RunFolder(tmp_path / "run")
        averaged(records, folder.path, select="last")
    kept = torch.load(folder.checkpoint(select), weights_only=True)["state_dict"]
    run = cx.load_run(folder.path, network=Small(3))
    assert differences({name: value.clone() for name, value in run.module.state_dict().items()}, kept) == []
    metrics = json.loads(folder.metrics.read_text())
    for subset in ("val", "test"):
        found = run.evaluate(resamples=5, subset=subset).metrics["accuracy"].value
        assert found == pytest.approx(metrics[f"{subset}/accuracy"])
        data = make_data(records, SCHEDULE)
        table = data.subset(subset)
        images, labels = data.dataset(table).__getitems__([Sample(row, 32, None) for row in range(len(table))])
        loss = float(cross_entropy(run.module(images), labels))
        assert loss == pytest.approx(metrics[f"{subset}/loss"], rel=1e-4)
    run.export(tmp_path / "network.safetensors")
    exported = load_file(tmp_path / "network.safetensors")
    assert exported
    assert all(torch.equal(kept[name], tensor) for name, tensor in exported.items())
    # A run that was killed in its test.
    folder.metrics.unlink()
    averaged(records, folder.path, select=select)
    assert json.loads(folder.metrics.read_text()) == metrics


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_start"])
def test_stopped_and_resumed_bit_for_bit(
    records: pd.DataFrame, whole: tuple[Path, dict[str, Any], list[list[Tensors]]], tmp_path: Path, hook: str
) -> None:
    for _ in range(2):
        with pytest.raises(TrainingStopped):
            averaged(records, tmp_path / "run", AtHook(hook, terminate))
    state = averaged(records, tmp_path / "run")
    for part in ("state_dict", RAW, "optimizer_states"):
        assert differences(whole[1][part], state[part]) == [], part


def test_averaging_changes_no_weights_and_none_saves_no_average(
    records: pd.DataFrame, whole: tuple[Path, dict[str, Any], list[list[Tensors]]], tmp_path: Path
) -> None:
    plain = fit(records, tmp_path / "run", SCHEDULE, trainer=FLOAT32)
    assert RAW not in plain
    assert differences(plain["state_dict"], whole[1][RAW]) == []
    with pytest.raises(cx.UserError, match=r"other settings .*averaging"):
        averaged(records, tmp_path / "run")


@pytest.mark.parametrize("decay", [0, 1, -0.5, True, "0.9", math.nan])
def test_wrong_decay(decay: Any) -> None:
    with pytest.raises(cx.UserError, match=r"averaging\.decay must be above 0 and below 1"):
        cx.WeightAverage(decay)


def test_the_module_of_the_caller_holds_the_average(records: pd.DataFrame, tmp_path: Path) -> None:
    network = Small(3)
    network.load_state_dict(WEIGHTS)
    data = make_data(records, SCHEDULE)
    cx.fit(network, data, tmp_path / "run", averaging=cx.WeightAverage(DECAY), **DEFAULTS)
    kept = torch.load(RunFolder(tmp_path / "run").best, weights_only=True)["state_dict"]
    assert all(torch.equal(value, kept[f"network.{name}"]) for name, value in network.state_dict().items())
