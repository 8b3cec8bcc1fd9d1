"""The numbers of experiments/remedies follow from its runs."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[1] / "experiments" / "remedies"


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per run, and one per setting."""
    return pd.read_csv(FOLDER / "runs.csv"), pd.read_csv(FOLDER / "results.csv")


def test_means_and_intervals_are_those_of_the_runs(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    runs, results = tables
    assert len(runs) == results["runs"].sum()
    for row in results.to_dict("records"):
        own = runs[(runs["method"] == row["method"]) & (runs["kind"] == row["kind"])]["test accuracy"]
        assert own.mean() == pytest.approx(row["test accuracy"], abs=1e-3)
        half = stats.t.ppf(0.975, len(own) - 1) * own.std() / np.sqrt(len(own))
        found = row["test accuracy, high"] - row["test accuracy"]
        assert found == pytest.approx(half, abs=1e-3, nan_ok=True)


def test_the_readme_has_the_table(tables: tuple[pd.DataFrame, pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "study", raising=False)
    from study import markdown  # type: ignore[import-not-found]

    for _, part in tables[1].groupby("kind"):
        assert markdown(part) in (FOLDER / "README.md").read_text(encoding="utf-8")
