"""The folder of an evaluation, and its figures in TensorBoard."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covid_xray.files import atomic_write, write_atomically
from covid_xray.metrics.estimates import Estimates
from covid_xray.metrics.predictions import Predictions, write_predictions
from covid_xray.reporting.evaluation_report import build_report, draw, numbers
from covid_xray.reporting.events import event_file
from covid_xray.reporting.html import Picture, Report, output_folder, write_report
from covid_xray.reporting.model_card import model_card
from covid_xray.reporting.pooled_report import draw_pooled, pooled_numbers, pooled_report, variant
from covid_xray.runs.evaluate import EvaluationResult
from covid_xray.runs.folder import METRICS_FILE, PREDICTIONS_FILE, RunFolder
from covid_xray.runs.pooling import Combined


def write_evaluation(result: EvaluationResult, name: str, output: Path | None = None) -> Path:
    """Draw, render and write everything of an evaluation, also into the TensorBoard files of the run.

    Args:
        result: The evaluation.
        name: Its name.
        output: Folder that gets ``evaluation/NAME``; None: the run's own, of a bundle ``outputs/BUNDLE``.

    Returns:
        The evaluation's folder.

    Raises:
        UserError: If the folder cannot be written.
    """
    target = RunFolder(result.run.folder.results if output is None else output)
    pictures = draw(result)
    conditions = {f"shortcut test: {condition}": estimates for condition, estimates in result.conditions.items()}
    folder = _write(
        target,
        name,
        result.predictions,
        {**result.variants, **conditions},
        numbers(result),
        pictures,
        build_report(result, name, pictures),
        model_card(result),
    )
    _write_tensorboard(target, name, result.estimates, pictures)
    return folder


def write_pooled_evaluation(path: Path, name: str, combined: Combined, found: Mapping[str, Mapping[str, Any]]) -> Path:
    """Draw, render and write everything of several runs as one, also as TensorBoard files.

    Args:
        path: Folder that gets ``evaluation/NAME``, such as that of the runs.
        name: Name of the evaluation.
        combined: The metrics.
        found: Content of the ``metrics.json`` of every member's evaluation, by name.

    Returns:
        The evaluation's folder.

    Raises:
        UserError: If the folder cannot be written.
    """
    pictures = draw_pooled(combined)
    folder = _write(
        RunFolder(path),
        name,
        combined.predictions,
        {variant(combined): combined.estimates},
        pooled_numbers(combined, found),
        pictures,
        pooled_report(path, combined, found, pictures),
    )
    _write_tensorboard(RunFolder(path), name, combined.estimates, pictures)
    return folder


def _write(
    run: RunFolder,
    name: str,
    predictions: Predictions,
    estimates: Mapping[str, Estimates],
    content: Mapping[str, Any],
    pictures: Mapping[str, Picture],
    report: Report,
    card: str = "",
) -> Path:
    folder = run.evaluation(name)
    with output_folder(folder):
        # metrics.json is written last: if it exists, all other files do.
        (folder / METRICS_FILE).unlink(missing_ok=True)
        with atomic_write(folder / PREDICTIONS_FILE) as draft:
            write_predictions(predictions, draft)
        write_atomically(folder / "metrics.csv", _metrics_csv(estimates))
        write_report(folder, report, pictures)
        if card:
            write_atomically(folder / "model_card.md", card)
        write_atomically(folder / METRICS_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return folder


def _metrics_csv(estimates: Mapping[str, Estimates]) -> str:
    """A row for every metric of every variant, for spreadsheets and for tables that compare runs."""
    rows = [
        {"tested": tested, "metric": metric} | asdict(interval)
        for tested, each in estimates.items()
        for metric, interval in each.intervals.items()
    ]
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")


def _write_tensorboard(run: RunFolder, name: str, estimates: Estimates, pictures: Mapping[str, Picture]) -> None:
    """Write defined metrics and figures; an earlier evaluation of the same name is replaced."""
    from PIL import Image

    with event_file(run.path, f".evaluation-{name}") as writer:
        for metric, interval in estimates.intervals.items():
            if np.isfinite(interval.value):
                writer.add_scalar(f"evaluation/{name}/{metric}", interval.value, 0)
        for figure, picture in pictures.items():
            pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
            writer.add_image(f"evaluation/{name}/{figure}", pixels, 0, dataformats="HWC")
