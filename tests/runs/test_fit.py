"""A run is stopped, continued and refused without a lost step, a damaged file or a result that is none."""

import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import differences
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from test_api import SMALL_SCHEDULE, Small, make_data, records

import covid_xray as cx
from covid_xray.runs.folder import RunFolder
from covid_xray.training.callbacks import checkpoint
from covid_xray.training.callbacks.checkpoint import TrainingStopped
from covid_xray.training.curves import read_points

__all__ = ["records"]
WEIGHTS = Small(3).state_dict()
DEFAULTS: dict[str, Any] = {"logger": None, "callbacks": [], "trainer": {"accelerator": "cpu"}}


def fit(records: pd.DataFrame, folder: Path, schedule: cx.Schedule = SMALL_SCHEDULE, **settings: Any) -> dict[str, Any]:
    """Train from the same weights each time; returns the newest checkpoint."""
    network = Small(3)
    network.load_state_dict(WEIGHTS)
    cx.fit(network, make_data(records, schedule), folder, **{**DEFAULTS, **settings})
    return load(folder)


def load(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(RunFolder(folder).last, weights_only=True)
    return state


@pytest.fixture(scope="module")
def whole(records: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and final state of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, fit(records, folder)


class AtHook(Callback):
    """Calls a function at a hook, once."""

    def __init__(self, hook: str, action: Callable[[Trainer], object]) -> None:
        def call(trainer: Trainer, *arguments: Any, **keywords: Any) -> None:
            setattr(self, hook, lambda *_, **__: None)
            action(trainer)

        setattr(self, hook, call)


def terminate(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "hook",
    [
        *("setup", "on_fit_start", "on_train_start", "on_train_batch_start", "on_validation_batch_start"),
        *("on_validation_end", "on_train_epoch_end", "on_save_checkpoint", "on_train_end", "on_fit_end"),
        *("on_test_start", "on_test_batch_start"),
    ],
)
def test_sigterm_anywhere_loses_no_epoch(
    records: pd.DataFrame, whole: tuple[Path, dict[str, Any]], tmp_path: Path, hook: str
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped) as stopped:
        fit(records, tmp_path / "run", callbacks=[AtHook(hook, terminate)])
    assert stopped.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not (tmp_path / "run/metrics.json").exists()
    if hook.startswith("on_validation"):
        assert load(tmp_path / "run")["epoch"] == 0, "the epoch was lost"
    assert differences(whole[1]["state_dict"], fit(records, tmp_path / "run")["state_dict"]) == []


def test_sigterm_after_the_test_lets_the_run_finish(records: pd.DataFrame, tmp_path: Path) -> None:
    fit(records, tmp_path / "run", callbacks=[AtHook("on_test_end", terminate)])
    assert (tmp_path / "run/metrics.json").is_file()


def test_a_run_that_does_not_move_after_sigterm_exits(
    records: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(checkpoint, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(os, "_exit", exits.append)

    def hang(trainer: Trainer) -> None:
        terminate(trainer)
        deadline = time.monotonic() + 20
        while not exits and time.monotonic() < deadline:
            time.sleep(0.01)

    with pytest.raises(TrainingStopped):
        fit(records, tmp_path / "run", callbacks=[AtHook("on_train_batch_start", hang)])
    assert exits[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize(("hook", "stopped"), [("on_train_batch_end", False), ("on_validation_batch_start", True)])
def test_workers_that_die_at_any_moment(records: pd.DataFrame, tmp_path: Path, hook: str, stopped: bool) -> None:
    """torch raises its exception then wherever the main thread is; a scheduler sends SIGTERM to workers, too."""

    def kill_workers(trainer: Trainer) -> None:
        if stopped:
            terminate(trainer)
        workers = multiprocessing.active_children()
        assert workers
        for worker in workers:
            worker.kill()
        time.sleep(1)  # interrupted, except after an earlier training in this process: Lightning resets the handler

    error, text = (TrainingStopped, str(int(signal.SIGTERM))) if stopped else (cx.UserError, "workers died or stopped")
    network = Small(3)
    data = cx.XrayDataModule(records, SMALL_SCHEDULE, num_workers=1)
    with pytest.raises(error, match=text):
        cx.fit(network, data, tmp_path / "run", **{**DEFAULTS, "callbacks": [AtHook(hook, kill_workers)]})


def test_training_stops_at_the_first_loss_that_is_not_finite(records: pd.DataFrame, tmp_path: Path) -> None:
    broken = cx.Schedule({"good": cx.Phase(32, 8, 1, "top", 1e-2), "bad": cx.Phase(32, 8, 1, "all", 1e36)})
    with pytest.raises(cx.UserError, match=r"training loss is (nan|inf) in step \d+ of epoch 2 \(phase bad, .*rate \d"):
        fit(records, tmp_path / "run", broken)
    folder = RunFolder(tmp_path / "run")
    assert not folder.metrics.exists()
    state = load(folder.path)
    assert state["epoch"] == 0, "a state with a loss that is not finite was saved"
    assert all(value.isfinite().all() for value in state["state_dict"].values())


def test_metrics_are_valid_json_without_nan(whole: tuple[Path, dict[str, Any]]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((whole[0] / "metrics.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_epoch_end"])
def test_a_cut_schedule_is_no_finished_run(
    records: pd.DataFrame, whole: tuple[Path, dict[str, Any]], tmp_path: Path, hook: str
) -> None:
    def stop(trainer: Trainer) -> None:
        trainer.should_stop = True

    with pytest.raises(cx.UserError, match=r"not finished.*same command"):
        fit(records, tmp_path / "run", callbacks=[AtHook(hook, stop)])
    assert not (tmp_path / "run/metrics.json").exists()
    assert differences(whole[1]["state_dict"], fit(records, tmp_path / "run")["state_dict"]) == []


@pytest.mark.parametrize("callback", [EarlyStopping("val/loss"), Timer("00:00:01:00")])
def test_callbacks_that_cut_the_schedule_are_refused(records: pd.DataFrame, tmp_path: Path, callback: Callback) -> None:
    with pytest.raises(cx.UserError, match=f"the callback {type(callback).__name__} would change the schedule"):
        fit(records, tmp_path / "run", callbacks=[callback])
    assert not (tmp_path / "run").exists()


def test_gradients_are_clipped_in_mixed_precision(
    records: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"accelerator": "cpu", "precision": "bf16-mixed", "gradient_clip_val": 1.0}
    state = fit(records, tmp_path / "run", trainer=settings)
    assert "fused=False" in capsys.readouterr().out
    assert not any(group["fused"] for group in state["optimizer_states"][0]["param_groups"])


def test_checkpoints_are_different_files(whole: tuple[Path, dict[str, Any]]) -> None:
    files = sorted((whole[0] / "checkpoints").iterdir())
    assert [file.name for file in files] == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert len({file.stat().st_ino for file in files}) == 3
    assert not list(whole[0].glob("*.tmp"))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def hole(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = b"\xff" * 64
    file.write_bytes(bytes(content))


@pytest.fixture
def stopped(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> RunFolder:
    """A run that was killed in its test."""
    shutil.copytree(whole[0], tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.metrics.unlink()
    return folder


@pytest.mark.parametrize("damage", [empty, half, hole, Path.unlink])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    records: pd.DataFrame,
    whole: tuple[Path, dict[str, Any]],
    stopped: RunFolder,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(stopped.last)
    state = fit(records, stopped.path)
    assert "is damaged or missing, so the run continues from" in capsys.readouterr().out
    assert differences(whole[1]["state_dict"], state["state_dict"]) == []
    assert differences(whole[1]["optimizer_states"], state["optimizer_states"]) == []


def test_damaged_files_of_a_run_are_named(records: pd.DataFrame, stopped: RunFolder) -> None:
    def refused(file: Path, content: bytes | None, sentence: str) -> None:
        before = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(cx.UserError, match=sentence):
            fit(records, stopped.path)
        assert (file.read_bytes() if file.exists() else None) == content, "the file was replaced"
        file.write_bytes(before)

    for content in (None, b""):
        refused(stopped.splits, content, r"splits\.csv is missing or empty.*resume=never")
    refused(stopped.config, None, r"config\.yaml is missing.*resume=never")
    refused(stopped.config, b"", r"config\.yaml")
    for content in (b"", b"[1]", b'{"seconds": "x", "begun": null}', b"{}"[:1]):
        refused(stopped.path / "runtime.json", content, r"runtime\.json")
    refused(stopped.best, b"", r"best\.ckpt cannot be used.*resume=never")
    stopped.previous.unlink()
    refused(stopped.last, b"x", r"last\.ckpt is damaged.*resume=never")
    state = torch.load(stopped.last, weights_only=True)
    for part in ("callbacks", "global_step", "optimizer_states"):
        torch.save({key: value for key, value in state.items() if key != part}, stopped.last)
        refused(stopped.last, stopped.last.read_bytes(), f"it has no {part}")


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_start"])
def test_csv_log_keeps_its_rows(records: pd.DataFrame, tmp_path: Path, hook: str) -> None:
    def logger(save_dir: str) -> CSVLogger:
        return CSVLogger(save_dir, name="", version="")

    def rows(folder: Path) -> list[dict[str, str]]:
        with (folder / "metrics.csv").open(newline="") as file:
            return [{key: row[key] for key in ("step", "train/loss", "val/loss")} for row in csv.DictReader(file)]

    fit(records, tmp_path / "one", logger=logger)
    with pytest.raises(TrainingStopped):
        fit(records, tmp_path / "two", logger=logger, callbacks=[AtHook(hook, terminate)])
    fit(records, tmp_path / "two", logger=logger)
    assert rows(tmp_path / "two") == rows(tmp_path / "one")


def test_a_kill_between_a_save_and_its_log_loses_no_value(
    records: pd.DataFrame, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logger(save_dir: str) -> CSVLogger:
        return CSVLogger(save_dir, name="", version="")

    class Killed(BaseException):
        pass

    def losses(folder: Path) -> list[tuple[int, str, float]]:
        return [point for point in read_points(RunFolder(folder).curves) if point[1] in ("train/loss", "val/loss")]

    log, calls = _LoggerConnector.update_train_step_metrics, 0

    def kill(connector: _LoggerConnector) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        log(connector)

    monkeypatch.setattr(_LoggerConnector, "update_train_step_metrics", kill)
    with pytest.raises(Killed):
        fit(records, tmp_path / "run", logger=logger, every_minutes=1e-6)
    assert [step for step, metric, _ in losses(tmp_path / "run") if metric == "train/loss"] == [0, 1, 2]
    fit(records, tmp_path / "run", logger=logger, every_minutes=1e-6)
    assert losses(tmp_path / "run") == losses(whole[0])
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
    assert rows == [(step, value) for step, metric, value in losses(whole[0]) if metric == "train/loss"]


def test_clock_and_threads(
    records: pd.DataFrame, stopped: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = stopped.path / "runtime.json"
    assert json.loads(runtime.read_text())["threads"] == torch.get_num_threads()
    # The clock was set back after the session began.
    runtime.write_text(json.dumps({"seconds": 1.0, "begun": 9e9, "threads": torch.get_num_threads() + 1}))
    fit(records, stopped.path)
    threads = torch.get_num_threads()
    assert f"began with {threads + 1} threads and continues with {threads}" in capsys.readouterr().out
    assert 0 <= json.loads(runtime.read_text())["seconds"] < 300


@pytest.mark.parametrize("moment", ["first checkpoint", "last checkpoint", "metrics"])
def test_full_disk_is_one_sentence_and_leaves_no_half_file(
    records: pd.DataFrame,
    whole: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    real, full = os.fsync, False

    def fsync(handle: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    def fill(trainer: Trainer) -> None:
        nonlocal full
        full = moment != "last checkpoint" or trainer.current_epoch == 1

    monkeypatch.setattr(os, "fsync", fsync)
    hook = "on_test_end" if moment == "metrics" else "on_save_checkpoint"
    callback: Callback = AtHook(hook, fill)
    if moment == "last checkpoint":
        callback = _Always(fill)
    with pytest.raises(
        cx.UserError, match=r"(ckpt|curves.csv) cannot be written: No space left on device \([\d,]+ MB free\)"
    ):
        fit(records, tmp_path / "run", callbacks=[callback])
    names = {file.name for file in (tmp_path / "run/checkpoints").iterdir()}
    assert names <= {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert not list((tmp_path / "run").glob("*.tmp"))
    full = False
    monkeypatch.undo()
    assert differences(whole[1]["state_dict"], fit(records, tmp_path / "run")["state_dict"]) == []


class _Always(Callback):
    """Calls a function at every checkpoint."""

    def __init__(self, action: Callable[[Trainer], object]) -> None:
        self.action = action

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.action(trainer)
