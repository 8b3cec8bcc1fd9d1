"""Writes ``curves.csv`` up to the state of every checkpoint, so that a continued run has every value once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from covid_xray.training.curves import Point, append_points, by_step, read_points, write_points


class CurvesLogger(Logger):
    """Collects the scalars of a run. `SaveCurves` writes them; Lightning calls ``save`` too often for that.

    Args:
        file: The file ``curves.csv``.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._last: dict[str, int] = {}  # newest step by metric
        self._waiting: list[Point] = []

    @property
    def name(self) -> None:
        """None: there is one file per run."""

    @property
    def version(self) -> None:
        """None: there is one file per run."""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._file.parent)

    def begin(self, first_step: int) -> dict[int, dict[str, float]]:
        """Remove what a killed session logged after the checkpoint from which the run continues.

        Args:
            first_step: The first step that will be logged (again).

        Returns:
            What was logged before: value by metric, by step.
        """
        points = read_points(self._file) if self._file.exists() else []
        kept = [point for point in points if point[0] < first_step]
        write_points(self._file, kept)
        self._last = {metric: step for step, metric, _ in kept}
        return by_step(kept)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Collect values; a value of a step that was logged before is left out."""
        step = 0 if step is None else step
        for metric, value in metrics.items():
            if step > self._last.get(metric, -1):
                self._waiting.append((step, metric, float(value)))
                self._last[metric] = step

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **keywords: Any) -> None:
        """Nothing: they are in ``config.yaml``."""

    @rank_zero_only
    def write(self) -> None:
        """Write what was collected, and wait until it is on the disk."""
        append_points(self._file, self._waiting)
        self._waiting.clear()


class SaveCurves(Callback):
    """Writes the curves before every checkpoint is written.

    Args:
        curves: The logger.
    """

    def __init__(self, curves: CurvesLogger) -> None:
        self.curves = curves

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the values of all steps that the checkpoint contains."""
        connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
        # Within an epoch, the checkpoint is saved before Lightning logs the values of the newest step.
        if trainer.global_step > loop._batches_that_stepped and connector.should_update_logs:
            values = convert_tensors_to_scalars(connector.metrics["log"])
            self.curves.log_metrics({**values, "epoch": trainer.current_epoch}, loop._batches_that_stepped)
        self.curves.write()
