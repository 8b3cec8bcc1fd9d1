"""A callback for tests: kills its own process in the middle of a run, as a power cut would."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class KillAtStep(Callback):
    """Sends itself the signal SIGNAL before the optimiser step number KILL_AT_STEP of the run."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == int(os.environ.get("KILL_AT_STEP", "-1")):
            os.kill(os.getpid(), int(os.environ.get("SIGNAL", signal.SIGKILL)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down the final weights and optimiser state of this process."""
        state = {"weights": pl_module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
        torch.save(state, Path(trainer.default_root_dir) / f"final-{trainer.global_rank}.pt")
