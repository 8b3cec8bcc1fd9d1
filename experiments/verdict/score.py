"""Scores every shortcut test against the truth of the runs of `grid.py`: ROC, thresholds, their error rates, figure.

A test gives a number that is higher the more it suspects a shortcut. The truth is the true drop: balanced accuracy on
the test images minus that on the same chests with the mark of a random source, in points or as a share of the skill,
which is the balanced accuracy above chance. Limits are chosen on seed 0 and on marks outside the lungs alone.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from grid import DIALS, INSIDE, Cell, cells
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from covid_xray.data.phantom import CLASSES
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.intervals import exact_interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.probes.shortcuts import SUSPICIOUS
from covid_xray.probes.source_probe import probe_source, probe_within_classes

CHANCE = 1 / len(CLASSES)
# What counts as a shortcut: shares of the skill, and balanced accuracy, that is lost.
PART, MOST, POINTS = 0.2, 0.5, 0.10
SHOWN = (
    "skill kept, centre black",
    "skill kept, centre exchanged",
    "skill kept, centre mean",
    "skill kept, trained on borders",
    "skill lost, centre only",
    "source probe above chance",
    "saliency outside the lungs",
)
KEYS = ["kind", "shortcut", "disease", "seed"]
FILLS = ("black", "mean", "noise", "blurred", "exchanged")


def skill(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Balanced accuracy and macro AUROC."""
    scores = softmax(logits.astype(np.float64), axis=1)
    return balanced_accuracy_score(labels, logits.argmax(axis=1)), roc_auc_score(labels, scores, multi_class="ovr")


def row(cell: Cell, file: Path) -> dict[str, object]:
    """What was measured of one run."""
    found = dict(np.load(file))
    labels, donors = found["labels"], found["donors"]
    values: dict[str, object] = dict(zip(KEYS, cell, strict=False))
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
    values["lung share"] = float(np.nanmean(found["lung share"]))
    names, features = list(found["sources"]), found["features"]
    probes = probe_within_classes(features, [CLASSES[label] for label in labels], names, images)
    excess = [probe.accuracy.value - probe.no_information_rate for probe in probes.values()]
    values["probe within classes"] = float(np.nanmean(excess)) if np.isfinite(excess).any() else np.nan
    probe = probe_source(features, names, images)
    values["probe"] = probe.accuracy.value - probe.no_information_rate
    return values


def measured(cell: Cell, runs: Path) -> dict[str, object]:
    """The row of a run, which is stored beside its file, with the skill of the same setting trained on borders."""
    file = runs / f"{cell.name}.npz"
    stored = file.with_suffix(".json")
    if not stored.is_file():
        part = stored.with_suffix(".part")
        part.write_text(json.dumps(row(cell, file)))
        part.replace(stored)
    values: dict[str, object] = json.loads(stored.read_text())
    borders = runs / f"{cell._replace(borders=True).name}.npz"
    if borders.is_file():
        found = dict(np.load(borders))
        name = "trained on borders"
        values[f"accuracy, {name}"], values[f"auroc, {name}"] = skill(found["labels"], found[name])
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
    found: dict[str, object] = {"runs": len(values), "with a shortcut": int(truth.sum())} | roc_area(values, truth)
    if choose.all() or truth[choose].nunique() < 2:
        return found
    false, true, thresholds = roc_curve(truth[choose], values[choose], drop_intermediate=False)
    best = int((true - false).argmax())
    # Half way to the next lower value, because the best threshold is a value of one of the runs.
    below = values[choose][values[choose] < thresholds[best]].max()
    threshold = round(float((thresholds[best] + below) / 2), 2)
    return found | {"threshold": threshold} | error_rates(values[~choose] >= threshold, truth[~choose])


def roc_area(values: pd.Series, truth: pd.Series) -> dict[str, object]:
    """ROC area with a bootstrap interval over networks."""
    if truth.nunique() < 2:
        return {}
    found, labels = values.to_numpy(), truth.to_numpy()
    rng, areas = np.random.default_rng(0), []
    for _ in range(500):
        drawn = rng.integers(len(found), size=len(found))
        if 0 < labels[drawn].sum() < len(found):
            areas.append(auroc(found[drawn], labels[drawn]))
    low, high = np.quantile(areas, (0.025, 0.975))
    return {"ROC area": f"{auroc(found, labels):.2f} ({low:.2f} to {high:.2f})"}


def auroc(values: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pairs of a true and a false row in which the true one is higher; much faster than scikit-learn."""
    difference = np.subtract.outer(values[truth], values[~truth])
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)


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
        text, colour = ("no skill", "grey") if np.isnan(value) else (f"{100 * value:.0f}", "wk"[int(value > 0.6)])
        axes[0].text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    axes[0].set(xticks=range(5), xticklabels=DIALS, yticks=range(5), yticklabels=DIALS, xlabel="shortcut")
    axes[0].set(ylabel="disease", title="True loss, marker or frame (% of the skill)")
    inside = rows["kind"].isin(INSIDE)
    for axis, part, title in (
        (axes[1], ~inside, "Mark outside the lungs, or none"),
        (axes[2], inside, "Mark in the lungs too"),
    ):
        kept = 100 * share(rows, "centre black").clip(upper=1.6)
        for kind, marker in zip(("none", "marker", "frame", *INSIDE), "xosv^D", strict=True):
            those = part & (rows["kind"] == kind)
            if those.any():
                axis.scatter(100 * lost[those], kept[those], marker=marker, alpha=0.6, label=kind)
        axis.axvline(100 * PART, color="grey", linestyle=":")
        axis.axhline(100 * SUSPICIOUS, color="grey", linestyle=":")
        axis.set(xlabel="true loss (% of the skill)", ylabel="skill kept, centre black (%)", title=title)
        axis.set(xlim=(-12, 105), ylim=(-5, 165))
        axis.legend(fontsize=7, loc="upper left")
    truth = lost >= PART
    for name, values in tests(rows[~inside]):
        known = values.notna()
        if name in SHOWN and truth[~inside][known].nunique() == 2:
            false, true, _ = roc_curve(truth[~inside][known], values[known])
            axes[3].plot(false, true, label=f"{name} ({roc_auc_score(truth[~inside][known], values[known]):.2f})")
    axes[3].set(xlabel="1 - specificity", ylabel="sensitivity")
    axes[3].set(title=f"Finds a loss of {100 * PART:.0f} %; mark outside the lungs")
    axes[3].legend(fontsize=7, loc="lower right")
    figure.savefig(file, dpi=90)


def main() -> None:
    """Write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/verdict"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    done = [cell for cell in cells() if not cell.borders and (options.runs / f"{cell.name}.npz").is_file()]
    if done:
        found = pd.DataFrame([measured(cell, options.runs) for cell in done])
        found.round(4).to_csv(options.results / "runs.csv", index=False)
    rows = pd.read_csv(options.results / "runs.csv")
    skilled = rows[rows["accuracy, whole image, low"] > CHANCE]
    print(f"{len(rows)} runs, {len(skilled)} of them with skill above chance")
    drop = (skilled["accuracy, whole image"] - skilled["accuracy, mark random"]).fillna(0)  # no mark: no drop
    lost = drop / (skilled["accuracy, whole image"] - CHANCE)
    inside = skilled["kind"].isin(INSIDE)
    truths = {
        f"{100 * PART:.0f} % of the skill": lost >= PART,
        f"{100 * MOST:.0f} % of the skill": lost >= MOST,
        f"{100 * POINTS:.0f} points": drop >= POINTS,
    }
    table = []
    for question, truth in truths.items():
        for name, values in tests(skilled):
            chosen = judge(values[~inside], truth[~inside], skilled["seed"][~inside] == 0)
            table.append({"marks": "outside", "truth": question, "test": name} | chosen)
            for kind in (*INSIDE, "all inside"):
                those = inside & values.notna() & ((skilled["kind"] == kind) | (kind == "all inside"))
                if those.any():
                    found = {"marks": kind, "truth": question, "test": name, "runs": int(those.sum())}
                    found |= {"with a shortcut": int(truth[those].sum())} | roc_area(values[those], truth[those])
                    if "threshold" in chosen:
                        found |= {"threshold": chosen["threshold"]}
                        found |= error_rates(values[those] >= chosen["threshold"], truth[those])
                    table.append(found)
    results = pd.DataFrame(table).sort_values("marks", key=lambda marks: marks != "outside", kind="stable")
    results.to_csv(options.results / "tests.csv", index=False)
    print(results.to_string(index=False))
    draw_figure(skilled, lost, options.results / "verdict.png")


if __name__ == "__main__":
    main()
