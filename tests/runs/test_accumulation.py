"""Accumulated gradients: the weights of the whole batch, with a part of it in memory, exact on resume."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import differences
from lightning import Callback, LightningModule, Trainer
from test_api import Small, make_data, records
from test_fit import DEFAULTS, AtHook, fit, load, terminate
from torch import Tensor, nn

import covid_xray as cx
from covid_xray.runs.folder import RunFolder
from covid_xray.training.callbacks.checkpoint import TrainingStopped
from covid_xray.training.curves import read_points
from covid_xray.training.losses import CrossEntropy, FocalLoss
from covid_xray.training.mixing import mixup

__all__ = ["records"]
COUNTS = {"covid-19": 4, "normal": 9, "pneumonia": 20}
FLOAT32 = {"accelerator": "cpu", "precision": "32-true"}


def schedule(accumulate: int) -> cx.Schedule:
    settings: dict[str, Any] = {"batch_size": 8, "epochs": 1, "max_lr": 1e-2, "accumulate": accumulate}
    return cx.Schedule({"top": cx.Phase(32, trains="top", **settings), "all": cx.Phase(32, trains="all", **settings)})


class NoBatchNorm(Small):
    """Every image by itself."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.stem[1] = nn.GroupNorm(2, 8)


class Sizes(Callback):
    """Notes how many images each forward of the training gets, and how often gradients are cleared."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                self.sizes.append(len(inputs[0]))

        network: Any = pl_module.network
        network.register_forward_pre_hook(note)


LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "class weights": {"loss": CrossEntropy(COUNTS, "balanced", 0.1)},
    "focal": {"loss": FocalLoss(COUNTS, class_weights="balanced")},
    "mixed": {"mixing": mixup(3), "loss": FocalLoss(COUNTS, class_weights={"normal": 3.0})},
    "clipped": {"trainer": {**FLOAT32, "gradient_clip_val": 0.1}},
    "mixed precision": {"trainer": {"accelerator": "cpu", "precision": "bf16-mixed"}},
}


@pytest.mark.parametrize("name", LOSSES)
def test_weights_equal_those_of_the_whole_batch(records: pd.DataFrame, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    start = NoBatchNorm(3).state_dict()
    states, losses = [], []
    for accumulate in (1, 4):
        network, sizes, folder = NoBatchNorm(3), Sizes(), tmp_path / str(accumulate)
        network.load_state_dict(start)
        settings = {**DEFAULTS, "trainer": FLOAT32, "callbacks": [sizes], **LOSSES[name]}
        # Adam divides the gradients by their own size, which would hide a wrong factor.
        cx.fit(network, make_data(records, schedule(accumulate)), folder, optimizer=torch.optim.SGD, **settings)
        states.append(load(folder))
        points = read_points(RunFolder(folder).curves)
        losses.append([value for _, metric, value in points if metric == "train/loss"])
        assert set(sizes.sizes) == {8 // accumulate}
    assert states[0]["global_step"] == states[1]["global_step"] == len(losses[0])
    tolerance = 0.05 if name == "mixed precision" else 1e-3
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    whole, parts, before = (
        torch.cat([state[f"{prefix}{key}"].flatten() for key in start])
        for state, prefix in ((states[0]["state_dict"], "network."), (states[1]["state_dict"], "network."), (start, ""))
    )
    assert float((whole - parts).norm()) < tolerance * float((whole - before).norm())


def test_stopped_and_resumed_bit_for_bit(records: pd.DataFrame, tmp_path: Path) -> None:
    whole = fit(records, tmp_path / "whole", schedule(2))
    for _ in range(2):
        with pytest.raises(TrainingStopped):
            fit(records, tmp_path / "run", schedule(2), callbacks=[AtHook("on_before_backward", terminate)])
    state = fit(records, tmp_path / "run", schedule(2))
    for part in ("state_dict", "optimizer_states"):
        assert differences(whole[part], state[part]) == [], part
    with pytest.raises(cx.UserError, match=r"schedule\.phases\.top\.accumulate: 2 -> 1"):
        fit(records, tmp_path / "run", schedule(1))


def test_a_loss_that_is_not_finite_in_an_earlier_part_stops_the_run(records: pd.DataFrame, tmp_path: Path) -> None:
    class Broken(nn.Module):
        """Is infinite for the first part of every batch."""

        parts = 0

        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            self.parts += 1
            return logits.sum() / (self.parts % 2 - 1)

    with pytest.raises(cx.UserError, match=r"training loss is (nan|inf|-inf) in step 1"):
        fit(records, tmp_path / "run", schedule(2), loss=Broken())
