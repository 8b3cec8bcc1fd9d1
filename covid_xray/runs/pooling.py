"""The runs of a cross-validation as one: every image tested once, by the fold that did not train on it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from covid_xray.commands.one_run import evaluate, name_of
from covid_xray.errors import UserError
from covid_xray.metrics.calibration import top_label_bins
from covid_xray.metrics.estimates import Estimates, estimate, fold_table
from covid_xray.metrics.predictions import Predictions, pool_predictions, read_predictions
from covid_xray.metrics.scores import OVERALL
from covid_xray.plots.classification import (
    class_bars_figure,
    confusion_matrix_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from covid_xray.reporting.evaluation_folder import write_evaluation, write_tensorboard
from covid_xray.reporting.evaluation_report import covid_class
from covid_xray.reporting.html import Picture, Report, Section
from covid_xray.reporting.tables import (
    Table,
    class_table,
    fold_values_table,
    metric_text,
    overall_table,
    published_table,
)
from covid_xray.runs import provenance
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.load import check_run


def pool(cfg: DictConfig, runs: Sequence[Path]) -> None:
    """Evaluate every fold that is not yet evaluated, then all together; write it into the folder of the runs.

    Raises:
        UserError: If the runs are no folds of one cross-validation.
    """
    if cfg.get("data") is not None:
        raise UserError("data=... tests one run on another data set; give run= the folder of a single run")
    _check_folds(cfg, runs)
    name = name_of(cfg)
    parts, found = {}, {}
    for run in runs:
        folder = run / "evaluation" / name
        if not _is_current(folder, run, cfg):
            print(f"Evaluating {run}")
            evaluate(OmegaConf.merge(cfg, {"run": str(run)}))  # type: ignore[arg-type]
        parts[run.name] = read_predictions(folder / "predictions.csv")
        found[run.name] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    pooled = pool_predictions(list(parts.values()))
    estimates = estimate(pooled, cfg.resamples, cfg.seed)
    folds = fold_table(parts)
    pictures = _draw(pooled, estimates)
    target = Path(cfg.run) / "evaluation" / name
    report = _report(Path(cfg.run), pooled, estimates, folds, found, pictures)
    tested = {"calibrated, all folds": estimates}
    drawn = write_evaluation(target, pooled, tested, _numbers(pooled, estimates, folds, found), pictures, report)
    write_tensorboard(Path(cfg.run), name, estimates, drawn)
    row = folds["accuracy"]
    print(f"{len(runs)} folds, {len(pooled.labels)} images of {pooled.n_patients} patients")
    print(f"Accuracy: pooled {estimates.intervals['accuracy'].text(percent=True)}")
    print(f"Accuracy by fold: mean {100 * row['mean']:.1f} %, SD {100 * row['sd']:.1f} %")
    print(f"Report: {target / 'report.html'}\nResearch only: not for diagnosis.")


def _check_folds(cfg: DictConfig, runs: Sequence[Path]) -> None:
    if len(runs) < 2:
        raise UserError(f"run={cfg.run} holds one finished run only; give run= that run's folder")
    seen: dict[int, Path] = {}
    folds = set()
    for run in runs:
        data = check_run(str(run), cfg.checkpoint, cfg.trust)[1].data
        fold = OmegaConf.select(data, "fold")
        folds.add(OmegaConf.select(data, "folds"))
        if fold in seen:
            raise UserError(f"{seen[fold].name} and {run.name} are both fold {fold}; pooling needs every fold once")
        seen[fold] = run
    if len(folds) != 1 or None in folds:
        raise UserError(f"run={cfg.run}: the runs are not the folds of one cross-validation (data.folds differs)")
    wanted = int(folds.pop())
    if missing := sorted(set(range(wanted)) - set(seen)):
        raise UserError(f"run={cfg.run}: fold {missing[0]} of {wanted} is missing or not finished; train it first")


def _is_current(folder: Path, run: Path, cfg: DictConfig) -> bool:
    """Whether a fold's evaluation is of its present checkpoint and has every part that is asked for."""
    try:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        checkpoint = check_run(str(run), cfg.checkpoint, cfg.trust)[2]
        files = RunFolder(run)
        weights = provenance.file_hash(files.best if checkpoint == "best" else files.last)
        same = found["provenance"]["checkpoint"] == f"{checkpoint}.ckpt, SHA-256 {weights}"
        return bool(same and found["written_predictions"] == "calibrated")
    except (OSError, ValueError, KeyError):
        return False


def _draw(pooled: Predictions, estimates: Estimates) -> dict[str, Picture]:
    intervals = estimates.intervals
    bins = {"calibrated, all folds": top_label_bins(pooled.labels, pooled.probabilities)}
    figures = {
        "confusion": (confusion_matrix_figure(estimates.scores.confusion, pooled.class_names), "Pooled confusion"),
        "by_class": (class_bars_figure(intervals, estimates.cases), "Each class against all others"),
        "roc": (roc_figure(pooled, intervals), "ROC curves of the pooled predictions"),
        "precision_recall": (precision_recall_figure(pooled, intervals), "Precision-recall curves"),
        "reliability": (
            reliability_figure(bins, {"calibrated, all folds": intervals["ece"]}),
            "Reliability of the predicted class",
        ),
    }
    return {name: Picture(figure, caption) for name, (figure, caption) in figures.items()}


def _numbers(
    pooled: Predictions,
    estimates: Estimates,
    folds: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    return {
        "images": len(pooled.labels),
        "classes": list(pooled.class_names),
        "pooled": estimates.to_dict(),
        "folds": {
            metric: {fold: None if np.isnan(value) else value for fold, value in row.items()}
            for metric, row in folds.items()
        },
        "verdicts": {fold: numbers["shortcuts"]["verdict"] for fold, numbers in found.items()},
        "leaks": {fold: numbers["leaks"] for fold, numbers in found.items()},
        "provenance": _origins(found),
    }


def _origins(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    checkpoints = {f"checkpoint, {fold}": numbers["provenance"]["checkpoint"] for fold, numbers in found.items()}
    return {
        "commit of this software": provenance.commit(),
        **checkpoints,
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }


def _report(
    path: Path,
    pooled: Predictions,
    estimates: Estimates,
    folds: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, Picture],
) -> Report:
    covid = covid_class(pooled.class_names)
    by_class = [f"sensitivity/{name}" for name in pooled.class_names]
    verdicts = tuple((fold, numbers["shortcuts"]["verdict"]) for fold, numbers in found.items())
    leaks = [f"{fold}: {words}" for fold, numbers in found.items() for words in numbers["leaks"]]
    data = f"{len(pooled.labels):,} images of {pooled.n_patients:,} patients, {len(found)} folds pooled"
    values = ("accuracy", "balanced_accuracy", "macro_auroc", "ece")
    words = [
        "Pooled: every image once, predicted by the fold that did not train on it. Scores of different folds come from "
        "different networks, so that a pooled AUROC is a little pessimistic; the mean over folds stands beside it."
    ]
    keys = ("confusion", "by_class", "roc", "precision_recall")
    sections = [
        Section("By fold", tables=[fold_values_table(folds, [*OVERALL, *by_class])]),
        Section(
            "All folds together",
            words,
            pictures=[pictures[key] for key in keys],
            tables=[overall_table({"pooled": estimates}), class_table(estimates)],
        ),
        Section("Calibration", ["Each fold has its own temperature."], pictures=[pictures["reliability"]]),
        Section("Does it cheat", tables=[Table(("fold", "verdict"), verdicts)]),
        Section("Beside the published", tables=[published_table("This cross-validation", estimates, covid, data)]),
    ]
    return Report(
        title=f"Cross-validation {path.resolve().name}",
        subtitle=data,
        key_figures={name.replace("_", " "): metric_text(name, estimates.intervals[name]) for name in values},
        warnings=[*leaks, *estimates.warnings],
        sections=sections,
        provenance=_origins(found),
    )
