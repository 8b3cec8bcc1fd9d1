"""An audit as a table in the console, as text and as a figure."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from covid_xray.data.audit.associations import STRONG
from covid_xray.data.audit.report import AuditReport
from covid_xray.data.split import SPLITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 5


def findings(report: AuditReport) -> list[tuple[str, int, list[str]]]:
    """Each kind of finding with its number and the files, a line for each."""

    def groups(rows: list[list[str]]) -> list[str]:
        return [" = ".join(row) for row in rows]

    def sides(rows: list[dict[str, list[str]]]) -> list[str]:
        return ["; ".join(f"{side}: {', '.join(paths)}" for side, paths in row.items()) for row in rows]

    patients = [
        f"{patient} ({line})"
        for patient, line in zip(
            report.patients_across_splits, sides(list(report.patients_across_splits.values())), strict=True
        )
    ]
    lines = {
        "unreadable images": [f"{path}: {reason}" for path, reason in report.unreadable.items()],
        "exact duplicates (same pixels)": groups(report.exact_duplicates),
        "near duplicates": groups(report.near_duplicates),
        "same image in several splits": sides(report.images_across_splits),
        "same patient in several splits": patients,
        "same image, different labels": sides(report.label_conflicts),
    }
    return [(name, len(rows), rows) for name, rows in lines.items()]


def show(report: AuditReport) -> None:
    """Print the report."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(_counts_table(report))
    table = Table(title="Findings", title_justify="left")
    table.add_column("what")
    table.add_column("found", justify="right")
    for name, number, _ in findings(report):
        table.add_row(name, str(number))
    console.print(table)
    for name, number, rows in findings(report):
        for row in rows[:_SHOWN]:
            console.print(f"{name}: {row}")
        if number > _SHOWN:
            console.print(f"{name}: {number - _SHOWN} more in audit.json")
    strengths = Table(title="Does the label give itself away? (Cramér's V, 0 to 1)", title_justify="left")
    strengths.add_column("by")
    strengths.add_column("V", justify="right")
    for found in report.associations:
        strength = found["cramers_v"]
        strengths.add_row(found["factor"], "one value only" if strength is None else f"{strength:.2f}")
    console.print(strengths)
    for warning in report.warnings():
        console.print(f"Warning: {warning}.")
    leaks = len(report.leaks())
    verdict = (
        f"{leaks} leak{'s' * (leaks != 1)} between splits: training refuses this data"
        if leaks
        else "No leak between splits"
    )
    console.print(f"{verdict}.")


def markdown(report: AuditReport) -> str:
    """The findings as text for TensorBoard."""
    rows = [f"| {name} | {number} |" for name, number, _ in findings(report)]
    details = [f"- {name}: `{line}`" for name, _, lines in findings(report) for line in lines[:_SHOWN]]
    warnings = [f"- **{warning}**" for warning in report.warnings()]
    return "\n".join(["| finding | number |", "|---|---:|", *rows, "", *warnings, "", *details])


def figure(report: AuditReport) -> "Figure":
    """Cramér's V of every give-away, and the images of every class by source."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    known = [row for row in reversed(report.associations) if row["cramers_v"] is not None]
    left.barh([row["factor"] for row in known], [row["cramers_v"] for row in known])
    left.axvline(STRONG, color="black", linestyle=":", label="warning")
    left.set(xlim=(0, 1), xlabel="Cramér's V with the label", title="Does the label give itself away?")
    left.legend()
    names = list(report.counts["by_class"])
    below = [0] * len(names)
    for source, classes in report.counts["by_source"].items():
        heights = [classes.get(name, {}).get("images", 0) for name in names]
        right.bar(names, heights, bottom=below, label=source)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    right.set(ylabel="images", title="Where every class comes from")
    right.legend(title="source")
    return drawing


def _counts_table(report: AuditReport) -> Table:
    counts = report.counts
    table = Table(title=f"{counts['images']} images of {counts['patients']} patients", title_justify="left")
    order = [split for split in SPLITS if split in counts["by_split"]]
    for column in ("class", "images", "patients", *order):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in counts["by_class"].items():
        splits = [str(part.get(name, {}).get("images", 0)) for part in map(counts["by_split"].get, order)]
        table.add_row(name, str(row["images"]), str(row["patients"]), *splits)
    return table
