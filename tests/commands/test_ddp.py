"""Two processes train as one."""

from pathlib import Path

import pytest
from conftest import Command, differences, load_state
from small_network import SMALL_NETWORK

from covid_xray.training.callbacks.averaging import RAW

FIXED = 4  # epochs, one in each phase, in which BatchNorm is fixed
EPOCHS = 6
SETTINGS = (
    "train",
    "experiment=tiny",
    "logger=none",
    "datamodule.num_workers=0",
    "trainer.precision=32-true",
    "model.dropout=[0.0,0.0]",
    "+callbacks.dump._target_=probe_callbacks.StateDump",
)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture(scope="module")
def runs(covid_xray: Command, workplace: Path) -> tuple[Path, Path]:
    """A run of one process and one of two; the last epochs, one unfrozen and one frozen, train BatchNorm."""
    last = "+schedule.phases.last={image_size:48,batch_size:4,epochs:1,trains:head,max_lr:1e-3}"
    epochs = (SMALL_NETWORK, "schedule.phases.unfrozen_large.epochs=2", last)
    fixed = ("+callbacks.fixed._target_=probe_callbacks.FixedBatchNorm", f"+callbacks.fixed.epochs={FIXED}")
    for run, extra in (("one", ("trainer.accelerator=cpu",)), ("two", TWO)):
        result = covid_xray(*SETTINGS, *extra, *epochs, *fixed, f"run_dir={run}")
        assert result.returncode == 0, result.stderr
    return workplace / "one", workplace / "two"


def test_ranks_stay_equal_over_all_phases(runs: tuple[Path, Path]) -> None:
    for epoch in range(EPOCHS):
        ranks = [load_state(runs[1] / f"state-epoch{epoch}-rank{rank}.pt") for rank in (0, 1)]
        weights = [{k: v for k, v in state["weights"].items() if "running_" not in k} for state in ranks]
        assert differences(weights[0], weights[1]) == [], f"epoch {epoch}"
        assert differences(ranks[0]["optimizer"], ranks[1]["optimizer"]) == [], f"epoch {epoch}"


def test_two_processes_equal_one(runs: tuple[Path, Path]) -> None:
    for epoch in range(FIXED):
        one, two = (load_state(run / f"state-epoch{epoch}-rank0.pt") for run in runs)
        assert differences(one["weights"], two["weights"], tolerance=2e-4) == [], f"epoch {epoch}"


@pytest.mark.slow
def test_averaging_and_accumulation_with_two_processes_equal_one(covid_xray: Command, workplace: Path) -> None:
    fixed = ("+callbacks.fixed._target_=probe_callbacks.FixedBatchNorm", "averaging=ema", "averaging.decay=0.9")
    parts = [f"schedule.phases.{name}_small.accumulate=2" for name in ("frozen", "unfrozen")]
    for run, extra in (("one-averaged", ("trainer.accelerator=cpu",)), ("two-averaged", (*TWO, *parts))):
        result = covid_xray(*SETTINGS, *extra, *fixed, f"run_dir={run}", timeout=600)
        assert result.returncode == 0, result.stderr
    one, two = (load_state(workplace / run / "checkpoints/last.ckpt") for run in ("one-averaged", "two-averaged"))
    for part in ("state_dict", RAW):
        assert differences(one[part], two[part], tolerance=2e-4) == [], part
    ranks = [load_state(workplace / "two-averaged" / f"state-epoch3-rank{rank}.pt")["weights"] for rank in (0, 1)]
    assert differences(*ranks) == []


@pytest.mark.slow
def test_remedies_with_two_processes_equal_one(covid_xray: Command, workplace: Path) -> None:
    fixed = ("+callbacks.fixed._target_=probe_callbacks.FixedBatchNorm", "data.shortcut=0.3")
    for run, extra in (("one-remedy", ("trainer.accelerator=cpu",)), ("two-remedies", TWO)):
        remedies = ("loss=group_dro", "adversary=source", "sampler=independent")
        result = covid_xray(*SETTINGS, *extra, *fixed, *remedies, f"run_dir={run}", timeout=600)
        assert result.returncode == 0, result.stderr
    one, two = (load_state(workplace / run / "checkpoints/last.ckpt") for run in ("one-remedy", "two-remedies"))
    assert differences(one["state_dict"], two["state_dict"], tolerance=2e-4) == []
    assert len(one["state_dict"]["loss.group_weights"].unique()) > 1


def test_batch_that_cannot_be_shared_is_refused(covid_xray: Command) -> None:
    result = covid_xray(*SETTINGS, *TWO[:2], "trainer.devices=3", "run_dir=three")
    assert result.returncode == 2
    assert "make it a multiple of 3" in result.stderr
