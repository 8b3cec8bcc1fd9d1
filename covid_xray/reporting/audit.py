"""An audit as tables in the console."""

from rich.console import Console

from covid_xray.data.audit.near_duplicates import limits
from covid_xray.data.audit.report import AuditReport
from covid_xray.data.split import SPLITS
from covid_xray.reporting.tables import Table, console_table

_SHOWN = 5


def show(report: AuditReport) -> None:
    """Print the report."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    findings = report.findings()
    counts = tuple((name, str(len(rows))) for name, rows in findings.items())
    console.print(console_table(_counts_table(report)))
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
    console.print(limits())
    for warning in report.warnings():
        console.print(f"Warning: {warning}.")
    leaks = len(report.leaks())
    if leaks:
        console.print(f"{leaks} leak{'s' * (leaks != 1)} between splits: training refuses this data.")
    else:
        console.print("No leak between splits.")


def _counts_table(report: AuditReport) -> Table:
    counts = report.counts
    order = [split for split in SPLITS if split in counts["by_split"]]
    rows = []
    for name, row in counts["by_class"].items():
        splits = [str(counts["by_split"][split].get(name, {}).get("images", 0)) for split in order]
        rows.append((name, str(row["images"]), str(row["patients"]), *splits))
    caption = f"{counts['images']} images of {counts['patients']} patients"
    return Table(("class", "images", "patients", *order), tuple(rows), caption)
