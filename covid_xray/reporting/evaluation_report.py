"""The figures, the report and the numbers of one evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from covid_xray.data.images.resize import shrink
from covid_xray.metrics.calibration import image_nll, top_label_bins
from covid_xray.metrics.estimates import Estimates, interval_dict
from covid_xray.metrics.groups import GroupMetrics
from covid_xray.metrics.intervals import Interval
from covid_xray.metrics.predictions import Predictions
from covid_xray.plots.classification import (
    class_bars_figure,
    confusion_matrix_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from covid_xray.plots.evaluation import heat_overlay, saliency_figure, shortcut_figure, sources_figure
from covid_xray.reporting.html import Mark, Photo, PhotoGroup, Picture, Report, Section
from covid_xray.reporting.tables import (
    Table,
    class_table,
    drop_table,
    group_table,
    metric_text,
    operating_table,
    overall_table,
    published_table,
    sensitivity_table,
    source_table,
)
from covid_xray.runs import provenance
from covid_xray.runs.config import select
from covid_xray.runs.evaluate import (
    AS_TRAINED,
    CALIBRATED,
    EQUAL_SHARES,
    RANDOM,
    TOP_LOSS,
    UNSURE_HIT,
    EvaluationResult,
)
from covid_xray.runs.external import ExternalTest
from covid_xray.runs.folder import flatten
from covid_xray.runs.inference import TTA_BETA, TTA_PASSES, TTA_SCALE, WHOLE

DISCRIMINATION = ("confusion", "by_class", "roc", "precision_recall")
NO_LEAK = "no shared patient and no copied file found"
_PAIR_WIDTH = 560  # pixels of an X-ray and its heat map
_MOST_SOURCES = 12  # panels; tables have all sources
_SALIENCY = {
    TOP_LOSS: "The highest losses",
    UNSURE_HIT: "Right, with the lowest probability",
    RANDOM: "Random images of each class",
}


def draw(result: EvaluationResult) -> dict[str, Picture]:
    """All figures of an evaluation, by the name of their file."""
    variants = {AS_TRAINED: result.uncalibrated}
    if result.calibration is not None:
        variants[CALIBRATED] = result.predictions
    curves = {name: (part, result.variants[name].intervals["ece"]) for name, part in variants.items()}
    conditions = {
        name: (estimates.intervals["balanced_accuracy"], estimates.intervals["macro_auroc"])
        for name, estimates in result.conditions.items()
    }
    chance = 1 / sum(cases > 0 for cases in result.conditions[WHOLE].cases.values())
    pictures = draw_classification(result.predictions, result.estimates, curves)
    pictures["shortcuts"] = Picture(
        shortcut_figure(conditions, chance), "Balanced accuracy and AUROC on whole and on masked images"
    )
    if result.groups is not None and (panels := _panels(result.groups)):
        more = f"the {_MOST_SOURCES} sources with most images" if len(panels) < len(result.groups.sources) else "source"
        pictures["sources"] = Picture(sources_figure(panels), f"Accuracy, and sensitivity of each class, by {more}")
    if result.gallery is not None:
        gallery = result.gallery
        described = zip(gallery.kinds, gallery.rows, strict=True)
        titles = [f"{kind}: {result.predictions.describe(row)}" for kind, row in described]
        figure = saliency_figure(gallery.images[:, 0], gallery.maps, titles)
        caption = "Grad-CAM of the predicted class: highest losses, least confident hits, random images of every class"
        pictures["saliency"] = Picture(figure, caption, chart=False)
    return pictures


def _panels(groups: GroupMetrics) -> dict[str, Estimates]:
    """The sources with most images, if there are several, in the order of the tables."""
    sizes = {name: sum(found.cases.values()) for name, found in groups.sources.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_MOST_SOURCES]
    return {name: found for name, found in groups.sources.items() if name in largest} if len(sizes) > 1 else {}


def photo_groups(result: EvaluationResult) -> dict[str, PhotoGroup]:
    """Some test images with their saliency maps, by kind; empty if there are no maps."""
    if (gallery := result.gallery) is None:
        return {}
    losses = image_nll(result.predictions.labels, result.predictions.probabilities)
    found: dict[str, list[Photo]] = {}
    for image, heat, row, kind in zip(gallery.images[:, 0], gallery.maps, gallery.rows, gallery.kinds, strict=True):
        shown = shrink(heat_overlay(image, heat), _PAIR_WIDTH)
        loss = f"loss {losses[row]:.2f}"
        caption = f"true class {result.predictions.describe(row)}, {loss}\n{result.predictions.images[row]}"
        found.setdefault(kind, []).append(Photo(shown, caption))
    return {kind: PhotoGroup(_SALIENCY[kind], photos, are_pairs=True) for kind, photos in found.items()}


def draw_classification(
    predictions: Predictions, estimates: Estimates, curves: Mapping[str, tuple[Predictions, Interval]]
) -> dict[str, Picture]:
    """Figures of a classifier, by the name of their file.

    Args:
        predictions: Predictions of the test images.
        estimates: Their metrics.
        curves: Predictions and calibration error of every reliability curve, by name.
    """
    bins = {name: top_label_bins(part.labels, part.probabilities) for name, (part, _) in curves.items()}
    errors = {name: error for name, (_, error) in curves.items()}
    figures = {
        "confusion": (
            confusion_matrix_figure(estimates.scores.confusion, predictions.class_names),
            "Confusion matrix",
        ),
        "by_class": (class_bars_figure(estimates.intervals, estimates.cases), "Each class against all others"),
        "roc": (roc_figure(predictions, estimates.intervals), "ROC curves, each class against all others"),
        "precision_recall": (precision_recall_figure(predictions, estimates.intervals), "Precision-recall curves"),
        "reliability": (reliability_figure(bins, errors), "Reliability of the predicted class"),
    }
    return {name: Picture(figure, caption) for name, (figure, caption) in figures.items()}


def build_report(result: EvaluationResult, name: str, pictures: Mapping[str, Picture]) -> Report:
    """The report of an evaluation.

    Args:
        result: The evaluation.
        name: Its name.
        pictures: From `draw`.
    """
    return Report(
        title=f"Evaluation of {result.run.folder.path.resolve().name}",
        subtitle=f"{describe_data(result)}; {result.run.checkpoint} checkpoint; evaluation {name!r}",
        marks=[Mark("Verdict", result.verdict.text, result.verdict.cheats), *leak_marks(result.leaks)],
        key_metrics=key_metrics(result),
        warnings=result.estimates.warnings,
        sections=_sections(result, pictures),
        provenance=describe_provenance(result),
    )


def leak_marks(leaks: Sequence[str]) -> list[Mark]:
    """What is known of leaks between training and test, for the head of a report."""
    return [Mark("Leak mark", leak, True) for leak in leaks] or [Mark("Leak mark", f"{NO_LEAK.capitalize()}.", False)]


def numbers(result: EvaluationResult) -> dict[str, Any]:
    """Content of ``metrics.json``: everything as plain types, nan as None."""
    calibration, verdict = result.calibration, result.verdict
    return {
        "images": len(result.table),
        "classes": list(result.predictions.class_names),
        "data": describe_data(result),
        "own_test_images": result.is_own_data,
        "request": dict(result.request),
        "variants": {name: estimates.to_dict() for name, estimates in result.variants.items()},
        "written_predictions": CALIBRATED if calibration is not None else AS_TRAINED,
        "temperature": asdict(calibration.temperature) if calibration is not None else None,
        "operating_points": [
            {
                "class": found.point.class_name,
                "rule": found.point.rule,
                "threshold": found.point.threshold,
                "sensitivity": interval_dict(found.sensitivity),
                "specificity": interval_dict(found.specificity),
                "prevalence": found.prevalence,
                "prevalence_of_test_images": found.of_test_images,
                "ppv": interval_dict(found.ppv),
                "npv": interval_dict(found.npv),
            }
            for found in result.thresholds
        ],
        "shortcuts": {
            "conditions": {name: estimates.to_dict() for name, estimates in result.conditions.items()},
            "verdict": verdict.text,
            "rule": verdict.rule,
            "skill_kept": None if np.isnan(verdict.kept) else verdict.kept,
            "cheats": verdict.cheats,
            "source": result.source_text,
            "source_probe": {
                name: {"accuracy": interval_dict(probe.accuracy), "text": probe.text}
                for name, probe in result.probes.items()
            },
        },
        "source_only": result.source_only.to_dict() if result.source_only is not None else None,
        "groups": result.groups.to_dict() if result.groups is not None else None,
        "external": result.external.to_dict() if result.external is not None else None,
        "saliency_check": result.gallery.check.text if result.gallery is not None else result.no_gallery,
        "leaks": list(result.leaks),
        "provenance": describe_provenance(result),
        "configuration": result.run.config,
    }


def describe_data(result: EvaluationResult) -> str:
    """Number of test images and patients, and where they come from."""
    count = f"{len(result.table):,} images of {result.predictions.n_patients:,} patients"
    if not result.is_own_data:
        missing = [name for name, cases in result.estimates.cases.items() if not cases]
        lacks = f", none of class {', '.join(missing)}" if missing else ""
        return f"{count} of another data set (external test){lacks}"
    config = result.run.config
    folds = select(config, "split.folds")
    fold = f", fold {select(config, 'split.fold')} of {folds}" if folds else ""
    fold = f" ({source})" if (source := select(config, "split.test_source")) else fold
    return f"{count} of the run's own data, split by {select(config, 'split.by') or 'its own rule'}{fold}"


def key_metrics(result: EvaluationResult) -> dict[str, str]:
    """The most important metrics as text, by name."""
    found = {"accuracy": result.metrics["accuracy"].text(percent=True)}
    found["balanced accuracy"] = metric_text("balanced_accuracy", result.metrics["balanced_accuracy"])
    found["macro AUROC"] = result.metrics["macro_auroc"].text()
    if covid := covid_class(result.predictions.class_names):
        found[f"sensitivity, {covid}"] = result.metrics[f"sensitivity/{covid}"].text(percent=True)
    found["calibration error"] = result.metrics["ece"].text()
    if result.source_only is not None:
        found["accuracy, source alone"] = result.source_only.accuracy()
    if result.groups is not None and result.groups.worst is not None:
        worst = result.groups.worst
        found[f"worst group ({worst.class_name}, {worst.source})"] = worst.sensitivity.text(percent=True)
    if result.external is not None and result.external.drops:
        found["accuracy minus own test"] = result.external.drops["accuracy"].text(percent=True)
    kept = result.verdict.kept
    found["skill left without the lungs"] = "not defined" if np.isnan(kept) else f"{100 * kept:.0f} %"
    return found


def covid_class(names: tuple[str, ...]) -> str | None:
    """The first class with ``covid`` in its name."""
    return next((name for name in names if "covid" in name.lower()), None)


def describe_provenance(result: EvaluationResult) -> dict[str, str]:
    """Software, configuration, checkpoint, data and hardware of an evaluation, by name."""
    run = result.run
    return {
        "commit of this software": provenance.commit(),
        "run folder": str(run.folder.path.resolve()),
        "configuration (SHA-256)": provenance.file_hash(run.folder.config),
        "checkpoint": run.checkpoint_text,
        "seed of the training": str(run.config.get("seed")),
        "splits.csv (SHA-256)": provenance.file_hash(run.folder.splits) if run.folder.splits.is_file() else "none",
        "test images (SHA-256 of their SHA-256)": provenance.data_hash(list(result.table["sha256"])),
        "leak mark": " ".join(result.leaks) or NO_LEAK,
        "pixels and precision": f"{run.image_size} x {run.image_size}, {run.precision}",
        "hardware": provenance.hardware(run.device.type),
        "wall time of this evaluation": f"{result.seconds:.0f} s",
        "when": provenance.now(),
        "libraries": provenance.versions(),
    }


def _sections(result: EvaluationResult, pictures: Mapping[str, Picture]) -> list[Section]:
    paragraphs = ["The no-information rate is the accuracy of always predicting the most frequent class."]
    if EQUAL_SHARES in result.variants:
        paragraphs.append(
            "Equal class shares: the probabilities for a population in which all classes are equally frequent (Saerens "
            "et al. 2002). They find more images of rare classes, and need no other training; predict shares=equal "
            "writes them."
        )
    if result.request.get("tta"):
        paragraphs.append(
            f"Test-time augmentation: {TTA_PASSES} views of every image. Each view enlarges one corner by {TTA_SCALE}, "
            "with and without a horizontal flip, and applies new random values of the other training augmentations. "
            f"fastai's rule: {TTA_BETA} of the probabilities of the image itself and {1 - TTA_BETA:g} of the mean of "
            "the views; plain mean: of the image and its views. Both are computed before the temperature."
        )
    sections = [
        Section(
            "Discrimination",
            paragraphs,
            pictures=[pictures[name] for name in DISCRIMINATION],
            tables=[overall_table(result.variants), sensitivity_table(result.variants), class_table(result.estimates)],
        ),
        _calibration_section(result, pictures["reliability"]),
    ]
    if result.thresholds:
        texts = [
            "An image is positive for a class if the calibrated probability of the class is at least the threshold."
        ]
        if not result.is_own_data:
            texts.append("A prevalence that is not given is the share of the class in the run's own test images.")
        sections.append(Section("Thresholds", texts, tables=[operating_table(result.thresholds)]))
    sections += _saliency_sections(result)
    covid, data = covid_class(result.predictions.class_names), describe_data(result)
    alone = result.source_only.accuracy() if result.source_only is not None else "no sources named"
    published = published_table("This run", result.estimates, covid, data, alone)
    settings = tuple((key, str(value)) for key, value in flatten(result.run.config).items())
    if result.external is not None:
        sections.insert(1, _external_section(result.external))
    return [
        *sections,
        *_source_sections(result, pictures),
        _shortcut_section(result, pictures["shortcuts"]),
        Section("Published results", tables=[published]),
        Section("Configuration", tables=[Table(("setting", "value"), settings)]),
    ]


def _saliency_sections(result: EvaluationResult) -> list[Section]:
    if result.gallery is None:
        return [Section("Saliency maps", [result.no_gallery])]
    groups = photo_groups(result)
    text = (
        "The test images with the highest loss: the negative log-likelihood of the true class. Look here first for "
        "wrong labels and unusual images. Beside each image is the Grad-CAM map of the predicted class."
    )
    others = [group for kind, group in groups.items() if kind != TOP_LOSS]
    return [
        Section("Top losses", [text], photos=[groups[TOP_LOSS]]),
        Section("Saliency maps", [result.gallery.check.text], photos=others),
    ]


def _calibration_section(result: EvaluationResult, picture: Picture) -> Section:
    if result.calibration is None:
        text = f"Not calibrated: {result.no_calibration}. The probabilities are those of the trained network."
        return Section("Calibration", [text], pictures=[picture])
    found = result.calibration.temperature
    text = (
        f"Temperature {found.value:.3f}, fitted on {result.calibration.images:,} validation images only: their "
        f"negative log-likelihood changed from {found.nll_before:.4f} to {found.nll_after:.4f}. The temperature is "
        "stored in calibration.json."
    )
    return Section("Calibration", [text], result.calibration.warnings, [picture])


def _external_section(external: ExternalTest) -> Section:
    paragraphs, tables, warnings = [], [], []
    if external.own is None:
        paragraphs.append(f"No comparison with the run's own test images: {external.no_own}.")
    else:
        paragraphs.append(
            "The difference to the run's own test images, with the same temperature. A drop can have other reasons "
            "than another hospital: other diseases, ages or labels. If both data sets share a shortcut, no drop does "
            "not prove that the model reads the disease (DeGrave et al. 2021)."
        )
        tables.append(drop_table(external.own, external.drops))
    if (found := external.recalibrated) is not None:
        shifts = ", ".join(
            f"{name} {shift:+.2f}" for name, shift in zip(found.estimates.cases, found.fitted.shifts, strict=True)
        )
        paragraphs.append(
            f"Recalibrated on {found.images} images of {found.patients} patients of this data set, who are not in the "
            f"test: temperature {found.fitted.temperature:.3f}, shifts in nats: {shifts}."
        )
        tables += [overall_table({"recalibrated": found.estimates}), operating_table(found.thresholds)]
        warnings = list(found.warnings)
    return Section("External test", paragraphs, warnings, tables=tables)


def _source_sections(result: EvaluationResult, pictures: Mapping[str, Picture]) -> list[Section]:
    if result.groups is None:
        return []
    paragraphs = [result.source_only.text] if result.source_only is not None else []
    tables = [source_table(result.groups), group_table(result.groups)]
    panels = [pictures["sources"]] if "sources" in pictures else []
    return [Section("Sources", [*paragraphs, result.groups.text()], pictures=panels, tables=tables)]


def _shortcut_section(result: EvaluationResult, picture: Picture) -> Section:
    names = ("accuracy", "balanced_accuracy", "macro_auroc")
    rows = tuple(
        (condition, *(metric_text(name, estimates.intervals[name]) for name in names))
        for condition, estimates in result.conditions.items()
    )
    table = Table(("images", "accuracy", "balanced accuracy", "macro AUROC"), rows, "With and without the lungs")
    defined = {name: probe for name, probe in result.probes.items() if not np.isnan(probe.accuracy.value)}
    # If no probe is defined, the first one gives the reason.
    probes = [f"{name}: {probe.text}" for name, probe in (defined or dict(list(result.probes.items())[:1])).items()]
    verdict, uses_shortcut = [result.verdict.text], result.verdict.cheats
    paragraphs = [*verdict * (not uses_shortcut), result.verdict.rule, result.source_text, *probes]
    return Section("Shortcut test", paragraphs, verdict if uses_shortcut else [], [picture], [table])
