"""Sets the learning rate of every layer group, and Adam's first beta, at every step."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from covid_xray.training.module import XrayClassifier


class OneCycle(Callback):
    """One cycle per phase, computed in closed form from the epoch and the step within it.

    Torch's `OneCycleLR` keeps its maximum in the parameter group, which all phases would share. Adam's moments are
    cleared where a phase begins, as fastai does by making a new optimiser.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set and log rates and beta1."""
        assert isinstance(pl_module, XrayClassifier)
        schedule, epoch = pl_module.schedule, trainer.current_epoch
        optimizer = trainer.optimizers[0]
        if batch_idx == 0 and schedule.at(epoch).epoch_in_phase == 0:
            optimizer.state.clear()
        progress = schedule.progress(epoch, batch_idx, int(trainer.num_training_batches))
        rates = schedule.learning_rates(epoch, progress, len(optimizer.param_groups))
        beta1 = schedule.momentum(progress)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
            if "betas" in group:
                group["betas"] = (beta1, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = beta1
        named = zip(optimizer.param_groups, rates, strict=True)
        pl_module.log_step({f"lr/{group['name']}": rate for group, rate in named} | {"beta1": beta1})
