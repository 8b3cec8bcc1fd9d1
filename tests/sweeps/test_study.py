"""Studies that were interrupted."""

from pathlib import Path

import optuna
import pytest

from covid_xray.errors import UserError
from covid_xray.sweeps.study import continue_study, count_ended, objective_value


def test_interrupted_trial_is_queued_again(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    assert continue_study(storage, "val/loss", "minimize", 3) == (3, 0)
    study = optuna.load_study(storage=storage, study_name="val/loss")
    for rate, value in ((0.1, 1.0), (0.2, None)):
        study.enqueue_trial({"rate": rate})
        trial = study.ask()
        trial.suggest_float("rate", 0, 1)
        if value is not None:
            study.tell(trial, value)
    assert continue_study(storage, "val/loss", "minimize", 3) == (2, 2)
    states = optuna.load_study(storage=storage, study_name="val/loss").get_trials()
    assert [trial.state.name for trial in states] == ["COMPLETE", "FAIL", "WAITING"]
    assert states[2].system_attrs["fixed_params"] == {"rate": 0.2}
    assert continue_study(storage, "val/loss", "minimize", 0)[0] == 0


def test_trials_that_are_queued_again_have_not_ended() -> None:
    ended = [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.2}, {"lr": 0.3}]
    assert count_ended(ended, queued=[{"lr": 0.3}]) == 2


def test_values_that_would_end_a_study() -> None:
    assert objective_value(0.5) == 0.5
    for value in (float("nan"), float("inf"), None, "0.5"):
        assert objective_value(value) is None


def test_unusable_storage() -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=sqlite:////nowhere/x\.db cannot be used: "):
        continue_study("sqlite:////nowhere/x.db", "val/loss", "minimize", 1)
