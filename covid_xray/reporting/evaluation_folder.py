"""The folder of one evaluation: files written atomically, and the same figures in TensorBoard."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covid_xray.errors import UserError
from covid_xray.files import atomic_write, write_atomically
from covid_xray.metrics.estimates import Estimates
from covid_xray.metrics.predictions import Predictions, write_predictions
from covid_xray.plots.classification import figure_png
from covid_xray.reporting.html import Picture, Report, render_report


def write_evaluation(
    folder: Path,
    predictions: Predictions,
    estimates: Mapping[str, Estimates],
    numbers: Mapping[str, Any],
    pictures: Mapping[str, Picture],
    report: Report,
    card: str | None = None,
) -> dict[str, bytes]:
    """Write everything; ``metrics.json`` comes last, so that where it lies, the rest lies too.

    Args:
        folder: Where to.
        predictions: For ``predictions.csv``.
        estimates: For ``metrics.csv``, by what was tested.
        numbers: For ``metrics.json``.
        pictures: By the name of their PNG file.
        report: For ``report.html``.
        card: For ``model_card.md``, or None.

    Returns:
        The pictures as PNG, by name.

    Raises:
        UserError: If the folder cannot be written.
    """
    drawn = {name: _png(picture) for name, picture in pictures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").unlink(missing_ok=True)
        with atomic_write(folder / "predictions.csv") as draft:
            write_predictions(predictions, draft)
        write_atomically(folder / "metrics.csv", _metrics_csv(estimates))
        for name, content in drawn.items():
            write_atomically(folder / f"{name}.png", content)
        write_atomically(folder / "report.html", render_report(report))
        if card is not None:
            write_atomically(folder / "model_card.md", card)
        write_atomically(folder / "metrics.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
    return drawn


def _metrics_csv(estimates: Mapping[str, Estimates]) -> str:
    """A row per figure of merit, for spreadsheets and for tables that set runs side by side."""
    rows = [
        {"tested": tested, "metric": metric} | asdict(interval)
        for tested, each in estimates.items()
        for metric, interval in each.intervals.items()
    ]
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")


def write_tensorboard(folder: Path, name: str, estimates: Estimates, pictures: Mapping[str, bytes]) -> None:
    """Add scalars and figures to the TensorBoard of a run, in the place of those of an earlier evaluation.

    Args:
        folder: The run folder.
        name: Name of the evaluation.
        estimates: Figures of merit; those that are not defined are left out.
        pictures: PNG files by name.
    """
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    suffix = f".evaluation-{name}"
    for old in folder.glob("events.out.tfevents.*"):
        if old.name.endswith(suffix):
            old.unlink()
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for metric, interval in estimates.intervals.items():
            if np.isfinite(interval.value):
                writer.add_scalar(f"evaluation/{name}/{metric}", interval.value, 0)
        for figure, content in pictures.items():
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            writer.add_image(f"evaluation/{name}/{figure}", pixels, 0, dataformats="HWC")


def _png(picture: Picture) -> bytes:
    return picture.figure if isinstance(picture.figure, bytes) else figure_png(picture.figure, picture.dpi)
