"""An Optuna study that was killed goes on: its finished trials count, its interrupted ones come first."""

import logging
import math
import warnings
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from covid_xray.errors import UserError


def continue_study(sweeper: DictConfig) -> None:
    """Make the sweeper's settings those of what is left to do, and queue the trials that a kill interrupted.

    Hydra's sweeper would add ``n_trials`` new trials to an old study, leave the interrupted ones as running for ever,
    and begin the same sequence of draws again.

    Args:
        sweeper: Settings of Hydra's Optuna sweeper; ``n_trials`` and the sampler's seed are changed.

    Raises:
        UserError: If the study cannot be opened.
    """
    if not sweeper.storage:
        return
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # enqueue_trial, since 1.2
    try:
        study = optuna.create_study(
            storage=sweeper.storage, study_name=sweeper.study_name, direction=sweeper.direction, load_if_exists=True
        )
    except Exception as error:  # whatever the data base says
        raise UserError(f"hydra.sweeper.storage={sweeper.storage} cannot be used: {_first_line(error)}") from None
    states = optuna.trial.TrialState
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == states.RUNNING:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=states.FAIL)
    queued = [t.system_attrs["fixed_params"] for t in study.get_trials(states=(states.WAITING,))]
    ended = study.get_trials(states=(states.COMPLETE, states.FAIL, states.PRUNED))
    left = sweeper.n_trials - count_ended([trial.params for trial in ended], queued)
    with read_write(sweeper), open_dict(sweeper):
        sweeper.n_trials = max(0, left)
        if OmegaConf.select(sweeper, "sampler.seed") is not None:
            sweeper.sampler.seed += len(trials)


def count_ended(ended: list[dict[str, Any]], queued: list[dict[str, Any]]) -> int:
    """How many different trials have ended; one that is queued again has not."""
    different = {tuple(sorted(params.items())) for params in ended}
    return len(different - {tuple(sorted(params.items())) for params in queued})


def objective_value(value: Any) -> float | None:
    """What a sweeper is told: None for a figure that is not a number, which Optuna takes for a failed trial.

    A NaN itself would end the whole study.
    """
    return value if isinstance(value, float) and math.isfinite(value) else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
