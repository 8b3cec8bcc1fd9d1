"""Scores every shortcut test against the truth of the runs of `grid.py`: ROC, thresholds, their error rates, figure.

A test gives a number that is higher the more it suspects a shortcut. The truth is the true drop: balanced accuracy on
the test images minus that on the same chests with the mark of a random source, in points or as a share of the skill,
which is the balanced accuracy above chance.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from grid import DIALS, Cell, cells
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from covid_xray.data.phantom import CLASSES
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.intervals import exact_interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.probes.source_probe import probe_source, probe_within_classes

CHANCE = 1 / len(CLASSES)
PART, MOST, POINTS = (
    0.2,
    0.5,
    0.10,
)  # what counts as a shortcut: shares of the skill, and balanced accuracy, that is lost
SHOWN = (
    "skill kept, centre black",
    "skill kept, centre exchanged",
    "skill kept, centre mean",
    "skill kept, trained on borders",
    "skill lost, centre only",
    "source probe above chance",
    "saliency outside the lungs",
)
FILLS = ("black", "mean", "noise", "blurred", "exchanged")


def skill(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Balanced accuracy and macro AUROC."""
    scores = softmax(logits.astype(np.float64), axis=1)
    return balanced_accuracy_score(labels, logits.argmax(axis=1)), roc_auc_score(labels, scores, multi_class="ovr")


def row(cell: Cell, file: Path) -> dict[str, object]:
    """What was measured of one run."""
    found = dict(np.load(file))
    labels, donors = found["labels"], found["donors"]
    values: dict[str, object] = dict(zip(("kind", "shortcut", "disease", "seed"), cell, strict=False))
    if (borders := file.with_stem(f"{file.stem}-borders")).is_file():
        found["trained on borders"] = dict(np.load(borders))["trained on borders"]
    for name, logits in found.items():
        if logits.ndim == 2 and name != "features":
            values[f"accuracy, {name}"], values[f"auroc, {name}"] = skill(labels, logits)
    # The same pictures, but the class is that of the centre.
    for place, value in zip(("accuracy", "auroc"), skill(labels[donors], found["centre exchanged"]), strict=True):
        values[f"{place}, border exchanged"] = value
    images = [str(number) for number in range(len(labels))]  # one image of each patient
    for name in ("whole image", "centre exchanged"):
        scores = softmax(found[name].astype(np.float64), axis=1)
        intervals = estimate(Predictions.build(labels.tolist(), scores, CLASSES, images, images), 500).intervals
        values[f"accuracy, {name}, low"] = intervals["balanced_accuracy"].low
        values[f"auroc, {name}, low"] = intervals["macro_auroc"].low
    values["lung share"] = np.nanmean(found["lung share"])
    names, features = list(found["sources"]), found["features"]
    probes = probe_within_classes(features, [CLASSES[label] for label in labels], names, images)
    excess = [probe.accuracy.value - probe.no_information_rate for probe in probes.values()]
    values["probe within classes"] = np.nanmean(excess) if np.isfinite(excess).any() else np.nan
    probe = probe_source(features, names, images)
    values["probe"] = probe.accuracy.value - probe.no_information_rate
    return values


def share(rows: pd.DataFrame, condition: str) -> pd.Series:
    """Share of the skill that remains under a condition, as in `covid_xray.probes.shortcuts.shortcut_verdict`."""
    if f"accuracy, {condition}" not in rows:
        return pd.Series(np.nan, rows.index)
    accuracy = (rows[f"accuracy, {condition}"] - CHANCE) / (rows["accuracy, whole image"] - CHANCE)
    auroc = (rows[f"auroc, {condition}"] - 0.5) / (rows["auroc, whole image"] - 0.5)
    return np.maximum(np.maximum(accuracy, auroc), 0)


def certain_share(rows: pd.DataFrame) -> pd.Series:
    """The share with exchanged centres, or 0 if it may be chance."""
    is_above = (rows["accuracy, centre exchanged, low"] > CHANCE) | (rows["auroc, centre exchanged, low"] > 0.5)
    return share(rows, "centre exchanged").where(is_above, 0.0)


def tests(rows: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Name and value of every test of every run."""
    for fill in FILLS:
        yield f"skill kept, centre {fill}", share(rows, f"centre {fill}")
        yield f"AUROC, centre {fill}", rows[f"auroc, centre {fill}"]
    yield "skill kept, centre exchanged, if above chance", certain_share(rows)
    yield "skill kept, trained on borders", share(rows, "trained on borders")
    for condition in ("centre only", "border removed", "border exchanged"):
        yield f"skill lost, {condition}", 1 - share(rows, condition)
    yield "source probe above chance", rows["probe"]
    yield "source probe within classes above chance", rows["probe within classes"]
    yield "saliency outside the lungs", 1 - rows["lung share"]


def judge(values: pd.Series, truth: pd.Series, choose: pd.Series) -> dict[str, object]:
    """ROC area over all runs, the threshold chosen on some runs, and its error rates on the others."""
    known = values.notna()
    values, truth, choose = values[known], truth[known], choose[known]
    found: dict[str, object] = {"runs": len(values), "with a shortcut": int(truth.sum())}
    if truth.nunique() < 2:
        return found
    rng, areas = np.random.default_rng(0), []
    for _ in range(500):
        drawn = rng.integers(len(values), size=len(values))
        if 0 < truth.to_numpy()[drawn].sum() < len(values):
            areas.append(roc_auc_score(truth.to_numpy()[drawn], values.to_numpy()[drawn]))
    low, high = np.quantile(areas, (0.025, 0.975))
    found["ROC area"] = f"{roc_auc_score(truth, values):.2f} ({low:.2f} to {high:.2f})"
    if choose.all() or truth[choose].nunique() < 2:
        return found
    false, true, thresholds = roc_curve(truth[choose], values[choose], drop_intermediate=False)
    best = int((true - false).argmax())
    # Half way to the next lower value, because the best threshold is a value of one of the runs.
    below = values[choose][values[choose] < thresholds[best]].max()
    threshold = round(float((thresholds[best] + below) / 2), 2)
    return found | {"threshold": threshold} | error_rates(values[~choose] >= threshold, truth[~choose])


def error_rates(positive: pd.Series, truth: pd.Series) -> dict[str, object]:
    """Sensitivity and specificity with exact 95 % intervals."""
    found: dict[str, object] = {}
    for name, rows in (("sensitivity", truth), ("specificity", ~truth)):
        hits = int((positive[rows] == truth[rows]).sum())
        text = exact_interval(hits, int(rows.sum())).text(percent=True, digits=0)
        found[name] = f"{hits} of {int(rows.sum())}: {text}"
    return found


def draw_figure(rows: pd.DataFrame, lost: pd.Series, file: Path) -> None:
    """True loss over the grid, two tests against it, and ROC curves."""
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    grid = rows.assign(lost=lost)[rows["kind"].isin(["marker", "frame"])]
    losses = grid.pivot_table(index="disease", columns="shortcut", values="lost").reindex(index=DIALS, columns=DIALS)
    axes[0].imshow(100 * losses, origin="lower", cmap="viridis", vmin=0, vmax=100)
    for (y, x), value in np.ndenumerate(losses.to_numpy()):
        text = "no skill" if np.isnan(value) else f"{100 * value:.0f}"
        axes[0].text(x, y, text, ha="center", va="center", fontsize=8, color="black" if value > 0.6 else "grey")
    axes[0].set(xticks=range(5), xticklabels=DIALS, yticks=range(5), yticklabels=DIALS, xlabel="shortcut")
    axes[0].set(ylabel="disease", title="True loss (% of the skill)")
    for axis, condition in zip(axes[1:3], ("centre black", "centre exchanged"), strict=True):
        kept = 100 * share(rows, condition).clip(upper=1.6)
        points = axis.scatter(100 * lost, kept, c=rows["disease"], cmap="coolwarm", edgecolors="grey")
        axis.plot((0, 100), (0, 100), color="grey", linestyle=":")
        axis.set(xlabel="true loss (% of the skill)", ylabel="skill kept (%)", title=condition, ylim=(-5, 165))
    figure.colorbar(points, ax=axes[2], label="disease")
    truth = lost >= PART
    for name, values in tests(rows):
        known = values.notna()
        if name in SHOWN and truth[known].nunique() == 2:
            false, true, _ = roc_curve(truth[known], values[known])
            axes[3].plot(false, true, label=f"{name} ({roc_auc_score(truth[known], values[known]):.2f})")
    axes[3].set(
        xlabel="1 - specificity", ylabel="sensitivity", title=f"Finds a loss of {100 * PART:.0f} % of the skill"
    )
    axes[3].legend(fontsize=7, loc="lower right")
    figure.savefig(file, dpi=90)


def main() -> None:
    """Write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/verdict"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    files = {cell: options.runs / f"{cell.name}.npz" for cell in cells() if not cell.borders}
    if any(file.is_file() for file in files.values()):
        measured = [row(cell, file) for cell, file in files.items() if file.is_file()]
        pd.DataFrame(measured).round(4).to_csv(options.results / "runs.csv", index=False)
    rows = pd.read_csv(options.results / "runs.csv")
    skilled = rows[rows["accuracy, whole image, low"] > CHANCE]
    print(f"{len(rows)} runs, {len(skilled)} of them with skill above chance")
    drop = (skilled["accuracy, whole image"] - skilled["accuracy, mark random"]).fillna(0)  # no mark: no drop
    lost = drop / (skilled["accuracy, whole image"] - CHANCE)
    outside = skilled["kind"].isin(["marker", "frame", "none"])
    truths = {
        f"{100 * PART:.0f} % of the skill": lost >= PART,
        f"{100 * MOST:.0f} % of the skill": lost >= MOST,
        f"{100 * POINTS:.0f} points": drop >= POINTS,
    }
    table = []
    for question, truth in truths.items():
        for name, values in tests(skilled[outside]):
            chosen = judge(values, truth[outside], skilled["seed"][outside] == 0)
            table.append({"truth": question, "test": name} | chosen)
    found = pd.DataFrame(table)
    found.to_csv(options.results / "tests.csv", index=False)
    print(found.to_string(index=False))
    draw_figure(skilled[outside], lost[outside], options.results / "verdict.png")


if __name__ == "__main__":
    main()
