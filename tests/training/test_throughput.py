"""The logged speed and waiting time are the true ones."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from covid_xray.data.loader import TimedLoader
from covid_xray.networks.resnet import TransferResNet
from covid_xray.schedule import Phase, Schedule
from covid_xray.training.callbacks.throughput import Throughput
from covid_xray.training.module import XrayClassifier

STEPS = 20


@pytest.mark.parametrize(
    ("step_takes", "waits", "warns"),
    [(1, 0.05, False), (1, 0.5, True), pytest.param(0.01, 0.005, False, id="too short to measure")],
)
def test_waiting_is_logged_and_warned_of(
    step_takes: float, waits: float, warns: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    schedule = Schedule({"only": Phase(32, 8, 1, "all", 1e-3, True)})
    module = XrayClassifier(TransferResNet(3, "resnet18"), schedule, ["a", "b", "c"])
    logged: dict[str, list[float]] = {"images_per_second": [], "data_wait_share": []}

    def log_step(metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            logged[name].append(value)

    monkeypatch.setattr(module, "log_step", log_step)
    trainer: Any = SimpleNamespace(current_epoch=0, num_training_batches=STEPS)
    trainer.train_dataloader = SimpleNamespace(waited=7.0)
    callback, batch = Throughput(), (torch.zeros(8), torch.zeros(8))
    callback.on_train_epoch_start(trainer, module)
    clock[0] += 30  # the start of the workers does not count as waiting
    trainer.train_dataloader.waited += 30
    for step in range(STEPS):
        clock[0] += waits if step else 0
        trainer.train_dataloader.waited += waits if step else 0
        callback.on_train_batch_start(trainer, module, batch, step)
        clock[0] += step_takes
        callback.on_train_batch_end(trainer, module, None, batch, step)
    assert logged["images_per_second"][1:] == pytest.approx([8 / (step_takes + waits)] * (STEPS - 1))
    assert logged["data_wait_share"][0] == 0
    assert logged["data_wait_share"][1:] == pytest.approx([waits / (step_takes + waits)] * (STEPS - 1))
    messages = [str(warning.message) for warning in recwarn if "waited for data" in str(warning.message)]
    assert len(messages) == warns
    if warns:
        assert "epoch 1: training waited for data 32% of the time; raise datamodule.num_workers" in messages[0]


def test_loader_measures_how_long_training_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            clock[0] += 0.05
            return index

    loader = TimedLoader(Slow(), batch_size=2)
    for _epoch in range(2):
        for batch in loader:
            assert len(batch) == 2
            clock[0] += 0.1  # a training step, which is no waiting
    assert loader.waited == pytest.approx(2 * 4 * 0.05)
