"""What the real TensorBoard serves of a real sweep, asked over HTTP as its page asks."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from tiny_sweep import RATE, tiny_sweep

__all__ = ["tiny_sweep"]
Ask = Callable[..., Any]
CLASSES = ("covid-19", "normal", "pneumonia")


@pytest.fixture(scope="module")
def runs(tiny_sweep: Path) -> dict[str, Path]:
    """Folder by TensorBoard's name of the run."""
    return {f"small/sweep/{file.parent.name}": file.parent for file in tiny_sweep.glob("*/metrics.json")}


@pytest.fixture(scope="module")
def ask(tiny_sweep: Path, runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """TensorBoard over the whole outputs folder, as the README says: call with a path and its parameters."""
    folder = tmp_path_factory.mktemp("board")  # without the runs of other tests
    shutil.copytree(tiny_sweep, folder / "outputs/small/sweep", ignore=shutil.ignore_patterns("*.ckpt"))
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "outputs", "--port", "0", "--host", "127.0.0.1"]
    board = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert board.stdout is not None
    try:
        said = ""
        address = ""
        for line in board.stdout:
            said += line
            if " at http://" in line:
                address = line.split(" at ")[1].split()[0].rstrip("/")
                break
        assert address, said

        def get(path: str, **parameters: str) -> Any:
            with urlopen(f"{address}/data/{path}?{urlencode(parameters)}", timeout=60) as answer:
                return json.load(answer)

        deadline = time.monotonic() + 120
        while True:  # it reads the files while it serves
            tags = get("plugin/scalars/tags")
            if all("final/test/accuracy" in tags.get(run, {}) for run in runs):
                break
            assert time.monotonic() < deadline, tags
            time.sleep(0.3)
        yield get
    finally:
        board.kill()
        board.wait()
        board.stdout.close()


def test_runs_are_named_by_what_they_are(ask: Ask, runs: dict[str, Path]) -> None:
    names = [name for name in ask("runs") if name.startswith("small/sweep/")]
    assert names == sorted(runs)
    assert [name.split("unfrozen_small.max_lr=")[1].split(",")[0] for name in names] == ["0.001", "0.01"]


def test_scalars(ask: Ask, runs: dict[str, Path]) -> None:
    tags = ask("plugin/scalars/tags")
    for run in runs:
        expected = {"train/loss", "val/loss", "lr/early", "lr/late", "lr/head", "phase", "images_per_second"}
        assert expected | {f"val/recall/{name}" for name in CLASSES} <= tags[run].keys()
        points = ask("plugin/scalars/scalars", run=run, tag="train/loss")
        assert [step for _, step, _ in points] == list(range(14))


def test_pictures(ask: Ask, runs: dict[str, Path]) -> None:
    tags = ask("plugin/images/tags")
    for run in runs:
        pictures = {"show_batch/1_frozen_small", "filters/first_layer", "confusion_matrix/test", "audit/associations"}
        assert pictures <= tags[run].keys()
    assert ask("plugin/images/images", run=run, tag="confusion_matrix/test", sample="0")


def test_text(ask: Ask, runs: dict[str, Path]) -> None:
    for run in runs:

        def text(tag: str, run: str = run) -> str:
            return str(ask("plugin/text/text", run=run, tag=f"{tag}/text_summary")[0]["text"])

        assert "architecture: resnet18" in text("configuration")
        assert all(name in text("phases") for name in ("frozen_small", "unfrozen_small", "32 px"))
        audit = text("audit")
        assert all(name in audit for name in (*CLASSES, "train", "near duplicates", "same patient in several splits"))


def test_hyper_parameters_beside_the_final_figures(ask: Ask, runs: dict[str, Path]) -> None:
    experiment = ask("plugin/hparams/experiment", request="{}")
    metrics = [{"metric": info["name"]} for info in experiment["metricInfos"]]
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    request = {"colParams": metrics, "allowedStatuses": statuses, "startIndex": 0, "sliceSize": 100}
    groups = ask("plugin/hparams/session_groups", request=json.dumps(request))["sessionGroups"]
    sessions = {group["name"]: group for group in groups if group["name"] in runs}
    assert sessions.keys() == runs.keys()
    keys = {frozenset(session["hparams"]) for session in sessions.values()}
    assert keys == {frozenset(info["name"] for info in experiment["hparamInfos"])}, "one set of keys for all runs"
    for name, session in sessions.items():
        assert session["sessions"][0]["status"] == "STATUS_SUCCESS"
        assert None not in session["hparams"].values()
        shown = {value["name"]["tag"]: value["value"] for value in session["metricValues"]}
        final = json.loads((runs[name] / "metrics.json").read_text())
        wanted = {"test/accuracy", "test/f1_weighted", "test/loss", "val/loss", "val/accuracy", "leaks"}
        assert {f"final/{metric}" for metric in wanted | {f"test/recall/{label}" for label in CLASSES}} <= shown.keys()
        assert all(math.isclose(value, final[tag.removeprefix("final/")]) for tag, value in shown.items())
    rates = [session["hparams"][f"{RATE}.head"] for _, session in sorted(sessions.items())]
    assert rates == [0.001, 0.01]
    first = [info["name"] for info in experiment["hparamInfos"] if info["differs"]]
    assert RATE in first, "what the command line gave comes first"
    assert experiment["metricInfos"][0]["displayName"] == "test/accuracy"


def test_settings_have_one_type_in_all_runs(ask: Ask, runs: dict[str, Path]) -> None:
    types = {info["name"]: info["type"] for info in ask("plugin/hparams/experiment", request="{}")["hparamInfos"]}
    assert types[RATE] == "DATA_TYPE_STRING", "may be a list or a slice"
    assert types[f"{RATE}.head"] == types["seed"] == "DATA_TYPE_FLOAT64"
    assert types["split.folds"] == types["trainer.devices"] == "DATA_TYPE_STRING", "numbers or words"


def test_one_layout_for_all_runs(ask: Ask, runs: dict[str, Path]) -> None:
    layout = ask("plugin/custom_scalars/layout")
    charts = {chart["title"]: chart for category in layout["category"] for chart in category["chart"]}
    assert len(charts) == sum(len(category["chart"]) for category in layout["category"]), "charts drawn twice"
    run = min(runs)

    def drawn(title: str) -> set[str]:
        (expression,) = charts[title]["multiline"]["tag"]
        answer = ask("plugin/custom_scalars/scalars", run=run, tag=expression)
        assert answer["regex_valid"]
        return set(answer["tag_to_events"])

    assert drawn("loss, training and validation") == {"train/loss", "val/loss"}
    assert drawn("recall by class, validation") == {f"val/recall/{name}" for name in CLASSES}
    assert drawn("learning rate by layer group") == {"lr/early", "lr/late", "lr/head"}
