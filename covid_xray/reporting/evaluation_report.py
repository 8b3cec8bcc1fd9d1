"""A study as figures, one HTML report and plain numbers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from covid_xray.metrics.calibration import top_label_bins
from covid_xray.metrics.estimates import interval_dict
from covid_xray.plots.classification import (
    class_bars_figure,
    confusion_matrix_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from covid_xray.plots.evaluation import saliency_figure, shortcut_figure
from covid_xray.reporting.html import Picture, Report, Section
from covid_xray.reporting.tables import (
    Table,
    class_table,
    metric_text,
    operating_table,
    overall_table,
    published_table,
)
from covid_xray.runs import provenance
from covid_xray.runs.evaluate import AS_TRAINED, CALIBRATED, EvaluationResult
from covid_xray.runs.folder import flatten
from covid_xray.runs.inference import TTA_BETA, TTA_PASSES, TTA_SCALE, WHOLE


def draw(study: EvaluationResult) -> dict[str, Picture]:
    """Every figure of the study, by the name of its file."""
    estimates, predictions = study.estimates, study.predictions
    intervals = estimates.intervals
    variants = {AS_TRAINED: study.raw} | ({CALIBRATED: predictions} if study.calibration else {})
    bins = {name: top_label_bins(part.labels, part.probabilities) for name, part in variants.items()}
    errors = {name: study.variants[name].intervals["ece"] for name in variants}
    pictures = {
        "confusion": _chart(
            confusion_matrix_figure(estimates.scores.confusion, predictions.class_names), "Confusion matrix"
        ),
        "by_class": _chart(class_bars_figure(intervals, estimates.cases), "Each class against all others"),
        "roc": _chart(roc_figure(predictions, intervals), "ROC curves, each class against all others"),
        "precision_recall": _chart(precision_recall_figure(predictions, intervals), "Precision-recall curves"),
        "reliability": _chart(reliability_figure(bins, errors), "Reliability of the predicted class"),
        "shortcuts": _chart(_shortcut_figure(study), "Balanced accuracy and AUROC on whole and on masked images"),
    }
    if study.gallery is not None:
        gallery = study.gallery
        figure = saliency_figure(gallery.images[:, 0], gallery.maps, gallery.titles)
        caption = "Grad-CAM of the predicted class: surest errors, least sure hits, a random sample of every class"
        pictures["saliency"] = Picture(figure, caption, chart=False)
    return pictures


def render(study: EvaluationResult, name: str, pictures: Mapping[str, Picture]) -> Report:
    """The report's content."""
    folder = study.run.folder.path
    return Report(
        title=f"Evaluation of {folder.resolve().name}",
        subtitle=f"{data_words(study)}; {study.run.checkpoint} checkpoint; evaluation {name!r}",
        key_figures=key_figures(study),
        warnings=[*study.leaks, *study.estimates.warnings],
        sections=_sections(study, pictures),
        provenance=origins(study),
    )


def numbers(study: EvaluationResult) -> dict[str, Any]:
    """Everything as plain types, for ``metrics.json``."""
    calibration = study.calibration
    return {
        "images": len(study.table),
        "classes": list(study.predictions.class_names),
        "data": data_words(study),
        "own_test_images": study.own,
        "variants": {name: estimates.to_dict() for name, estimates in study.variants.items()},
        "written_predictions": CALIBRATED if calibration is not None else AS_TRAINED,
        "temperature": asdict(calibration.temperature) if calibration is not None else None,
        "operating_points": [
            {
                "class": result.point.class_name,
                "rule": result.point.rule,
                "threshold": result.point.threshold,
                "sensitivity": interval_dict(result.sensitivity),
                "specificity": interval_dict(result.specificity),
                "prevalence": result.prevalence if result.prevalence == result.prevalence else None,
                "ppv": interval_dict(result.ppv),
                "npv": interval_dict(result.npv),
            }
            for result in study.thresholds
        ],
        "shortcuts": {
            "conditions": {name: estimates.to_dict() for name, estimates in study.conditions.items()},
            "verdict": study.verdict.text,
            "rule": study.verdict.rule,
            "skill_kept": study.verdict.kept if study.verdict.kept == study.verdict.kept else None,
            "cheats": study.verdict.cheats,
            "source": study.source_text,
            "source_probe": {
                name: {"accuracy": interval_dict(probe.accuracy), "text": probe.text}
                for name, probe in study.probes.items()
            },
        },
        "saliency_check": study.gallery.check.text if study.gallery is not None else study.no_gallery,
        "leaks": list(study.leaks),
        "provenance": origins(study),
        "configuration": OmegaConf.to_container(study.run.cfg, resolve=True),
    }


def data_words(study: EvaluationResult) -> str:
    """What was tested on, in words."""
    cfg, count = study.run.cfg, f"{len(study.table):,} images of {study.predictions.n_patients:,} patients"
    if not study.own:
        missing = [name for name, cases in study.estimates.cases.items() if not cases]
        lacks = f", none of class {', '.join(missing)}" if missing else ""
        return f"{count} of another data set (external test){lacks}"
    words = f"{count} of the run's own data, split by {OmegaConf.select(cfg, 'data.split') or 'its own rule'}"
    folds = OmegaConf.select(cfg, "data.folds")
    return words + (f", fold {cfg.data.fold} of {folds}" if folds else "")


def key_figures(study: EvaluationResult) -> dict[str, str]:
    """The numbers for the head of the page."""
    intervals = study.estimates.intervals
    found = {"accuracy": intervals["accuracy"].text(percent=True)}
    found["balanced accuracy"] = metric_text("balanced_accuracy", intervals["balanced_accuracy"])
    found["macro AUROC"] = intervals["macro_auroc"].text()
    if covid := covid_class(study.predictions.class_names):
        found[f"sensitivity, {covid}"] = intervals[f"sensitivity/{covid}"].text(percent=True)
    found["calibration error"] = intervals["ece"].text()
    kept = study.verdict.kept
    found["skill left without the lungs"] = f"{100 * kept:.0f} %" if kept == kept else "cannot be told"
    return found


def covid_class(names: tuple[str, ...]) -> str | None:
    """The class that is COVID-19, by its name."""
    return next((name for name in names if "covid" in name.lower()), None)


def origins(study: EvaluationResult) -> dict[str, str]:
    """Where the figures come from."""
    run = study.run
    hashes = list(study.table["sha256"])
    return {
        "commit of this software": provenance.commit(),
        "run folder": str(run.folder.path.resolve()),
        "configuration (SHA-256)": provenance.file_hash(run.folder.config),
        "checkpoint": f"{run.checkpoint}.ckpt, SHA-256 {run.checkpoint_sha256}",
        "seed of the training": str(run.cfg.get("seed")),
        "splits.csv (SHA-256)": provenance.file_hash(run.folder.splits),
        "test images (SHA-256 of their SHA-256)": provenance.data_hash(hashes),
        "leak mark": " ".join(study.leaks) or "no shared patient and no copied file found",
        "pixels and precision": f"{run.image_size} x {run.image_size}, {run.precision}",
        "hardware": provenance.hardware(run.device.type),
        "wall time of this evaluation": f"{study.seconds:.0f} s",
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }


def _sections(study: EvaluationResult, pictures: Mapping[str, Picture]) -> list[Section]:
    estimates, calibration = study.estimates, study.calibration
    overall = overall_table(study.variants)
    words = ["The no-information rate is the accuracy of always naming the commonest class."]
    if len(study.variants) > 2:
        words.append(
            f"Test-time augmentation: {TTA_PASSES} views of every image, each corner enlarged by {TTA_SCALE}, straight "
            f"and mirrored, with the training's other augmentations drawn anew. fastai's rule: {TTA_BETA} of the plain "
            f"image's probabilities and {1 - TTA_BETA:g} of the views' mean; plain mean: of the image and its views. "
            "Both before the temperature."
        )
    sections = [
        Section(
            "Discrimination",
            words,
            pictures=[pictures[key] for key in ("confusion", "by_class", "roc", "precision_recall")],
            tables=[overall, class_table(estimates)],
        ),
        Section("Calibration", _calibration_words(study), pictures=[pictures["reliability"]]),
    ]
    if study.thresholds:
        words = ["A class is called where its calibrated probability reaches the threshold."]
        sections.append(Section("Thresholds", words, tables=[operating_table(study.thresholds)]))
    if study.gallery is not None:
        sections.append(Section("Where it looks", [study.gallery.check.text], pictures=[pictures["saliency"]]))
    else:
        sections.append(Section("Where it looks", [study.no_gallery]))
    sections.append(_shortcut_section(study, pictures["shortcuts"]))
    beside = published_table("This run", estimates, covid_class(study.predictions.class_names), data_words(study))
    sections.append(Section("Beside the published", tables=[beside]))
    rows = tuple((key, str(value)) for key, value in flatten(study.run.cfg).items())
    sections.append(Section("Configuration", tables=[Table(("setting", "value"), rows)]))
    if calibration is not None and calibration.warnings:
        sections[1] = Section("Calibration", _calibration_words(study), calibration.warnings, [pictures["reliability"]])
    return sections


def _calibration_words(study: EvaluationResult) -> list[str]:
    if study.calibration is None:
        return [f"Not calibrated: {study.no_calibration}. Probabilities are those of the training."]
    found = study.calibration.temperature
    return [
        f"Temperature {found.value:.3f}, fitted on {study.calibration.images:,} validation images only: their negative "
        f"log-likelihood went from {found.nll_before:.4f} to {found.nll_after:.4f}. It is stored in calibration.json."
    ]


def _shortcut_section(study: EvaluationResult, picture: Picture) -> Section:
    rows = []
    for name, estimates in study.conditions.items():
        values = (
            metric_text(key, estimates.intervals[key]) for key in ("accuracy", "balanced_accuracy", "macro_auroc")
        )
        rows.append((name, *values))
    table = Table(("images", "accuracy", "balanced accuracy", "macro AUROC"), tuple(rows), "With and without the lungs")
    told = {name: probe for name, probe in study.probes.items() if not np.isnan(probe.accuracy.value)}
    probes = [f"{name}: {probe.text}" for name, probe in (told or dict(list(study.probes.items())[:1])).items()]
    warnings = [study.verdict.text] if study.verdict.cheats else []
    words = ([] if study.verdict.cheats else [study.verdict.text]) + [study.verdict.rule, study.source_text, *probes]
    return Section("Does it cheat", words, warnings, [picture], [table])


def _shortcut_figure(study: EvaluationResult) -> Figure:
    pairs = {
        name: (estimates.intervals["balanced_accuracy"], estimates.intervals["macro_auroc"])
        for name, estimates in study.conditions.items()
    }
    occurring = sum(count > 0 for count in study.conditions[WHOLE].cases.values())
    return shortcut_figure(pairs, 1 / occurring)


def _chart(figure: Figure, caption: str) -> Picture:
    return Picture(figure, caption)
