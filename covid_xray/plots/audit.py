"""The audit of a data set as a figure."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from covid_xray.data.audit.associations import STRONG
from covid_xray.data.audit.report import AuditReport
from covid_xray.plots.figure import PlainFigure


def audit_figure(report: AuditReport) -> Figure:
    """Cramér's V of every factor with the label, and the images of every class by source."""
    drawing = PlainFigure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(drawing)
    left, right = drawing.subplots(1, 2)
    known = [row for row in reversed(report.associations) if row["cramers_v"] is not None]
    left.barh([row["factor"] for row in known], [row["cramers_v"] for row in known])
    left.axvline(STRONG, color="black", linestyle=":", label="warning")
    left.set(xlim=(0, 1), xlabel="Cramér's V with the label", title="Can the label be read from other factors?")
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
