"""A callback that writes the accuracy on the test images after every epoch, over the minutes of training."""

import csv
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class AccuracyCurve(Callback):
    """Writes ``file`` with the columns epoch, minutes, val_loss and accuracy; the time of testing does not count.

    Args:
        file: The CSV file.
    """

    def __init__(self, file: str) -> None:
        self.file, self.rows, self.testing, self.start = Path(file), [], 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Test the network as it was validated (averaged weights included), at the size of this phase; add a row."""
        if trainer.sanity_checking:
            return
        now = time.perf_counter()
        minutes = (now - self.start - self.testing) / 60
        data, phase = trainer.datamodule, pl_module.schedule.at(trainer.current_epoch).phase
        hits, images = 0, 0
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for pixels, labels in data._eval_loader("test", data.subset("test"), phase):
                predicted = pl_module(pixels.to(pl_module.device)).argmax(1).cpu()
                hits, images = hits + int((predicted == labels).sum()), images + len(labels)
        loss = float(trainer.callback_metrics["val/loss"])
        epoch = trainer.current_epoch + 1
        self.rows.append({"epoch": epoch, "minutes": minutes, "val_loss": loss, "accuracy": hits / images})
        with self.file.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        self.testing += time.perf_counter() - now
