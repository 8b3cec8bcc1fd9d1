"""Speed and waiting are told as they are."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from covid_xray.callbacks.throughput import Throughput
from covid_xray.model.network import TransferResNet
from covid_xray.module import XrayClassifier
from covid_xray.schedule import Phase, Schedule

STEPS = 20


@pytest.mark.parametrize(("waits", "warns"), [(0.05, False), (0.5, True)])
def test_waiting_is_logged_and_told(
    waits: float, warns: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    schedule = Schedule({"only": Phase(32, 8, 1, "all", 1e-3, True)})
    module = XrayClassifier(TransferResNet(3, "resnet18"), schedule, ["a", "b", "c"])
    logged: dict[str, list[float]] = {"images_per_second": [], "data_wait_share": []}
    monkeypatch.setattr(module, "log", lambda name, value: logged[name].append(value))
    trainer: Any = SimpleNamespace(current_epoch=0, num_training_batches=STEPS)
    callback, batch = Throughput(), (torch.zeros(8), torch.zeros(8))
    callback.on_train_epoch_start(trainer, module)
    clock[0] += 30  # workers start: no waiting of the training's own
    for step in range(STEPS):
        clock[0] += waits if step else 0
        callback.on_train_batch_start(trainer, module, batch, step)
        clock[0] += 1
        callback.on_train_batch_end(trainer, module, None, batch, step)
    assert logged["images_per_second"][1:] == pytest.approx([8 / (1 + waits)] * (STEPS - 1))
    assert logged["data_wait_share"][0] == 0
    assert logged["data_wait_share"][1:] == pytest.approx([waits / (1 + waits)] * (STEPS - 1))
    told = [str(warning.message) for warning in recwarn if "waited for data" in str(warning.message)]
    assert len(told) == warns
    if warns:
        assert "epoch 1: training waited for data 32% of the time; raise data.num_workers" in told[0]
