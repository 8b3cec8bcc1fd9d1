"""One tiny run of the real command, and everything that it leaves behind."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Command
from PIL import Image
from small_network import SMALL_NETWORK
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import InProcess, command, copy_run, mistake, tiny_run  # noqa: F401 fixture

CLASSES = ("covid-19", "normal", "pneumonia")
STEPS = 42


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> tuple[Path, str]:  # noqa: F811
    return tiny_run, tiny_run.with_suffix(".txt").read_text()


@pytest.fixture(scope="module")
def board(run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = tmp_path_factory.mktemp("board")
    for file in run[0].glob("events.*"):
        if ".evaluation-" not in file.name:  # of other tests
            shutil.copy2(file, folder)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def test_files(run: tuple[Path, str]) -> None:
    folder = run[0]
    for name in ("config.yaml", "splits.csv", "metrics.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.tmp"))
    assert not list(folder.glob("checkpoints/next*"))
    metrics = json.loads((folder / "metrics.json").read_text())
    for split in ("val", "test"):
        names = ["accuracy", "f1_weighted", "loss", *(f"recall/{name}" for name in CLASSES)]
        assert {f"{split}/{name}" for name in names} <= metrics.keys()
        assert all(0 <= metrics[f"{split}/{name}"] <= 1 for name in names if name != "loss")
    assert metrics["epoch"] in (2, 3), "only epochs at the last size, at which it is tested, can be the best"


def test_no_patient_is_in_two_splits(run: tuple[Path, str]) -> None:
    with (run[0] / "splits.csv").open() as file:
        rows = list(csv.DictReader(file))
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["patient_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    counts = [sum(split in splits for splits in sides.values()) for split in ("train", "val", "test")]
    assert f"Patients (train/val/test): {'/'.join(map(str, counts))}" in run[1]


def test_data_that_changed_since_the_run_began(
    run: tuple[Path, str],
    command: InProcess,  # noqa: F811
) -> None:
    begun = copy_run(run[0], "begun")
    (begun / "metrics.json").unlink()
    table = pd.read_csv(begun / "splits.csv", dtype=str)
    table.assign(label=table["label"][::-1].to_numpy()).to_csv(begun / "splits.csv", index=False)
    before = (begun / "splits.csv").read_bytes()
    mistake(command("train experiment=tiny run_dir=begun"), "the images, labels or splits are not those")
    assert (begun / "splits.csv").read_bytes() == before


def test_scalars_at_every_step(board: EventAccumulator) -> None:
    every_step = ["train/loss", "lr/early", "lr/late", "lr/head", "beta1", "image_size", "batch_size", "phase"]
    for tag in [*every_step, "images_per_second", "data_wait_share"]:
        assert [event.step for event in board.Scalars(tag)] == list(range(STEPS)), tag
    for tag in ["val/loss", "val/accuracy", *(f"val/recall/{name}" for name in CLASSES)]:
        assert [event.step for event in board.Scalars(tag)] == [6, 13, 27, 41], tag
    for tag in ["test/loss", "test/accuracy", "test/f1_weighted", *(f"test/recall/{name}" for name in CLASSES)]:
        assert len(board.Scalars(tag)) == 1, tag


def test_phases_are_what_the_schedule_says(board: EventAccumulator) -> None:
    sizes = [event.value for event in board.Scalars("image_size")]
    assert sizes == [32] * 14 + [48] * 28
    assert [event.value for event in board.Scalars("batch_size")] == [8] * 14 + [4] * 28
    assert [event.value for event in board.Scalars("phase")] == [1] * 7 + [2] * 7 + [3] * 14 + [4] * 14
    head, early = (([event.value for event in board.Scalars(f"lr/{group}")]) for group in ("head", "early"))
    assert head[0] == pytest.approx(2e-3 / 25)
    assert early[0] == pytest.approx(2e-4 / 25)
    assert head[7] == pytest.approx(4e-4 / 25)


def test_pictures_and_text(board: EventAccumulator) -> None:
    tags = board.Tags()["images"]
    phases = ("1_frozen_small", "2_unfrozen_small", "3_frozen_large", "4_unfrozen_large")
    for tag in [*(f"show_batch/{phase}" for phase in phases), "filters/first_layer", "confusion_matrix/test"]:
        assert tag in tags
        with Image.open(io.BytesIO(board.Images(tag)[0].encoded_image_string)) as picture:
            assert (np.asarray(picture.convert("L")) < 240).mean() > 0.2, f"{tag} is blank"
    assert len(board.Images("confusion_matrix/val")) == 4
    assert len(board.Images("filters/first_layer")) == 2
    text = board.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "architecture: resnet18" in text


def test_hparams_with_metrics(board: EventAccumulator) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["model.architecture"].string_value == "resnet18"
    assert start.hparams["schedule.phases.frozen_small.image_size"].number_value == 32
    content = board.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert {"final/test/accuracy", "final/val/loss"} <= {info.name.tag for info in experiment.metric_infos}


def test_console(run: tuple[Path, str]) -> None:
    lines = run[1].splitlines()
    rows = [line for line in lines if line.strip().startswith(("1/4", "2/4", "3/4", "4/4"))]
    assert len(rows) == 4
    assert any("Test accuracy" in line for line in lines)
    assert any("tensorboard --logdir" in line for line in lines)
    assert "not for diagnosis" in run[1]


def test_checkpoints_hold_plain_types_only(run: tuple[Path, str]) -> None:
    for name in ("best", "last"):
        state = torch.load(run[0] / f"checkpoints/{name}.ckpt", weights_only=True)
        assert state["state_dict"]


def test_find_lr_leaves_weights_alone_and_draws(covid_xray: Command, workplace: Path, run: tuple[Path, str]) -> None:
    checkpoint = run[0] / "checkpoints/last.ckpt"
    before = checkpoint.read_bytes()
    result = covid_xray(
        "find-lr",
        "experiment=tiny",
        "phase=unfrozen_small",
        f"checkpoint_path={checkpoint}",
        "steps=40",
        "schedule.phases.unfrozen_small.batch_size=16",
        "run_dir=found",
    )
    assert result.returncode == 0, result.stderr
    rates = [float(line.split()[-1]) for line in result.stdout.splitlines() if line.startswith(("Steepest", "Minimum"))]
    assert len(rates) == 2
    assert all(1e-8 <= rate <= 10 for rate in rates)
    assert (workplace / "found/find_lr.png").stat().st_size > 5000
    assert checkpoint.read_bytes() == before
    events = EventAccumulator(str(workplace / "found"))
    events.Reload()
    assert "find_lr/loss" in events.Tags()["scalars"]
    assert "find_lr/curve" in events.Tags()["images"]


def test_logging_now_and_then(covid_xray: Command, workplace: Path) -> None:
    phases = ("~schedule.phases.frozen_small", "~schedule.phases.unfrozen_small")
    settings = ("experiment=tiny", SMALL_NETWORK, *phases, "trainer.log_every_n_steps=10", "run_dir=seldom-logged")
    result = covid_xray("train", *settings, timeout=300)
    assert result.returncode == 0, result.stderr
    events = EventAccumulator(str(workplace / "seldom-logged"), size_guidance={"scalars": 0})
    events.Reload()
    for tag in ("train/loss", "lr/head", "beta1", "phase", "images_per_second"):
        assert [event.step for event in events.Scalars(tag)] == [9, 19], tag
    assert len(events.Scalars("val/accuracy")) == 2


@pytest.mark.slow
def test_machine_that_cannot_compile_says_so(covid_xray: Command, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU needs no C++ compiler")
    without = {"CXX": str(tmp_path / "no-such-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    settings = ("experiment=tiny", "compile=default", f"run_dir={tmp_path}/run")
    result = covid_xray("train", *settings, env=without, timeout=300)
    assert result.returncode == 2, result.stderr
    assert "compile=default: torch cannot compile here" in result.stderr
    assert "use compile=null" in result.stderr
    assert "Traceback" not in result.stderr
