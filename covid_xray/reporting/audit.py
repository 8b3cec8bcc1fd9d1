"""An audit as tables in the console."""

from rich.console import Console

from covid_xray.data.audit.report import AuditReport
from covid_xray.data.split import SPLITS
from covid_xray.metrics.intervals import Interval
from covid_xray.reporting.tables import Table, console_table

_SHOWN = 5


def show(report: AuditReport) -> None:
    """Print the report."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    findings = report.findings()
    counts = tuple((name, str(len(rows))) for name, rows in findings.items())
    console.print(console_table(counts_table(report)))
    console.print(console_table(Table(("finding", "number"), counts, "Findings")))
    for name, rows in findings.items():
        for row in rows[:_SHOWN]:
            console.print(f"{name}: {row}")
        if len(rows) > _SHOWN:
            console.print(f"{name}: {len(rows) - _SHOWN} more in audit.json")
    factors = tuple(
        (row["factor"], "one value only" if row["cramers_v"] is None else f"{row['cramers_v']:.2f}")
        for row in report.associations
    )
    caption = "Association of the label with other factors (Cramér's V, 0 to 1)"
    console.print(console_table(Table(("factor", "V"), factors, caption)))
    if report.source_only:
        console.print(console_table(source_only_table(report)))
    console.print(report.limits())
    for warning in report.warnings():
        console.print(f"Warning: {warning}.")
    leaks = len(report.leaks())
    if leaks:
        console.print(f"{leaks} leak{'s' * (leaks != 1)} between splits: training refuses this data.")
    else:
        console.print("No leak between splits.")


def source_only_table(report: AuditReport) -> Table:
    """What a classifier that sees one factor of an image reaches on the test images."""
    rows = []
    for row in report.source_only:
        accuracy = Interval(**{key: row["accuracy"][key] for key in ("value", "low", "high")})
        by_class = ", ".join(
            f"{name} {100 * found['value']:.0f} %"
            for name, found in row["sensitivity"].items()
            if found["value"] is not None
        )
        auroc = "not defined" if row["macro_auroc"] is None else f"{row['macro_auroc']:.3f}"
        text = f"{accuracy.text(percent=True)}, {row['correct']:,} of {row['test_images']:,}"
        rows.append((row["factor"], text, f"{100 * row['balanced_accuracy']:.1f} %", auroc, by_class))
    first = report.source_only[0]
    note = (
        f"Learned from {first['learned_from']:,} images of train and val: class shares by value, with Laplace's rule. "
        f"Always the most frequent class of the test images: {100 * first['no_information_rate']:.1f} % accuracy. A "
        "model that does no better than this table need not read the lungs."
    )
    header = ("it sees only", "accuracy", "balanced accuracy", "macro AUROC", "sensitivity")
    return Table(header, tuple(rows), "Test images: a classifier that sees one factor of an image", note)


def counts_table(report: AuditReport) -> Table:
    """Images and patients of each class, and its images in each split."""
    counts = report.counts
    order = [split for split in SPLITS if split in counts["by_split"]]
    rows = []
    for name, row in counts["by_class"].items():
        splits = [str(counts["by_split"][split].get(name, {}).get("images", 0)) for split in order]
        rows.append((name, str(row["images"]), str(row["patients"]), *splits))
    caption = f"{counts['images']} images of {counts['patients']} patients"
    return Table(("class", "images", "patients", *order), tuple(rows), caption)
