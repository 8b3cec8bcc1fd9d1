"""Learning curves by epoch, read from a run's ``curves.csv``."""

from collections.abc import Sequence
from pathlib import Path

from covid_xray.runs.folder import RunFolder
from covid_xray.training.curves import read_points

Curve = dict[int, float]  # value by epoch, counted from 1


def read_curves(folder: Path, tags: Sequence[str]) -> dict[str, Curve]:
    """Read values that were logged once per epoch.

    Args:
        folder: A run folder.
        tags: Such as ``val/loss``.

    Returns:
        Curve by tag. Of a metric that was logged at every step, the last value of each epoch.

    Raises:
        UserError: If the run has no ``curves.csv``, as runs of earlier versions, or the file is damaged.
    """
    found: dict[str, dict[int, float]] = {tag: {} for tag in ("epoch", *tags)}  # value by step
    for step, metric, value in read_points(RunFolder(folder).curves):
        if metric in found:
            found[metric][step] = value
    epochs = found.pop("epoch")
    return {
        tag: {int(epochs[step]) + 1: value for step, value in sorted(values.items()) if step in epochs}
        for tag, values in found.items()
    }
