"""An exponential moving average of the weights, which validation, tests and checkpoints use in place of the weights."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from covid_xray.errors import UserError
from covid_xray.training.module import XrayClassifier

# In a checkpoint: the weights that training continues with. `state_dict` is the average. Lightning's name.
RAW = "current_model_state"


class WeightAverage(Callback):
    """Keeps an exponential moving average of the network's weights and BatchNorm statistics.

    Training continues with the weights themselves. Everything else uses the average: validation, the choice of the
    best epoch, the ``state_dict`` of every checkpoint, and so the final test and all commands.

    The average starts anew from the weights where a phase begins, as the optimiser does, so groups that are frozen in
    a phase have the same bytes in both. It is restored from the checkpoint, so resume is exact.

    Not Lightning's ``EMAWeightAveraging`` (2.6): for a test, it loads the weights of the checkpoint instead of the
    average; it tests the weights also where a finished training is resumed; it changes the last bits of frozen weights;
    and it averages on the CPU where the module moves to a GPU after ``setup``.

    Args:
        decay: Share of the old average in the new one after every optimiser step, above 0 and below 1. The average is
            over about the last ``1 / (1 - decay)`` steps. See `decay_at` for the first steps.

    Raises:
        UserError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
            raise UserError(f"averaging.decay must be above 0 and below 1, not {decay!r}")
        self.decay = float(decay)
        self._average: dict[str, Tensor] = {}  # by name in the module's state_dict
        self._raw: dict[str, Tensor] = {}  # the weights, while validation uses the average

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put an average that was loaded beside the weights: the same device and memory format."""
        loaded, self._average = self._average, _copy(pl_module)
        _write(loaded, self._average)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start anew at a phase's first step."""
        assert isinstance(pl_module, XrayClassifier)
        if batch_idx == 0 and pl_module.schedule.at(trainer.current_epoch).epoch_in_phase == 0:
            self._average = _copy(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights after the step."""
        assert isinstance(pl_module, XrayClassifier)
        steps = int(trainer.num_training_batches)
        step = pl_module.schedule.at(trainer.current_epoch).epoch_in_phase * steps + batch_idx
        current = pl_module.state_dict()
        floats = [name for name, tensor in current.items() if tensor.is_floating_point()]
        # By linear interpolation, which leaves equal values as they are.
        average: Any = get_ema_multi_avg_fn(decay_at(step, self.decay))  # type: ignore[no-untyped-call]
        average([self._average[name] for name in floats], [current[name] for name in floats], None)
        _write({name: tensor for name, tensor in current.items() if name not in floats}, self._average)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._raw = _copy(pl_module)
            _write(self._average, pl_module.state_dict())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the weights again."""
        _write(self._raw, pl_module.state_dict())
        self._raw = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module."""
        _write(self._average, pl_module.state_dict())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as ``state_dict``, and the weights beside it."""
        checkpoint[RAW], checkpoint["state_dict"] = self._raw or checkpoint["state_dict"], self._average

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue with the weights and the average; a test uses the average, which Lightning has loaded."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._average = dict(checkpoint["state_dict"])
            pl_module.load_state_dict(checkpoint[RAW])


def decay_at(step: int, decay: float) -> float:
    """Share of the old average after step ``step`` of a phase, from 0: it rises from 0.1 to ``decay``.

    Without this, the average of the first steps would be the weights before them.

    Source: ``tf.train.ExponentialMovingAverage`` with ``num_updates``.
    """
    return min(decay, (1 + step) / (10 + step))


def _copy(module: LightningModule) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@torch.no_grad()
def _write(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
