"""How often training steps are logged."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covid_xray.training.callbacks.log_interval import INTERVALS, LEAST_POINTS, LogInterval, log_interval


@given(st.floats(1e-5, 100), st.integers(1, 10**6))
def test_interval(seconds: float, steps: int) -> None:
    every = log_interval(seconds, steps)
    assert every in INTERVALS
    assert every == 1 or steps // every >= LEAST_POINTS
    smaller = [each for each in INTERVALS if each < every]
    assert all(0.005 / each > 0.02 * seconds for each in smaller)  # not larger than needed
    larger = [each for each in INTERVALS if each > every and each * LEAST_POINTS <= steps]
    assert 0.005 / every <= 0.02 * seconds or not larger  # large enough, or the largest that the epoch allows


def test_examples() -> None:
    assert log_interval(0.7, 20) == 1  # ResNet-50, batch 16, 224 pixels, on two cores
    assert log_interval(0.02, 187) == 5  # a GPU: 20 were enough, but the epoch needs its points
    assert log_interval(0.02, 12_000) == 20


def run_steps(callback: LogInterval, clock: list[float], seconds: float, steps: int) -> list[int]:
    """The interval after each step of an epoch of 1,000 steps."""
    trainer: Any = SimpleNamespace(log_every_n_steps=1, num_training_batches=1000)
    callback.on_train_start(trainer, trainer)
    callback.on_train_epoch_start(trainer, trainer)
    found = []
    for number in range(steps):
        clock[0] += seconds if number else 50.0  # the first step is slow
        callback.on_train_batch_end(trainer, trainer, None, None, number)
        found.append(trainer.log_every_n_steps)
    return found


def test_the_choice_is_made_once_and_kept_in_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    callback = LogInterval()
    assert run_steps(callback, clock, 0.03, 5) == [1] * 5
    assert callback.state_dict() == {}  # a run that is stopped now measures again
    assert run_steps(callback, clock, 0.03, 13) == [*[1] * 10, *[10] * 3]
    assert run_steps(callback, clock, 1.0, 12) == [10] * 12  # a later phase
    resumed = LogInterval()
    resumed.load_state_dict(callback.state_dict())
    assert run_steps(resumed, clock, 1.0, 12) == [10] * 12
    chosen = LogInterval(1)
    chosen.load_state_dict(callback.state_dict())
    assert run_steps(chosen, clock, 0.001, 12) == [1] * 12
    assert chosen.state_dict() == {}
