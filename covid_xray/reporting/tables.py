"""Results as tables of words, for the report, the console and the model card alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from covid_xray.metrics.comparison import Comparison
from covid_xray.metrics.estimates import Estimates
from covid_xray.metrics.intervals import Interval, few_cases_warning
from covid_xray.metrics.scores import LABELS, OVERALL, PER_CLASS, PROPORTIONS
from covid_xray.metrics.thresholds import OperatingResult
from covid_xray.reporting.published import PUBLISHED_HEADER, published_rows

PERCENT = ("accuracy", "no_information_rate", "balanced_accuracy", *PROPORTIONS)


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: Column titles.
        rows: Cells; the first of each row names it.
        caption: What it shows.
        note: Words below it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    note: str = ""


def overall_table(variants: Mapping[str, Estimates]) -> Table:
    """All figures of merit that belong to no class, one column per variant (with and without calibration or TTA)."""
    rows = [
        (LABELS[name], *(metric_text(name, estimates.intervals[name]) for estimates in variants.values()))
        for name in OVERALL
    ]
    return Table(("figure of merit", *variants), tuple(rows), "Overall, with 95 % intervals", _methods(variants))


def class_table(estimates: Estimates) -> Table:
    """All figures of merit of every class, with the warning about few cases in the column's last cell."""
    names = tuple(estimates.cases)
    rows = [("test images", *(f"{estimates.cases[name]:,}" for name in names))]
    rows.append(("patients", *(f"{estimates.patients[name]:,}" for name in names)))
    rows += [
        (LABELS[metric], *(metric_text(metric, estimates.intervals[f"{metric}/{name}"]) for name in names))
        for metric in PER_CLASS
    ]
    warnings = [few_cases_warning(name, estimates.cases[name], estimates.patients[name]) for name in names]
    if any(warnings):
        rows.append(("warning", *warnings))
    return Table(("figure of merit", *names), tuple(rows), "By class, each against all others, with 95 % intervals")


def operating_table(results: Sequence[OperatingResult]) -> Table:
    """Operating points: chosen on validation, sensitivity and specificity on test, PPV and NPV at the prevalence."""
    header = ("class", "rule", "threshold", "validation", "test sensitivity", "test specificity", "PPV", "NPV")
    rows = []
    for result in results:
        point = result.point
        chosen = f"{100 * point.sensitivity:.1f} % sensitivity, {100 * point.specificity:.1f} % specificity"
        numbers = (result.sensitivity, result.specificity, result.ppv, result.npv)
        texts = tuple(interval.text(percent=True) for interval in numbers)
        rows.append((point.class_name, point.rule, f"{point.threshold:.3f}", chosen, *texts))
    known = sorted({(r.point.class_name, r.prevalence) for r in results if not np.isnan(r.prevalence)})
    at = ", ".join(f"{name} {100 * prevalence:g} %" for name, prevalence in known)
    note = f"PPV and NPV at a prevalence of {at}." if at else "PPV and NPV need a prevalence: set it."
    return Table(header, tuple(rows), "Operating points, chosen on validation images only", note)


def published_table(name: str, estimates: Estimates, covid: str | None, data: str) -> Table:
    """This run above the published results.

    Args:
        name: What to call this run.
        estimates: Its results.
        covid: Which class is COVID-19; None if none is.
        data: What it was tested on and how that was split, in words.
    """
    accuracy = estimates.intervals["accuracy"].text(percent=True)
    sensitivity = "no such class"
    if covid is not None:
        sensitivity = estimates.intervals[f"sensitivity/{covid}"].text(percent=True)
        sensitivity += f", {estimates.cases[covid]} images of {estimates.patients[covid]} patients"
    own = (name, accuracy, sensitivity, data, "This run.", "")
    note = (
        "Intervals of published rows are recomputed from their counts, images taken as independent: with several "
        "images per patient they are too narrow."
    )
    return Table(PUBLISHED_HEADER, (own, *published_rows()), "Beside the published", note)


def comparison_table(comparison: Comparison) -> Table:
    """Two models and their paired difference in all figures of merit that belong to no class, then McNemar's test."""
    first, second = comparison.names
    rows = []
    for name in OVERALL:
        if name == "no_information_rate":
            continue
        values = (Interval(value, np.nan, np.nan) for value in (comparison.a[name], comparison.b[name]))
        rows.append(
            (
                LABELS[name],
                *(metric_text(name, value) for value in values),
                metric_text(name, comparison.differences[name]),
            )
        )
    test = comparison.mcnemar
    note = (
        f"McNemar's exact test: only {first} is right on {test.only_a} images, only {second} on {test.only_b}; "
        f"p = {test.p:.3g}. {test.note}"
    )
    header = ("figure of merit", first, second, f"{second} minus {first}")
    return Table(header, tuple(rows), "Paired comparison on the same images, with 95 % intervals", note.strip())


def fold_values_table(table: Mapping[str, Mapping[str, float]], names: Sequence[str] = OVERALL) -> Table:
    """What `covid_xray.metrics.estimates.fold_table` found, for some figures of merit."""
    header = ("figure of merit", *(column for column in table[names[0]]))
    rows = tuple(
        (_label(name), *("n/a" if np.isnan(value) else f"{value:.3f}" for value in table[name].values()))
        for name in names
    )
    return Table(header, rows, "By fold", "SD describes the spread of the folds; folds share training images.")


def metric_text(name: str, interval: Interval) -> str:
    """A figure of merit with its interval, in percent where that is usual."""
    return interval.text(percent=name.partition("/")[0] in PERCENT)


def _label(name: str) -> str:
    metric, _, own = name.partition("/")
    return f"{LABELS[metric]}, {own}" if own else LABELS[metric]


def _methods(variants: Mapping[str, Estimates]) -> str:
    resamples = next(iter(variants.values())).resamples
    return (
        "Accuracy, sensitivity, specificity, PPV and NPV: exact intervals for the effective number of images given the "
        f"patients; all else: {resamples:,} bootstrap resamples of patients."
    )
