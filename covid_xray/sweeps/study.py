"""Continue an Optuna study that was killed: finished trials count, interrupted trials run first."""

import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from covid_xray.errors import UserError


def continue_study(storage: str, name: str, direction: Any, n_trials: int) -> tuple[int, int]:
    """Open or create a study, and queue the trials that a kill interrupted.

    Hydra's sweeper alone would add ``n_trials`` new trials to an old study and leave interrupted ones as running.

    Args:
        storage: Address of the study's database.
        name: The study's name.
        direction: ``minimize`` or ``maximize``.
        n_trials: Number of trials that the study shall have in total.

    Returns:
        Number of trials that are left to run, and number of trials that the study already held.

    Raises:
        UserError: If the study cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # enqueue_trial, since 1.2
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    except Exception as error:  # each database has its own exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"hydra.sweeper.storage={storage} cannot be used: {reason}") from None
    states = optuna.trial.TrialState
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == states.RUNNING:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=states.FAIL)
    queued = [trial.system_attrs["fixed_params"] for trial in study.get_trials(states=(states.WAITING,))]
    ended = study.get_trials(states=(states.COMPLETE, states.FAIL, states.PRUNED))
    return max(0, n_trials - count_ended([trial.params for trial in ended], queued)), len(trials)


def count_ended(ended: Iterable[Mapping[str, Any]], queued: Iterable[Mapping[str, Any]]) -> int:
    """Number of different trials that ended and are not queued again, from the parameters of each trial."""
    different = {tuple(sorted(params.items())) for params in ended}
    return len(different - {tuple(sorted(params.items())) for params in queued})


def objective_value(value: Any) -> float | None:
    """The value that a sweeper gets; None if it is not finite, which Optuna counts as a failed trial.

    A NaN would end the whole study.
    """
    return value if isinstance(value, float) and math.isfinite(value) else None
