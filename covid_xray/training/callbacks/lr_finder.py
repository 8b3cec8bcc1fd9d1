"""The learning-rate finder: one rate for all groups, raised at every step until the loss diverges."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from covid_xray.errors import UserError
from covid_xray.plots.figure import PlainFigure
from covid_xray.training.loggers import log_picture


@dataclass
class RateCurve:
    """Losses by rate.

    Attributes:
        rates: Learning rate of every step.
        losses: Smoothed training loss of every step.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def steepest(self, skip_start: int = 10, skip_end: int = 5) -> float:
        """Rate where the loss falls fastest over the logarithm of the rate; fastai 1's ``min_grad_lr``.

        Raises:
            UserError: If too few steps are left after skipping the first and last ones.
        """
        losses = self.losses[skip_start : len(self.losses) - skip_end]
        if len(losses) < 2:
            raise UserError(
                f"the loss diverged or the images ended after {len(self.losses)} steps, too few for a suggestion; "
                f"lower start_lr, or use more images or a smaller batch"
            )
        return self.rates[skip_start + int(np.argmin(np.gradient(losses)))]

    def minimum_tenth(self) -> float:
        """A tenth of the rate with the lowest loss."""
        return self.rates[int(np.argmin(self.losses))] / 10

    def figure(self, title: str) -> Figure:
        """Loss over rate with both suggestions."""
        figure = PlainFigure(figsize=(6.4, 4), layout="constrained")
        axis = figure.subplots()
        axis.plot(self.rates, self.losses, color="0.2")
        for rate, name, color in ((self.steepest(), "steepest", "C0"), (self.minimum_tenth(), "minimum / 10", "C1")):
            axis.axvline(rate, color=color, linestyle="--", label=f"{name}: {rate:.2e}")
        axis.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss", title=title)
        axis.grid(alpha=0.3)
        axis.legend()
        return figure


class RateFinder(Callback):
    """Raises the rate exponentially at every step and records the loss. The training itself is not kept.

    Args:
        start_lr: First rate.
        end_lr: Rate after ``steps`` steps.
        steps: Most steps.
        diverged: Stops where the smoothed loss passes this many times its lowest value.
        smoothing: Weight of the past in the bias-corrected exponential mean of the loss.

    Source: Smith 2017, in the form of fastai 1's ``lr_find``.
    """

    def __init__(
        self, start_lr: float, end_lr: float, steps: int, diverged: float = 4.0, smoothing: float = 0.98
    ) -> None:
        if not 0 < start_lr < end_lr or not math.isfinite(end_lr):
            raise UserError(f"start_lr must lie above 0 and below end_lr, not {start_lr} and {end_lr}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 20:
            raise UserError(f"steps must be a whole number of at least 20, not {steps!r}")
        self.start_lr, self.end_lr, self.steps = start_lr, end_lr, steps
        self.diverged, self.smoothing = diverged, smoothing
        self.curve = RateCurve()
        self._mean = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set this step's rate."""
        rate = self.start_lr * (self.end_lr / self.start_lr) ** (trainer.global_step / self.steps)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.curve.rates.append(rate)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss; stop at the end or if it diverges."""
        loss = float(outputs["loss"])
        self._mean = self.smoothing * self._mean + (1 - self.smoothing) * loss
        smoothed = self._mean / (1 - self.smoothing ** len(self.curve.rates))
        diverges = not math.isfinite(smoothed) or smoothed > self.diverged * min(self.curve.losses, default=smoothed)
        if diverges:
            self.curve.rates.pop()
        else:
            self.curve.losses.append(smoothed)
        if diverges or len(self.curve.losses) >= self.steps:
            trainer.should_stop = True


def log_curve(loggers: Sequence[Logger], curve: RateCurve, figure: Figure) -> None:
    """Log the curve as scalars (step: number of the rate) and as a picture."""
    for step, (rate, loss) in enumerate(zip(curve.rates, curve.losses, strict=True)):
        for logger in loggers:
            logger.log_metrics({"find_lr/rate": rate, "find_lr/loss": loss}, step)
    log_picture(loggers, "find_lr/curve", figure, len(curve.losses) - 1)
