"""The verdict's thresholds and error rates are those that the study of experiments/verdict gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from covid_xray.metrics.intervals import Interval, exact_interval
from covid_xray.probes.shortcuts import CLEARED, INSIDE, NOT_READ, READ, WARNED, Verdict, shortcut_verdict

STUDY = Path(__file__).parents[1] / "experiments" / "verdict"
CHANCE = 1 / 3
MARKS_INSIDE = ["exposure", "resolution", "aspect"]


def judged(run: Mapping[Any, Any]) -> tuple[float, Verdict]:
    """The share of the skill that a network loses with a random mark, and the verdict on it."""
    whole = Interval(run["accuracy, whole image"], run["accuracy, whole image, low"], np.nan)
    black = Interval(run["accuracy, centre black"], np.nan, np.nan)
    verdict = shortcut_verdict(whole, black, CHANCE, run["auroc, whole image"], run["auroc, centre black"])
    drop = whole.value - run["accuracy, mark random"]
    return (0.0 if np.isnan(drop) else drop) / (whole.value - CHANCE), verdict


def hits(found: list[bool]) -> tuple[int, int]:
    return sum(found), len(found)


def test_error_rates_are_those_of_the_runs_that_did_not_choose_the_thresholds() -> None:
    runs = pd.read_csv(STUDY / "runs.csv")
    is_inside = runs["kind"].isin(MARKS_INSIDE)
    known, inside = (
        [(lost, verdict) for lost, verdict in map(judged, part.to_dict("records")) if verdict.cheats is not None]
        for part in (runs[~is_inside & (runs["seed"] > 0)], runs[is_inside])
    )
    reads = [(lost, "reads the source" in verdict.text) for lost, verdict in known]
    assert hits([verdict.cheats is True for lost, verdict in known if lost >= 0.2]) == WARNED
    assert hits([verdict.cheats is False for lost, verdict in known if lost < 0.2]) == CLEARED
    assert hits([verdict.cheats is True for lost, verdict in inside if lost >= 0.2]) == INSIDE
    assert hits([found for lost, found in reads if lost >= 0.5]) == READ
    assert hits([not found for lost, found in reads if lost < 0.5]) == NOT_READ


def test_the_readme_has_the_numbers_of_the_runs() -> None:
    tests, text = pd.read_csv(STUDY / "tests.csv"), (STUDY / "README.md").read_text(encoding="utf-8")
    shown = tests[(tests["marks"] == "outside") & (tests["truth"] == "20 % of the skill")]
    rows = {row["test"]: row for row in shown.to_dict("records")}
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert len(lines) > 10
    for cells in lines[2:]:
        row = rows[cells[0].removesuffix(" (the verdict)")]
        limit = "none" if np.isinf(row["threshold"]) else f"{row['threshold']:g}"
        assert cells[1:] == [row["ROC area"], limit, row["sensitivity"], row["specificity"]], cells
    for counts in (WARNED, CLEARED, READ, NOT_READ, INSIDE):
        assert f"{counts[0]} of {counts[1]}" in text
        assert exact_interval(*counts).text(percent=True, digits=0) in text


def test_the_grid_is_complete() -> None:
    runs = pd.read_csv(STUDY / "runs.csv")
    grid = runs[runs["kind"].isin(["marker", "frame"])]
    first = grid[grid["seed"] < 2]
    assert first.groupby(["shortcut", "disease"]).size().eq(2).all()
    assert len(first) == 50
    assert first["accuracy, trained on borders"].notna().all()
    assert runs[runs["kind"].isin(MARKS_INSIDE)].groupby(["kind", "shortcut", "disease", "seed"]).size().eq(1).all()
    independent = grid[grid["shortcut"] == 0]
    # Without a tie, the random mark is the mark: the truth of these runs holds by construction.
    assert independent["accuracy, whole image"].to_numpy() == pytest.approx(
        independent["accuracy, mark random"].to_numpy()
    )
