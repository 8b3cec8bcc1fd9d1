"""Callbacks that tests put into real runs: to kill them, to look at them, to make two of them comparable."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.nn.modules.batchnorm import _BatchNorm


class KillAtStep(Callback):
    """Sends its own process the signal SIGNAL before the optimiser step number KILL_AT_STEP of the run."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == int(os.environ.get("KILL_AT_STEP", "-1")):
            os.kill(os.getpid(), int(os.environ.get("SIGNAL", signal.SIGKILL)))


class StateDump(Callback):
    """Writes weights and optimiser state after every epoch, a file per process."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = {"weights": pl_module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
        name = f"state-epoch{trainer.current_epoch}-rank{trainer.global_rank}.pt"
        torch.save(state, Path(trainer.default_root_dir) / name)


class FixedBatchNorm(Callback):
    """Holds every BatchNorm in evaluation mode, so that the result cannot depend on how a batch is shared out.

    Args:
        epochs: For this number of epochs.
    """

    def __init__(self, epochs: int = 10**9) -> None:
        self.epochs = epochs

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for module in pl_module.modules():
            if isinstance(module, _BatchNorm) and trainer.current_epoch < self.epochs:
                module.eval()
