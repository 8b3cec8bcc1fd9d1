"""Draw results.csv as speed.png: training speed of every contender and the ceiling; part of ``make bench``."""

import csv

from bench import CEILING, FASTAI, HERE, OURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covid_xray.files import write_atomically
from covid_xray.plots.classification import COLOURS, figure_png

SCENARIOS = ("unfrozen 224", "frozen 224", "frozen 224, BatchNorm fixed", "unfrozen 448", "frozen 448")
SHOWN = (OURS, "our module, Lightning's defaults", "torchvision reference loop", FASTAI, "fastai 2, its faster options")
_OTHERS = "#c8ccd0"


def main() -> None:
    """Draw the measured scenarios."""
    with (HERE / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    speeds: dict[str, dict[str, float]] = {}
    for row in rows:  # of a contender in two groups, the second row counts: it was measured beside ours
        speeds.setdefault(row["scenario"], {})[row["contender"]] = float(row["images_per_second"])
    shown = [name for name in SCENARIOS if {OURS, CEILING} <= speeds.get(name, {}).keys()]
    figure = Figure(figsize=(2.4 + 1.9 * len(shown), 2.6), layout="constrained")
    for number, (axis, name) in enumerate(zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True)):
        draw(axis, speeds[name], named=number == 0)
        axis.set_title(name.replace(", ", ",\n"), fontsize=9)
    figure.supxlabel(f"images/s; dotted: a bare loop, the ceiling ({rows[0]['hardware']})", fontsize=9)
    write_atomically(HERE / "speed.png", figure_png(figure))


def draw(axis: Axes, speeds: dict[str, float], named: bool) -> None:
    """Draw a bar for each contender of a scenario, with its speed; ours in colour."""
    for y, name in enumerate(SHOWN):
        if name in speeds:
            axis.barh(y, speeds[name], color=COLOURS[0] if name == OURS else _OTHERS)
            inside = speeds[name] > 0.75 * speeds[CEILING]
            axis.text(
                speeds[name], y, f" {speeds[name]:.3g} ", fontsize=8, va="center",
                ha="right" if inside else "left", color="white" if inside else "black",
            )  # fmt: skip
    axis.axvline(speeds[CEILING], color="black", linewidth=1, linestyle=(0, (1, 2)))
    axis.set_yticks(range(len(SHOWN)), SHOWN if named else [""] * len(SHOWN), fontsize=9)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)


if __name__ == "__main__":
    main()
