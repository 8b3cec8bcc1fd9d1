"""Checkpoints for exact resume: at the end of every epoch, every few minutes, and on a stop signal."""

import contextlib
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from covid_xray.data.loader import worker_failure
from covid_xray.errors import UserError
from covid_xray.files import error_chain, replace_durably, resource_errors, write_failure
from covid_xray.networks.archive import archive_fault
from covid_xray.training.module import XrayClassifier

STALL_SECONDS = 120.0  # after a stop signal, the longest time without a finished batch
CHECK_STEPS = 50  # the most steps between two checks of the loss
# What wrong content of a checkpoint raises.
_CONTENT_ERRORS = (AttributeError, LookupError, TypeError, ValueError, RuntimeError)
_PARTS = {
    **{"state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list},
    **{"epoch": int, "global_step": int, "pytorch-lightning_version": str},
}


class TrainingStopped(Exception):  # noqa: N818 not an error
    """The run received a stop signal, has saved its state and can be continued.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class RunCheckpoint(Checkpoint):
    """Keeps the last, the previous and the best checkpoint of a run, and stops a run that cannot go on.

    Best is the lowest validation loss at the newest image size. Losses at another size do not count: a network is
    tested at the last phase's size, and the best network at a smaller size may be bad at a larger one.

    A checkpoint is written under another name and renamed, so that a kill leaves the old or the new file.
    Lightning's ModelCheckpoint writes through the system's temporary folder (no atomic rename across file systems),
    forgets the best score where the run folder was moved, and cannot save by time and by epoch at once.

    After SIGTERM (a spot machine is taken away) or Ctrl-C, the run saves and stops after the current step; during
    validation, after its end; during the test, after the current batch. A second Ctrl-C stops at once. If no batch
    ends within `STALL_SECONDS` after the signal, the process exits. The signals are handled within `signals`.

    Training stops at the first loss that is not finite, and before such a state is saved.

    Args:
        last: File of the newest state; ``previous.ckpt`` beside it is the state before.
        best: File of the state after the best epoch.
        every_minutes: Also save within epochs after this time; None: only at the end of epochs.
    """

    def __init__(self, last: Path, best: Path, every_minutes: float | None = None) -> None:
        if every_minutes is not None and (isinstance(every_minutes, bool) or not _positive(every_minutes)):
            raise UserError(f"checkpoint.every_minutes must be a number above 0, or null, not {every_minutes!r}")
        self.last_path, self.best_path = last, best
        self.every_minutes = every_minutes
        self.best_loss = float("inf")
        self.best_size = 0
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._losses: list[tuple[int, Tensor]] = []  # by number of the step in the epoch; not yet checked
        self._stop_signal, self._stops = 0, False
        self._stopping = threading.Event()
        self._saved_at = self._moved_at = 0.0
        self._started = False

    def state_dict(self) -> dict[str, Any]:
        """Best loss and its image size, and the validation metrics of the best and the last epoch."""
        best = {"best_loss": self.best_loss, "best_size": self.best_size}
        return {**best, "best": dict(self.best), "last": dict(self.last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best_loss, self.best_size = float(state_dict["best_loss"]), int(state_dict["best_size"])
        self.best, self.last = (
            {str(name): float(value) for name, value in state_dict[part].items()} for part in ("best", "last")
        )

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Handle SIGTERM and Ctrl-C as the class describes, until the end of the block."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
        done = threading.Event()
        threading.Thread(target=self._exit_if_stalled, args=(done,), daemon=True).start()
        try:
            self._install_handlers()
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
            done.set()
            self._stopping.set()  # ends the thread

    @contextlib.contextmanager
    def worker_failures(self) -> Iterator[None]:
        """Turn torch's exception about dead loader workers, which can interrupt any line, into what it means.

        Raises:
            TrainingStopped: If a stop signal came; a scheduler sends it to the workers, too.
            UserError: If none came.
        """
        try:
            yield
        except Exception as error:
            sentence = next(filter(None, map(worker_failure, error_chain(error))), "")
            if not sentence or isinstance(error, TrainingStopped):
                raise
            raise TrainingStopped(self._stop_signal) if self._stop_signal else UserError(sentence) from error

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write checkpoints directly into the run folder."""
        trainer.strategy.checkpoint_io = DirectCheckpointIO()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Turn the failure to restore a run into a `UserError`: its checkpoint is of another run, or damaged."""
        restoring = trainer.ckpt_path is not None and not self._started and "memory" not in str(exception)
        if restoring and isinstance(exception, _CONTENT_ERRORS) and not isinstance(exception, UserError):
            reason = " ".join(str(exception).split())[:200]
            raise UserError(
                f"{trainer.ckpt_path} does not fit this run ({type(exception).__name__}: {reason}); restore it, or "
                f"start again with resume=never"
            ) from exception

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, whose own handler aborts validation; stop if a signal came."""
        _check_optimizers(trainer)
        self._started = True
        self._saved_at = time.monotonic()
        self._install_handlers()
        if _any(trainer, bool(self._stop_signal)):
            raise TrainingStopped(self._stop_signal or signal.SIGTERM)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss; save if it is time or a signal came.

        Not after the last step of an epoch: validation must follow it.
        """
        self._moved_at = time.monotonic()
        self._losses.append((batch_idx, outputs["loss"].detach()))
        if batch_idx + 1 == trainer.num_training_batches:
            self._check_losses(trainer, pl_module)
            return
        # Reading a loss waits for the GPU; at these steps the logger does so anyway.
        logged = bool(trainer.loggers) and trainer._logger_connector.should_update_logs
        failed = (logged or len(self._losses) >= CHECK_STEPS) and self._first_bad_loss() is not None
        due = self._is_time(trainer)
        if not _any(trainer, failed or due or bool(self._stop_signal)):
            return
        self._check_losses(trainer, pl_module)
        self._save(trainer)
        self._stops = _any(trainer, bool(self._stop_signal))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop if the step before was saved for it; not at its end, because Lightning logs its metrics after that."""
        if self._stops:
            raise TrainingStopped(self._stop_signal or signal.SIGTERM)

    def on_validation_batch_end(self, *arguments: Any, **keywords: Any) -> None:
        """Note that the run moves."""
        self._moved_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; then stop if a signal came."""
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        steps: int = progress.processed
        if steps < trainer.num_training_batches:
            raise UserError(
                f"a callback ended epoch {trainer.current_epoch + 1} after {steps} of {trainer.num_training_batches} "
                f"steps: the run is not finished; remove the callback, and continue with the same command"
            )
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.last = metrics | {"epoch": float(trainer.current_epoch)}
        assert isinstance(pl_module, XrayClassifier)
        size = pl_module.schedule.at(trainer.current_epoch).phase.image_size
        loss = metrics["val/loss"]
        if not torch.tensor(loss).isfinite():
            raise _not_finite("validation loss", loss, trainer, pl_module, steps - 1)
        improved = size != self.best_size or loss < self.best_loss
        if improved:
            self.best_loss, self.best_size, self.best = loss, size, self.last
        self._save(trainer, improved)
        stop = _any(trainer, bool(self._stop_signal))
        if stop and trainer.current_epoch + 1 != trainer.max_epochs:
            raise TrainingStopped(self._stop_signal or signal.SIGTERM)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning; stop if a signal came."""
        self._install_handlers()
        if _any(trainer, bool(self._stop_signal)):
            raise TrainingStopped(self._stop_signal or signal.SIGTERM)

    def on_test_batch_end(self, trainer: Trainer, *arguments: Any, **keywords: Any) -> None:
        """Stop if a signal came; the checkpoints are complete, and the same command repeats the test."""
        self._moved_at = time.monotonic()
        # Several processes may have different numbers of test batches, so they cannot agree here.
        if self._stop_signal and trainer.world_size == 1:
            raise TrainingStopped(self._stop_signal)

    def _is_time(self, trainer: Trainer) -> bool:
        return self.every_minutes is not None and time.monotonic() - self._saved_at > 60 * self.every_minutes

    def _first_bad_loss(self) -> tuple[int, float] | None:
        """Step and value of the first loss that is not finite; finite ones are forgotten."""
        if not self._losses:
            return None
        values = torch.stack([loss for _, loss in self._losses]).float().cpu()
        bad = (~values.isfinite()).nonzero().flatten().tolist()
        if not bad:
            self._losses.clear()
            return None
        return self._losses[bad[0]][0], float(values[bad[0]])

    def _check_losses(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise a `UserError` in all processes if a loss of one of them is not finite."""
        bad = self._first_bad_loss()
        if _any(trainer, bad is not None):
            step, loss = bad or (trainer.fit_loop.batch_idx, float("nan"))
            raise _not_finite("training loss", loss, trainer, pl_module, step)

    def _save(self, trainer: Trainer, improved: bool = False) -> None:
        last, best = self.last_path, self.best_path
        previous = last.with_name("previous.ckpt")
        draft, second = last.with_name("next.ckpt"), last.with_name("next-best.ckpt")
        try:
            with resource_errors(last):
                for logger in trainer.loggers:
                    if isinstance(logger, CSVLogger):  # the rows up to this state, which wait in memory
                        logger.save()
                trainer.save_checkpoint(draft)
                self._saved_at = time.monotonic()
                if not trainer.is_global_zero:
                    return
                # Best first: after a kill between the two, the older last.ckpt repeats the epoch and writes the same
                # best.ckpt again, whereas a newer last.ckpt would refer to a best.ckpt that does not exist. A copy,
                # not a link: what damages one file must not damage both.
                if improved:
                    shutil.copyfile(draft, second)
                    replace_durably(second, best)
                if last.is_file():
                    _keep(last, previous)
                replace_durably(draft, last)
        except BaseException:
            if trainer.is_global_zero:
                for file in (draft, second):
                    with contextlib.suppress(OSError):
                        file.unlink(missing_ok=True)
            raise

    def _install_handlers(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._stop_signal and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._stop_signal = signum
        self._moved_at = time.monotonic()
        self._stopping.set()

    def _exit_if_stalled(self, done: threading.Event) -> None:
        """After a stop signal, end a process that does not move any more, such as one that waits for a dead worker."""
        self._stopping.wait()
        while not done.wait(max(0.0, self._moved_at + STALL_SECONDS - time.monotonic())):
            if time.monotonic() - self._moved_at >= STALL_SECONDS:
                print(
                    f"covid-xray: no batch ended within {STALL_SECONDS:.0f} seconds after the stop signal, so the run "
                    f"stops without saving; the same command continues from the newest checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(128 + self._stop_signal)


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint directly into its file, and waits until it is on the disk.

    Lightning's own class writes into the system's temporary folder first, which may be small.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint.

        Raises:
            UserError: If the disk is full or the file cannot be written.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)  # torch hides the reason if it cannot write into a file
        try:
            with Path(path).open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failure(Path(path), error) from error


def resume_point(last: Path) -> Path | None:
    """The newest checkpoint that is complete: ``last``, or the one before it; None for a new run.

    Raises:
        UserError: If there are checkpoints, but none is usable.
    """
    previous = last.with_name("previous.ckpt")
    files = [file for file in (last, previous) if os.path.lexists(file)]
    for file in files:
        if not (reason := damage(file)):
            return file
    if not files:
        return None
    raise UserError(f"{files[0]} is damaged ({reason}), and no older checkpoint is complete; use resume=never")


def damage(file: Path) -> str:
    """Why a checkpoint cannot be used; empty if it can."""
    try:
        if reason := archive_fault(file):
            return reason
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        return "it is missing"
    except Exception as error:  # zipfile and torch raise many kinds
        return " ".join(str(error).split())[:100] or type(error).__name__
    missing = [part for part in _PARTS if not isinstance(state, dict) or state.get(part) in (None, [])]
    if missing:
        return f"it has no {missing[0]}"
    if not all(isinstance(state[part], kind) for part, kind in _PARTS.items()):
        return "a part has another type"
    version = re.match(r"\d+(\.\d+)+", state["pytorch-lightning_version"])
    if not version or state["epoch"] < 0 or state["global_step"] < 0:
        return "its version, epoch or step is impossible"
    if RunCheckpoint.__qualname__ not in state["callbacks"]:
        return "it has no state of the callback RunCheckpoint"
    return ""


def _keep(last: Path, previous: Path) -> None:
    """Make the newest checkpoint the previous one; it also keeps its name until the next one replaces it."""
    second = previous.with_name("next-previous.ckpt")
    second.unlink(missing_ok=True)
    try:
        os.link(last, second)
    except OSError:  # a file system without hard links
        last.replace(previous)
    else:
        second.replace(previous)


def _check_optimizers(trainer: Trainer) -> None:
    """Raise a `ValueError` if the restored state of an optimiser is larger than its parameter."""
    for optimizer in trainer.optimizers:
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.numel() > parameter.numel():
                    shape = tuple(parameter.shape)
                    raise ValueError(f"{name} of a parameter of the shape {shape} has {value.numel():,} elements")


def _any(trainer: Trainer, decision: bool) -> bool:
    """Whether one of the processes decides so."""
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))


def _not_finite(what: str, loss: float, trainer: Trainer, pl_module: LightningModule, step: int) -> UserError:
    assert isinstance(pl_module, XrayClassifier)
    schedule, epoch, steps = pl_module.schedule, trainer.current_epoch, int(trainer.num_training_batches)
    rate = schedule.learning_rates(epoch, schedule.progress(epoch, step, steps), len(pl_module.group_names))[-1]
    return UserError(
        f"the {what} is {loss} in step {step + 1} of epoch {epoch + 1} (phase {schedule.at(epoch).name}, learning rate "
        f"{rate:.2g}); lower the rate, such as with schedule.lr_scale=0.1, and start again with resume=never"
    )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
