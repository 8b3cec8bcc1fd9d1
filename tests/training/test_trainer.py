"""The callbacks that the schedule needs, and the Trainer's settings."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, EMAWeightAveraging

from covid_xray.errors import UserError
from covid_xray.training.callbacks.checkpoint import RunCheckpoint
from covid_xray.training.callbacks.freezing import PhaseFreezing
from covid_xray.training.callbacks.one_cycle import OneCycle
from covid_xray.training.callbacks.resizing import ProgressiveResizing
from covid_xray.training.callbacks.seeding import StepSeeding
from covid_xray.training.callbacks.throughput import Throughput
from covid_xray.training.trainer import (
    FIXED_SETTINGS,
    REFUSED_CALLBACKS,
    REFUSED_SETTINGS,
    build_trainer,
    needed_callbacks,
)

NEEDED = [StepSeeding, PhaseFreezing, ProgressiveResizing, OneCycle]


class OtherCycle(OneCycle):
    """A user's variant of a needed callback."""


class OtherSeeding(StepSeeding):
    """Another variant."""


def kinds(callbacks: list[Callback]) -> list[type[Callback]]:
    return [type(callback) for callback in callbacks]


def test_missing_callbacks_are_added_first_and_the_checkpoint_last(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    throughput = Throughput()
    callbacks = needed_callbacks([throughput], 7, checkpoint)
    assert kinds(callbacks) == [*NEEDED, Throughput, RunCheckpoint]
    assert callbacks[4:] == [throughput, checkpoint]
    assert isinstance(callbacks[0], StepSeeding)
    assert callbacks[0].seed == 7
    assert kinds(needed_callbacks([], 0, None)) == NEEDED


@pytest.mark.parametrize("present", NEEDED)
def test_given_callback_is_not_added_again(present: type[Callback]) -> None:
    given = present(3) if present is StepSeeding else present()
    callbacks = needed_callbacks([Throughput(), given], 7, None)
    others = [kind for kind in NEEDED if kind is not present]
    assert kinds(callbacks) == [*others, Throughput, present]
    assert callbacks[-1] is given


def test_subclass_replaces_the_needed_callback() -> None:
    cycle, seeding = OtherCycle(), OtherSeeding(3)
    callbacks = needed_callbacks([cycle, seeding], 7, None)
    assert kinds(callbacks) == [PhaseFreezing, ProgressiveResizing, OtherCycle, OtherSeeding]
    assert callbacks[-2:] == [cycle, seeding]
    assert seeding.seed == 3


def test_arguments_do_not_change() -> None:
    given: list[Callback] = [Throughput()]
    needed_callbacks(given, 0, None)
    assert kinds(given) == [Throughput]


def test_trainer_has_what_the_data_module_relies_on(tmp_path: Path) -> None:
    trainer: Any = build_trainer({"accelerator": "cpu"}, tmp_path, needed_callbacks([], 0, None), False, 5)
    assert trainer.max_epochs == 5
    assert trainer.reload_dataloaders_every_n_epochs == 1
    assert trainer.num_sanity_val_steps == 0
    assert trainer.default_root_dir == str(tmp_path)
    assert not [callback for callback in trainer.callbacks if type(callback).__name__ == "ModelCheckpoint"]
    assert trainer.logger is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": 3}, "trainer.max_epochs is set by the project and cannot be changed"),
        ({"reload_dataloaders_every_n_epochs": 0}, "trainer.reload_dataloaders_every_n_epochs is set by the project"),
        ({"logger": False}, "trainer.logger is set by the project and cannot be changed: use the config group logger"),
        ({"callbacks": []}, "trainer.callbacks is set by the project and cannot be changed: use the config group"),
        ({"devices": 2}, "several processes with DDPStrategy cannot train phases with frozen layer groups; use"),
        ({"devices": 2, "strategy": "ddp"}, "several processes with DDPStrategy cannot train phases with frozen"),
        ({"profiler": "fast"}, "trainer.profiler must be one of simple, advanced, pytorch, or null, not 'fast'"),
        ({"speed": "fast"}, "trainer: "),
        ({"precision": "7"}, "trainer: "),
        ({"precision": "bf16-true"}, "trainer.precision must be auto, 32-true, bf16-mixed, 16-mixed, not 'bf16-true'"),
        ({"precision": 64}, "trainer.precision must be auto, 32-true, bf16-mixed, 16-mixed, not '64-true'"),
        ({"accelerator": "abacus"}, "trainer: "),
        ({"devices": 0}, "trainer: "),
        *(
            ({key: value}, f"trainer.{key}={value} would change the schedule: ")
            for key, value in {
                "max_time": "00:01:00:00",
                "max_steps": 3,
                "min_steps": 3,
                "min_epochs": 9,
                "fast_dev_run": True,
                "limit_train_batches": 0.5,
                "limit_val_batches": 0,
                "limit_test_batches": 1,
                "overfit_batches": 1,
                "val_check_interval": 0.5,
                "check_val_every_n_epoch": 2,
                "accumulate_grad_batches": 2,
                "limit_predict_batches": 1,
                "barebones": True,
            }.items()
        ),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as info:
        build_trainer({"accelerator": "cpu"} | settings, tmp_path, [], False, 5)
    assert str(info.value).startswith(message)
    assert "\n" not in str(info.value)


def test_defaults_of_refused_settings_are_accepted(tmp_path: Path) -> None:
    defaults = {"max_time": None, "max_steps": -1, "accumulate_grad_batches": 1, "fast_dev_run": False}
    assert build_trainer({"accelerator": "cpu"} | defaults, tmp_path, [], False, 5).max_epochs == 5


@pytest.mark.parametrize("kind", [*REFUSED_CALLBACKS, EMAWeightAveraging, BackboneFinetuning])
def test_callbacks_that_do_not_work_are_refused(kind: type[Callback], tmp_path: Path) -> None:
    callback = kind.__new__(kind)
    with pytest.raises(UserError, match=f"the callback {kind.__name__} would .*; remove it from callbacks$"):
        build_trainer({"accelerator": "cpu"}, tmp_path, [callback], False, 5)


def test_the_documented_table_is_complete() -> None:
    text = (Path(__file__).parents[2] / "docs/trainer_settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (works|refused|set) \|", text, re.MULTILINE)
    settings = {name: status for name, status in rows if name[0].islower()}
    assert len(rows) == len(dict(rows))
    arguments = set(inspect.signature(Trainer).parameters)
    assert set(settings) == arguments
    assert {name for name, status in settings.items() if status == "refused"} == set(REFUSED_SETTINGS)
    assert {name for name, status in settings.items() if status == "set"} == set(FIXED_SETTINGS)
    callbacks = {name for name, status in rows if not name[0].islower() and status == "refused"}
    assert callbacks == {kind.__name__ for kind in REFUSED_CALLBACKS}
