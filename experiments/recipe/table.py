"""The table and the figure of the study, from evaluated folds: ``python table.py NAME=FOLDER[+FOLDER...] ...``.

Each FOLDER holds the runs fold0, fold1, ... (or the predictions of `fastai_side.py`). Several folders joined by ``+``
are averaged, fold by fold. A FOLDER of `covid-xray probe` holds predictions of its own folds by patient, which are
divided into the folds of the reference. ``equal:FOLDER`` stands for its probabilities for equal class shares. The first
NAME is the reference of the paired differences; only folds that both have are compared. Writes results.csv and
results.png beside this file.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covid_xray.files import write_atomically
from covid_xray.metrics.calibration import apply_shares
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import estimate, fold_table
from covid_xray.metrics.predictions import Predictions, average_predictions, pool_predictions, read_predictions
from covid_xray.plots.classification import COLOURS, figure_png

HERE = Path(__file__).parent
METRICS = ("accuracy", "balanced_accuracy", "macro_auroc", "sensitivity/covid-19")


def equal_shares(predictions: Predictions, splits: Path) -> Predictions:
    """The predictions of a fold for equal class shares, as `covid-xray evaluate` reports them."""
    table = pd.read_csv(splits)
    counts = table["label"][table["split"] == "train"].value_counts()
    shares = [counts[name] for name in predictions.class_names]
    return predictions.with_probabilities(apply_shares(predictions.probabilities, shares, (1,) * len(shares)))


def read_folds(folders: list[str], reference: dict[str, Predictions]) -> dict[str, Predictions]:
    """Test predictions of each fold, averaged over the folders."""
    parts: dict[str, list[Predictions]] = {}
    for name in folders:
        folder = Path(name.removeprefix("equal:"))
        runs = sorted(folder.glob("fold*"))
        if not runs:
            predictions = read_predictions(folder / "evaluation/test/predictions.csv")
            for fold, part in reference.items():
                rows = np.flatnonzero(np.isin(predictions.images, part.images))
                parts.setdefault(fold, []).append(predictions.select(rows))
        for fold in runs:
            files = [fold / "predictions.csv", fold / "evaluation/test/predictions.csv"]
            if found := [file for file in files if file.is_file()]:
                predictions = read_predictions(found[0])
                equal = name.startswith("equal:")
                predictions = equal_shares(predictions, fold / "splits.csv") if equal else predictions
                parts.setdefault(fold.name, []).append(predictions)
    return {fold: average_predictions(members) for fold, members in parts.items() if len(members) == len(folders)}


def row(name: str, folds: dict[str, Predictions], reference: dict[str, Predictions]) -> dict[str, object]:
    """Every number about one contender."""
    values: dict[str, object] = {"recipe": name, "folds": len(folds)}
    pooled = pool_predictions(list(folds.values()))
    intervals, by_fold = estimate(pooled).intervals, fold_table(folds)
    for metric in METRICS:
        values |= {f"{metric}, mean": by_fold[metric]["mean"], f"{metric}, sd": by_fold[metric]["sd"]}
        values |= {
            f"{metric}, pooled": intervals[metric].value,
            f"{metric}, low": intervals[metric].low,
            f"{metric}, high": intervals[metric].high,
        }
    if folds is not reference:
        common = [fold for fold in folds if fold in reference]
        pair = (pool_predictions([part[fold] for fold in common]) for part in (reference, folds))
        difference = compare(*pair).differences["accuracy"]
        values |= {"folds compared": len(common), "difference": difference.value}
        values |= {"difference, low": difference.low, "difference, high": difference.high}
    return values


def draw(table: pd.DataFrame) -> None:
    """Draw accuracy, and its paired difference to the reference, with intervals."""
    figure = Figure(figsize=(9, 0.8 + 0.35 * len(table)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(table))
    for axis, column, label in (
        (left, "accuracy", "accuracy on unseen patients (%)"),
        (right, "difference", f"difference to {table['recipe'][0]} (points)"),
    ):
        value = 100 * table[f"{column}, pooled" if column == "accuracy" else column]
        low, high = (100 * table[f"{column}, {end}"] for end in ("low", "high"))
        axis.errorbar(value, rows, xerr=[value - low, high - value], fmt="o", color=COLOURS[0], capsize=3)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    right.axvline(0, color="grey", linewidth=0.8)
    left.set_yticks(rows, table["recipe"])
    left.invert_yaxis()
    write_atomically(HERE / "results.png", figure_png(figure))


def main() -> None:
    """Read, compare, write."""
    contenders: dict[str, dict[str, Predictions]] = {}
    reference: dict[str, Predictions] = {}
    for argument in sys.argv[1:]:
        name, _, folders = argument.partition("=")
        contenders[name] = read_folds(folders.split("+"), reference)
        reference = reference or contenders[name]
    table = pd.DataFrame([row(name, folds, reference) for name, folds in contenders.items()])
    write_atomically(HERE / "results.csv", table.to_csv(index=False, float_format="%.4f"))
    draw(table)
    print(table.set_index("recipe").T.to_string(float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    main()
