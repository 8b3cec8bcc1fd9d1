"""The verdict's thresholds and error rates are those that the study of experiments/verdict gives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covid_xray.metrics.intervals import Interval
from covid_xray.probes.shortcuts import CLEARED, WARNED, shortcut_verdict

RUNS = Path(__file__).parents[1] / "experiments" / "verdict" / "runs.csv"
CHANCE = 1 / 3


def test_error_rates_are_those_of_the_runs_that_did_not_choose_the_thresholds() -> None:
    runs = pd.read_csv(RUNS)
    runs = runs[(runs["seed"] == 1) & runs["kind"].isin(["marker", "frame", "none"])]
    warned: list[bool] = []
    cleared: list[bool] = []
    for run in runs.to_dict("records"):
        whole = Interval(run["accuracy, whole image"], run["accuracy, whole image, low"], np.nan)
        black = Interval(run["accuracy, centre black"], np.nan, np.nan)
        verdict = shortcut_verdict(whole, black, CHANCE, run["auroc, whole image"], run["auroc, centre black"])
        if whole.low > CHANCE:
            drop = 0.0 if run["kind"] == "none" else whole.value - run["accuracy, mark random"]
            is_shortcut = drop / (whole.value - CHANCE) >= 0.2
            (warned if is_shortcut else cleared).append(verdict.cheats is True)
    assert (sum(warned), len(warned)) == WARNED
    assert (len(cleared) - sum(cleared), len(cleared)) == CLEARED


def test_the_grid_is_complete() -> None:
    runs = pd.read_csv(RUNS)
    grid = runs[runs["kind"].isin(["marker", "frame"])]
    assert grid.groupby(["shortcut", "disease"]).size().eq(2).all()
    assert len(grid) == 50
    independent = grid[grid["shortcut"] == 0]
    # Without a tie, the random mark is the mark: the truth of these runs holds by construction.
    assert independent["accuracy, whole image"].to_numpy() == pytest.approx(
        independent["accuracy, mark random"].to_numpy()
    )
