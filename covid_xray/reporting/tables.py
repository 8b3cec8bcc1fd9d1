"""Results as tables of text, for the report, the console and the model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covid_xray.errors import printable
from covid_xray.metrics.comparison import Comparison
from covid_xray.metrics.estimates import Estimates
from covid_xray.metrics.groups import SOURCE_METRICS, GroupMetrics
from covid_xray.metrics.intervals import Interval, few_cases_warning
from covid_xray.metrics.scores import LABELS, OVERALL, PER_CLASS, PROPORTIONS
from covid_xray.metrics.thresholds import OperatingResult
from covid_xray.reporting.published import PUBLISHED_HEADER, fitting, published_rows

if TYPE_CHECKING:
    import rich.table

PERCENT = ("accuracy", "no_information_rate", "balanced_accuracy", *PROPORTIONS)


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: Column titles.
        rows: Cells; the first cell of a row is its name.
        caption: Text above the table.
        note: Text below the table.
        even: Whether a page gives all columns the same width.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    note: str = ""
    even: bool = False


def console_table(table: Table) -> "rich.table.Table":
    """A table for the console; columns of numbers are right-justified, and text such as ``[red]`` is no markup."""
    from rich.table import Table as ConsoleTable
    from rich.text import Text

    title = Text(printable(table.caption), style="table.title")
    note = Text(printable(table.note), style="table.caption")
    found = ConsoleTable(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for name, *cells in zip(table.header, *table.rows, strict=True):
        numeric = all(cell.replace(",", "").replace(".", "").isdecimal() for cell in cells if cell)
        found.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        found.add_row(*(Text(printable(cell)) for cell in row))
    return found


def overall_table(variants: Mapping[str, Estimates]) -> Table:
    """All metrics that do not belong to a class, with one column per variant, such as with and without calibration."""
    rows = [
        (LABELS[name], *(metric_text(name, estimates.intervals[name]) for estimates in variants.values()))
        for name in OVERALL
    ]
    note = (
        "Accuracy, sensitivity, specificity, PPV and NPV: exact intervals for the effective number of images given the "
        f"patients; all others: {next(iter(variants.values())).resamples:,} bootstrap resamples of patients."
    )
    return Table(("metric", *variants), tuple(rows), "Overall, with 95 % intervals", note)


def sensitivity_table(variants: Mapping[str, Estimates]) -> Table:
    """Sensitivity for every class, with one column per variant."""
    names = next(iter(variants.values())).cases
    rows = [
        (name, *(metric_text("sensitivity", found.intervals[f"sensitivity/{name}"]) for found in variants.values()))
        for name in names
    ]
    return Table(("class", *variants), tuple(rows), "Sensitivity (recall) by class, with 95 % intervals", even=True)


def class_table(estimates: Estimates) -> Table:
    """All metrics of every class; the note warns of classes with few cases."""
    names = tuple(estimates.cases)
    rows = [("test images", *(f"{estimates.cases[name]:,}" for name in names))]
    rows.append(("patients", *(f"{estimates.patients[name]:,}" for name in names)))
    rows += [
        (LABELS[metric], *(metric_text(metric, estimates.intervals[f"{metric}/{name}"]) for name in names))
        for metric in PER_CLASS
    ]
    warnings = [few_cases_warning(name, estimates.cases[name], estimates.patients[name]) for name in names]
    caption = "By class, each against all others, with 95 % intervals"
    return Table(("metric", *names), tuple(rows), caption, " ".join(filter(None, warnings)), even=True)


def operating_table(results: Sequence[OperatingResult]) -> Table:
    """Operating points chosen on validation images: sensitivity and specificity on test images, PPV and NPV."""
    header = ("class", "rule", "threshold", "validation", "test sensitivity", "test specificity", "PPV", "NPV")
    rows = []
    for result in results:
        point = result.point
        chosen = f"{100 * point.sensitivity:.1f} % sensitivity, {100 * point.specificity:.1f} % specificity"
        intervals = (result.sensitivity, result.specificity, result.ppv, result.npv)
        texts = tuple(interval.text(percent=True) for interval in intervals)
        rows.append((point.class_name, point.rule, f"{point.threshold:.3f}", chosen, *texts))
    given, tested = (_prevalences(results, of_test_images) for of_test_images in (False, True))
    notes = [f"PPV and NPV at a prevalence of {given}."] * bool(given)
    if tested:
        those = "No other prevalence is given, so the others" if given else "No prevalence is given, so PPV and NPV"
        notes.append(
            f"{those} are at the share of each class in the test images: {tested}. In a population with another share "
            "they differ: set prevalence={CLASS: SHARE}."
        )
    return Table(header, tuple(rows), "Operating points, chosen on validation images only", " ".join(notes))


def _prevalences(results: Sequence[OperatingResult], of_test_images: bool) -> str:
    """Prevalence by class, of the results that use the test images, or of the others."""
    found = {r.point.class_name: r.prevalence for r in results if r.of_test_images == of_test_images}
    return ", ".join(f"{name} {100 * prevalence:.3g} %" for name, prevalence in found.items())


def drop_table(own: Estimates, drops: Mapping[str, Interval]) -> Table:
    """Metrics of the run's own test images, and the difference of another data set to them."""
    rows = [(_label(name), metric_text(name, own.intervals[name]), metric_text(name, drops[name])) for name in drops]
    header = ("metric", "own test images", "this data set minus own")
    note = "Intervals of the difference: from the intervals of both test sets (Newcombe 1998; Zou and Donner 2008)."
    return Table(header, tuple(rows), "Drop against the run's own test images, with 95 % intervals", note)


def source_table(groups: GroupMetrics) -> Table:
    """Metrics of the images of every source."""
    rows = [
        (name, f"{sum(found.cases.values()):,}", *(metric_text(key, found.intervals[key]) for key in SOURCE_METRICS))
        for name, found in groups.sources.items()
    ]
    header = ("source", "images", *(LABELS[name] for name in SOURCE_METRICS))
    return Table(header, tuple(rows), "By source, with 95 % intervals")


def group_table(groups: GroupMetrics) -> Table:
    """Sensitivity of every class within every source, lowest first."""
    rows = [
        (group.class_name, group.source, str(group.images), str(group.patients), group.sensitivity.text(percent=True))
        for group in groups.groups
    ]
    header = ("class", "source", "images", "patients", "sensitivity")
    return Table(header, tuple(rows), "By class and source, lowest first, with 95 % intervals")


def published_table(
    name: str, estimates: Estimates, covid: str | None, data: str, source_only: str = "not counted"
) -> Table:
    """This run in the first row, below it published results with the same classes.

    Args:
        name: Name of this run.
        estimates: Its results.
        covid: The COVID-19 class, or None.
        data: Description of the test data and their split.
        source_only: Accuracy from the source alone on these images.
    """
    published = fitting(estimates.cases)
    accuracy = estimates.intervals["accuracy"].text(percent=True)
    sensitivity = "no such class"
    if covid is not None:
        sensitivity = estimates.intervals[f"sensitivity/{covid}"].text(percent=True)
        sensitivity += f", {estimates.cases[covid]} images of {estimates.patients[covid]} patients"
    this_run = (name, accuracy, sensitivity, source_only, "yes", data, "This run.", "")
    note = f"No published result in this table has exactly the classes {', '.join(estimates.cases)}."
    if published:
        note = (
            "Intervals of published rows are recomputed from their counts under the assumption that images are "
            "independent: with several images per patient they are too narrow. A model that was chosen on its test "
            "images is too good on them. The source alone: class shares of each source in the training list, counted "
            "from the public lists (experiments/covidx); the first two lists name no sources."
        )
    return Table(PUBLISHED_HEADER, (this_run, *published_rows(published)), "This run and published results", note)


def comparison_table(comparison: Comparison) -> Table:
    """Two models and their paired difference in all metrics that do not belong to a class, with McNemar's test."""
    first, second = comparison.names
    rows = []
    for name in OVERALL:
        if name == "no_information_rate":  # depends on the images only
            continue
        values = (Interval(value, np.nan, np.nan) for value in (comparison.a[name], comparison.b[name]))
        intervals = (*values, comparison.differences[name])
        rows.append((LABELS[name], *(metric_text(name, interval) for interval in intervals)))
    test = comparison.mcnemar
    note = (
        f"McNemar's exact test: only {first} is right on {test.only_a} images, only {second} on {test.only_b}; "
        f"p = {test.p:.3g}. {test.note}"
    )
    header = ("metric", first, second, f"{second} minus {first}")
    return Table(header, tuple(rows), "Paired comparison on the same images, with 95 % intervals", note.strip())


def fold_values_table(
    table: Mapping[str, Mapping[str, float]], names: Sequence[str] = OVERALL, caption: str = "By fold"
) -> Table:
    """Some metrics of a `covid_xray.metrics.estimates.fold_table`: the value of every fold, mean and SD."""
    header = ("metric", *table[names[0]])
    rows = tuple(
        (_label(name), *("n/a" if np.isnan(value) else f"{value:.3f}" for value in table[name].values()))
        for name in names
    )
    return Table(header, rows, caption, "SD is the spread over the columns; they share training images.")


def metric_text(name: str, interval: Interval) -> str:
    """A metric with its interval, in percent where that is usual."""
    return interval.text(percent=name.partition("/")[0] in PERCENT)


def _label(name: str) -> str:
    metric, _, class_name = name.partition("/")
    return f"{LABELS[metric]}, {class_name}" if class_name else LABELS[metric]
