"""TensorBoard, CSV, W&B and MLflow at once: one run in each, every step once, also after kills."""

import csv
import json
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_train import STEPS
from tiny_run import InProcess, command, mistake

from covid_xray.runs.folder import RunFolder
from covid_xray.sweeps.learning_curves import read_curves
from covid_xray.training.curves import read_points

__all__ = ["command"]
ALL = "logger=[tensorboard,csv,wandb,mlflow]"
OFFLINE = "logger.wandb.offline=true"
VALIDATED = [6, 13, 27, 41]  # steps of experiment=tiny after which an epoch ends


def mlflow_runs(database: Path) -> tuple[Any, list[Any]]:
    """Client and runs of an MLflow file."""
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, list(client.search_runs(ids))


def wandb_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step and values of every row in the history of a W&B file, which is a LevelDB log of protocol buffers."""
    pytest.importorskip("wandb", reason="wandb is not installed (extra wandb)")
    from wandb.proto import wandb_internal_pb2

    records: Any = wandb_internal_pb2

    content, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:  # a block ends with padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = records.Record.FromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                yield int(row["_step"]), {key: json.loads(value) for key, value in row.items()}


def read_board(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


@pytest.mark.slow
def test_all_loggers_at_once_killed_and_continued(covid_xray: Command, workplace: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (extra wandb)")
    settings = ("train", "experiment=tiny", ALL, OFFLINE, "run_dir=watched", "datamodule.num_workers=0")
    kill = "+callbacks.kill._target_=probe_callbacks.KillAtStep"
    address = {"MLFLOW_TRACKING_URI": f"sqlite:///{workplace}/killed.db"}
    # Saved after every step, and then only at the ends of epochs: the second kill makes steps 14 to 19 run again.
    for step, every in ((10, "1e-6"), (20, "null")):
        env = {**address, "KILL_AT_STEP": str(step)}
        result = covid_xray(*settings, kill, f"checkpoint.every_minutes={every}", env=env)
        assert result.returncode == -signal.SIGKILL, result.stderr
    result = covid_xray(*settings, kill, env=address)
    assert result.returncode == 0, result.stderr
    folder = RunFolder(workplace / "watched")
    losses = [(step, value) for step, metric, value in read_points(folder.curves) if metric == "train/loss"]
    assert [step for step, _ in losses] == list(range(STEPS))
    assert [step for step, metric, _ in read_points(folder.curves) if metric == "val/loss"] == VALIDATED

    board = read_board(folder.path)
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == losses
    assert [event.step for event in board.Scalars("val/loss")] == VALIDATED
    assert [picture.step for picture in board.Images("confusion_matrix/val")] == VALIDATED
    assert [picture.step for picture in board.Images("show_batch/2_unfrozen_small")] == [7]
    assert [picture.step for picture in board.Images("filters/first_layer")] == [0, 41]

    with (folder.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), float(row["train/loss"])) for row in rows if row["train/loss"]] == losses
    assert [int(row["step"]) for row in rows if row["val/loss"]] == VALIDATED

    client, (run,) = mlflow_runs(workplace / "killed.db")
    assert (run.info.run_name, run.info.status) == ("watched", "FINISHED")
    assert [(old.step, old.value) for old in client.get_metric_history(run.info.run_id, "train/loss")] == losses
    assert [old.step for old in client.get_metric_history(run.info.run_id, "val/loss")] == VALIDATED
    assert run.data.params["model.architecture"] == "resnet18"
    final = folder.finished_metrics()
    assert final is not None
    assert run.data.metrics["final/test/accuracy"] == final["test/accuracy"]
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "confusion_matrix/val")]
    assert pictures == [f"confusion_matrix/val/{step:06}.png" for step in VALIDATED]

    (session,) = folder.path.glob("wandb/offline-run-*")
    assert session.name.endswith(folder.log_id())
    history = list(wandb_rows(session / f"run-{folder.log_id()}.wandb"))
    assert [step for step, _ in history] == sorted({step for step, _ in history})
    assert [(step, row["train/loss"]) for step, row in history if "train/loss" in row] == losses
    assert [step for step, row in history if "val/loss" in row] == VALIDATED
    assert [step for step, row in history if any(key.startswith("confusion_matrix/val") for key in row)] == VALIDATED
    assert [row["final/test/accuracy"] for _, row in history if "final/test/accuracy" in row] == [
        final["test/accuracy"]
    ]


@pytest.mark.slow
def test_sweep_in_the_table_of_mlflow(covid_xray: Command, workplace: Path) -> None:
    phases = [f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")]
    settings = ("experiment=tiny", "name=table", "seed=0,1", "logger=[mlflow]", "datamodule.num_workers=0", *phases)
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{workplace}/sweep.db"}
    result = covid_xray("train", "-m", *settings, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    _, runs = mlflow_runs(workplace / "sweep.db")
    assert sorted(run.data.params["seed"] for run in runs) == ["0", "1"]
    for run in runs:
        folder = RunFolder(workplace / f"outputs/table/sweep/{run.info.run_name}")
        final = folder.finished_metrics()
        assert final is not None
        assert run.info.run_name.startswith(f"seed={run.data.params['seed']},")
        assert "logger" not in run.info.run_name, "it does not change the result"
        assert run.data.metrics["final/val/loss"] == final["val/loss"]
        assert run.data.metrics["final/test/accuracy"] == final["test/accuracy"]
        assert read_curves(folder.path, ["val/loss"])["val/loss"] == {1: pytest.approx(final["val/loss"])}


@pytest.mark.slow
def test_find_lr_with_every_logger(covid_xray: Command, workplace: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (extra wandb)")
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{workplace}/rates.db"}
    settings = ("experiment=tiny", "steps=30", "datamodule.num_workers=0", "run_dir=rates")
    result = covid_xray("find-lr", *settings, ALL, OFFLINE, env=env)
    assert result.returncode == 0, result.stderr
    folder = workplace / "rates"
    board = read_board(folder)
    losses = [(event.step, event.value) for event in board.Scalars("find_lr/loss")]
    assert len(losses) > 15
    assert "find_lr/curve" in board.Tags()["images"]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = {int(row["step"]): float(row["find_lr/loss"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx(dict(losses))
    client, (run,) = mlflow_runs(workplace / "rates.db")
    assert len(client.get_metric_history(run.info.run_id, "find_lr/loss")) == len(losses)
    assert client.list_artifacts(run.info.run_id, "find_lr/curve")
    (session,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert [step for step, row in wandb_rows(session) if "find_lr/loss" in row] == [step for step, _ in losses]
    result = covid_xray("find-lr", *settings, "logger=none", "run_dir=no-log")
    assert result.returncode == 0, result.stderr
    assert [file.name for file in (workplace / "no-log").iterdir()] == ["find_lr.png"]


def test_lists_of_loggers(command: InProcess) -> None:
    def chosen(line: str) -> list[str]:
        code, out, err = command(f"train {line} --cfg job --package logger")
        assert code == 0, err
        return [row.rstrip(":") for row in out.splitlines() if row and row[0] not in " #{"]

    assert chosen("logger=[tensorboard,csv]") == ["tensorboard", "csv"]
    assert chosen("logger=[csv,wandb,mlflow]") == ["csv", "wandb", "mlflow"]
    assert chosen("logger=none") == []


def test_mistakes(command: InProcess) -> None:
    mistake(
        command("train logger=[tensorboard,comet]"),
        "Could not load 'logger/comet'; use csv, mlflow, none, tensorboard, wandb",
    )
    mistake(command("train experiment=tiny ~logger.tensorboard._target_"), "logger.tensorboard must be a mapping")
    mistake(command("train experiment=tiny +logger.mine=5"), "logger.mine must be a mapping")
