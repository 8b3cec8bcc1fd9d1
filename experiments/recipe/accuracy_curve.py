"""A callback that writes the accuracy on the test images after every epoch, over the processor time of training."""

import csv
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class AccuracyCurve(Callback):
    """Writes ``file`` with the columns epoch, minutes, val_loss and accuracy; the time of testing does not count.

    ``minutes`` is processor time, so that other work on the machine does not count either.

    Args:
        file: The CSV file.
    """

    def __init__(self, file: str) -> None:
        self.file, self.rows, self.start = Path(file), [], 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, or go on from the last row of a stopped run."""
        self.start = time.process_time() - (60 * self.rows[-1]["minutes"] if self.rows else 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Rows of the stopped run."""
        self.rows = state_dict["rows"]

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Test the network as it was validated (averaged weights included), at the size of this phase; add a row."""
        if trainer.sanity_checking:
            return
        now = time.process_time()
        minutes = (now - self.start) / 60
        data, phase = trainer.datamodule, pl_module.schedule.at(trainer.current_epoch).phase
        hits, images = 0, 0
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()  # Lightning has already put every layer back into the mode of training
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for pixels, labels in data._eval_loader("test", data.subset("test"), phase):
                predicted = pl_module(pixels.to(pl_module.device)).argmax(1).cpu()
                hits, images = hits + int((predicted == labels).sum()), images + len(labels)
        for module, mode in modes.items():
            module.training = mode
        loss = float(trainer.callback_metrics["val/loss"])
        epoch = trainer.current_epoch + 1
        self.rows.append({"epoch": epoch, "minutes": minutes, "val_loss": loss, "accuracy": hits / images})
        with self.file.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        self.start += time.process_time() - now
