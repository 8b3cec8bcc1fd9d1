"""One harness: every field of every file that a command reads from a run is damaged in turn.

Each command ends with one sentence and exit code 2, or it does its work: a file that is a cache is made again, and a
value may be free text.
"""

import contextlib
import csv
import functools
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import InProcess, command, copy_run, tiny_run
from torchvision import models

from covid_xray.data.manifest import read_manifest
from covid_xray.data.split import assign_splits
from covid_xray.errors import CONTROL, UserError
from covid_xray.files import resource_errors
from covid_xray.metrics.predictions import read_predictions
from covid_xray.reporting.bundle_card import bundle_card
from covid_xray.reporting.evaluation_report import build_report, draw, numbers
from covid_xray.reporting.html import write_report
from covid_xray.reporting.model_card import model_card
from covid_xray.reporting.sweep_report import write_sweep_report
from covid_xray.runs import calibration, config, images, load, pooling
from covid_xray.runs.bundle import bundle_config
from covid_xray.runs.evaluate import EvaluationResult, evaluate_run
from covid_xray.runs.folder import RunFolder, read_json, seconds_spent
from covid_xray.runs.prediction_file import PredictionFile
from covid_xray.sweeps.jobs import read_sweep

__all__ = ["command", "tiny_run"]

WRONG: dict[str, Any] = {
    "null": None,
    "text": "[red]x",
    "number": -7,
    "fraction": 0.25,
    "true": True,
    "list": [1, "a"],
    "mapping": {"a": {"b": 1}},
    "nan": float("nan"),
    "infinity": float("inf"),
    "huge": 10**400,
    "deep": [[[[[[[[[[1]]]]]]]]]],
    "long": "x" * 10_000,
    "control": "\0\x1b[2J",
}
WHOLE = {
    "empty": b"",
    "zeros": bytes(600),
    "half": b'{"a": ',
    "a list": b"[1]",
    "text": b'"x"',
    "no UTF-8": b"\xff\xfe\xff",
    "deep": b"[" * 100_000,
    "deep mapping": b'{"a":' * 100_000,
    "huge number": b'{"a": 1' + b"0" * 5000 + b"}",
}


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value, of lists only the first and the last one."""
    if path:
        yield path
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items if isinstance(node, dict) else dict([*items[:1], *items[-1:]]).items():
        yield from places(value, (*path, key))


def ways(content: Any) -> list[tuple[tuple[Any, ...], str]]:
    """All ways to damage a content: the keys that lead to a value, and what becomes of it."""
    return [(path, name) for path in places(content) for name in ("missing", *WRONG)]


def damage(content: Any, path: tuple[Any, ...], name: str) -> Any:
    """A copy of a content with one value that is missing or wrong."""
    copy = json.loads(json.dumps(content))
    node = copy
    for key in path[:-1]:
        node = node[key]
    if name == "missing":
        del node[path[-1]]
    else:
        node[path[-1]] = WRONG[name]
    return copy


def in_one_line(read: Callable[[], object]) -> bool:
    """Whether reading ends in a `UserError` of one line; it must end so, or in success."""
    try:
        read()
    except UserError as error:
        sentence = str(error)
    else:
        return False
    assert sentence
    assert "\n" not in sentence
    return True


def try_all(file: Path, dump: Callable[[Any], str], content: Any, read: Callable[[], object]) -> int:
    """Damage a file in every way, and read it: a `UserError` in one line, or success.

    Returns:
        Number of refused copies.
    """
    texts = {f"{way}": dump(damage(content, *way)).encode() for way in ways(content)} | WHOLE
    refused, before = 0, file.read_bytes() if file.is_file() else None
    for name, text in texts.items():
        file.write_bytes(text)
        try:
            refused += in_one_line(read)
        except Exception as error:
            raise AssertionError(f"{file.name}, {name}") from error
    if before is not None:
        file.write_bytes(before)
    return refused


def count_refused(content: Any, check: Callable[[Any], bool], every: bool) -> int:
    """Number of damaged copies that are refused, of all of them or of a sample."""
    refused = []

    def check_one(way: tuple[tuple[Any, ...], str]) -> None:
        try:
            refused.append(check(damage(content, *way)))
        except Exception as error:
            raise AssertionError(way) from error

    if every:
        for way in ways(content):
            check_one(way)
    else:
        settings(max_examples=20, deadline=None)(given(st.sampled_from(ways(content)))(check_one))()
    return sum(refused)


def test_metrics(tiny_run: Path, tmp_path: Path) -> None:
    metrics = read_json(tiny_run / "metrics.json")
    folder = RunFolder(tmp_path)
    refused = try_all(folder.metrics, json.dumps, metrics, folder.finished_metrics)
    assert refused >= len(WHOLE) - 1 + 5 * len(metrics)
    folder.metrics.write_text('{"val/loss": NaN, "test/accuracy": 1}')
    assert folder.finished_metrics() == {"test/accuracy": 1}
    folder.metrics.unlink()
    os.mkfifo(folder.metrics)
    with pytest.raises(UserError, match="is no regular file"):
        folder.finished_metrics()


def test_runtime(tmp_path: Path) -> None:
    refused = try_all(
        tmp_path / "runtime.json",
        json.dumps,
        {"seconds": 3.0, "begun": 2.0, "threads": 2},
        lambda: seconds_spent(tmp_path),
    )
    assert refused >= len(WHOLE) - 1 + 10


def sweep(folder: Path) -> None:
    for number in range(2):
        run = folder / f"seed={number}"
        run.mkdir()
        (run / "job.json").write_text(json.dumps({"overrides": {"seed": str(number)}, "begun": float(number)}))
        (run / "runtime.json").write_text(json.dumps({"seconds": 3.0, "begun": None}))
        (run / "metrics.json").write_text(json.dumps({"test/accuracy": 0.5 + number / 4, "test/images": 20}))
        (run / "failure.txt").write_bytes(b"")
        (run / "failure.txt").unlink()


def test_files_of_a_sweep(tmp_path: Path) -> None:
    sweep(tmp_path)
    plan = {"seed=0": {"seed": "0"}, "seed=1": {"seed": "1"}}
    (tmp_path / "jobs.json").write_text(json.dumps(plan))
    first = tmp_path / "seed=0"

    def read() -> None:
        write_sweep_report(tmp_path, read_sweep(tmp_path), "test/accuracy", tmp_path / "report")

    read()
    job = {"overrides": {"seed": "0"}, "begun": 0.0}
    assert try_all(first / "job.json", json.dumps, job, lambda: read_sweep(tmp_path)) >= len(WHOLE) + 10
    assert try_all(tmp_path / "jobs.json", json.dumps, plan, lambda: read_sweep(tmp_path)) >= len(WHOLE) - 2
    for metrics in (
        {"test/accuracy": 0.5, "test/images": -1},
        {"test/accuracy": 0.5, "test/images": 1e30, "test/<img src=x>": 1e30, "leaks": 1e30},
        {"test/accuracy": None},
    ):
        (first / "metrics.json").write_text(json.dumps(metrics))
        read()
    for accuracy in (5.0, -0.5, 1e308, True, "high"):
        (first / "metrics.json").write_text(json.dumps({"test/accuracy": accuracy, "test/images": 20}))
        with pytest.raises(UserError, match=r"metrics\.json is damaged \(test/accuracy is not"):
            read()
    (first / "metrics.json").unlink()
    assert "<img src=x" not in (tmp_path / "report" / "report.html").read_text()
    (first / "failure.txt").write_bytes(b"\xff\xfe [red] <img src=x>")
    read()
    assert "<img src=x" not in (tmp_path / "report" / "report.html").read_text()
    (tmp_path / "jobs.json").write_text('{"../elsewhere": {"seed": "9"}}')
    with pytest.raises(UserError, match="is no name of a run folder"):
        read_sweep(tmp_path)


def part(folder: Path, kind: str) -> PredictionFile:
    columns = ("path", "prediction", "confidence", "flag", "error")
    return PredictionFile(folder / f"out.{kind}", kind, columns, {"input": "a", "confidence": 0.5})


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_state_of_predictions(kind: str, tmp_path: Path) -> None:
    row = {"path": "a\nb.png", "prediction": "normal", "confidence": 0.5, "flag": "", "error": ""}
    file = part(tmp_path, kind)
    file.begin()
    file.append([row, row | {"path": "c"}], 2)
    whole, state = file.part.read_bytes(), read_json(file.state)
    refused = try_all(file.state, json.dumps, state, file.begin)
    assert refused == len(ways(state)) + len(WHOLE)  # each value of the state is needed
    assert file.part.read_bytes() == whole
    file.state.write_text(json.dumps(state))
    with file.part.open("ab") as more:
        more.write(b"half of a row")
    assert file.begin() == 2
    assert file.part.read_bytes() == whole
    file.part.write_bytes(b"x" * len(whole))
    with pytest.raises(UserError, match="is damaged"):
        file.begin()


def test_predictions(tmp_path: Path) -> None:
    header, row = ["path", "patient", "label", "p_a", "p_b", "prediction"], ["1.png", "p", "a", "0.75", "0.25", "a"]
    file, other = tmp_path / "predictions.csv", ["2.png", "q", "b", "0.5", "0.5", "a"]

    def text(rows: list[list[str]]) -> str:
        buffer = io.StringIO()
        csv.writer(buffer).writerows(rows)
        return buffer.getvalue()

    for number in range(2):
        for column in range(len(header)):
            for wrong in ("", "nan", "inf", "-1", "1e400", "9" * 400, "[red]", "x" * 10_000, "\0", '"', "a,b"):
                rows = [list(header), list(row), list(other)]
                rows[number][column] = wrong
                file.write_text(text(rows))
                in_one_line(lambda: read_predictions(file))
        file.write_text(text([[*header[:number], *header[number + 1 :]], row, other]))
        with pytest.raises(UserError):
            read_predictions(file)
    for content in WHOLE.values():
        file.write_bytes(content)
        assert in_one_line(lambda: read_predictions(file))
    file.unlink()
    os.mkfifo(file)
    assert in_one_line(lambda: read_predictions(file))


def test_splits(tmp_path: Path) -> None:
    folder, header = RunFolder(tmp_path), "path,label,patient_id,source,split,pixels"
    rows = ["1.png,a,1,s,train,0", "2.png,b,2,s,test,0"]
    for column in range(6):
        for wrong in ("", "x" * 10_000, "\x1b[31m", '"', "\0", "\u202e", "[/x]", "9" * 400):
            fields = rows[0].split(",")
            fields[column] = wrong
            folder.splits.write_text("\n".join([header, ",".join(fields), rows[1]]))
            if not in_one_line(lambda: config.read_splits(folder)):
                table = config.read_splits(folder)
                assert not table.iloc[:, :5].map(CONTROL.search).any(axis=None)
        names = header.split(",")
        folder.splits.write_text("\n".join([",".join([*names[:column], "other", *names[column + 1 :]]), *rows]))
        if names[column] != "pixels":
            with pytest.raises(UserError, match="has no column"):
                config.read_splits(folder)
    for content in WHOLE.values():
        folder.splits.write_bytes(content)
        with pytest.raises(UserError):
            config.read_splits(folder)
    folder.splits.write_text("\n".join([header, *(f"{n}.png,c{n},1,s,train,0" for n in range(1001))]))
    with pytest.raises(UserError, match="more than 1000 classes"):
        config.read_splits(folder)


def test_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = models.resnet18()
    monkeypatch.setattr("covid_xray.networks.resnet.models.get_model", lambda name, weights: small)
    phase = {"image_size": 32, "batch_size": 2, "epochs": 1, "trains": ["head"], "max_lr": [1e-3, 1e-2]}
    warp = {"_target_": "covid_xray.data.augmentation.ResizeWarp", "warp": 0.1, "zoom": 1.1, "flip_p": 0.5}
    content = {
        "schedule": {
            "_target_": "covid_xray.schedule.Schedule",
            "phases": {"only": phase},
            "lr_scale": 1.0,
            "beta1": [0.9, 0.8, 0.9],
        },
        "augment": {"_target_": "covid_xray.data.augmentation.Augmentation", "transforms": [warp]},
        "data": {
            "_target_": "covid_xray.data.phantom.find_phantoms",
            **{"root": "nowhere", "patients": 6, "images_per_patient": 1, "size": 32, "phantom_seed": 0},
        },
        "model": {
            "_target_": "covid_xray.networks.resnet.TransferResNet",
            **{"architecture": "resnet18", "hidden": 8, "dropout": [0.1, 0.2]},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    for group in content:

        def read(group: str = group) -> None:
            settings = config.read_config(tmp_path / "config.yaml")
            if group == "augment":
                load.tta_augmentation(settings)
            config.build(settings, group, **({"num_classes": 3} if group == "model" else {}))

        def dump(part: Any, group: str = group) -> str:
            return yaml.safe_dump(content | {group: part})

        assert try_all(tmp_path / "config.yaml", dump, content[group], read) > 40


@pytest.fixture(scope="module")
def tested(tiny_run: Path, workplace: Path) -> EvaluationResult:
    """A copy of the run, calibrated and evaluated."""
    with contextlib.chdir(workplace):
        run = load.load_run(copy_run(tiny_run, "damaged-settings"), accelerator="cpu")
        return evaluate_run(run, resamples=5, saliency=False)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_setting_of_a_run(
    every: bool, tested: EvaluationResult, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    folder, pictures = tested.run.folder, draw(tested)
    content, small = tested.run.config, models.resnet18()
    # What a wrong setting does not change is read once.
    for module, name in ((load, "_read_weights"), (load, "file_hash")):
        monkeypatch.setattr(module, name, functools.cache(getattr(module, name)))
    monkeypatch.setattr("covid_xray.networks.resnet.models.get_model", lambda name, weights: small)
    image = tested.table["file"].iloc[0]

    def use() -> None:
        """Each step of `evaluate`, `predict`, `export`, `compare` and `train` that reads the settings of a run."""
        with resource_errors(workplace):  # as the command line
            use_settings()

    def use_settings() -> None:
        run = load.load_run(folder.path, accelerator="cpu")
        run.predict([image])
        images.own_images(run, images.own_records(run), "test")
        load.tta_augmentation(run.config)
        result = replace(tested, run=run)
        json.dumps(numbers(result), allow_nan=False)
        assert model_card(result)
        write_report(workplace / "damaged-report", build_report(result, "test", pictures), {})
        assert yaml.safe_dump(bundle_config(run))
        assert bundle_card(run, None, {})
        pooling.differing_settings({"a": content, "b": run.config})
        in_one_line(lambda: pooling.fold_groups({"a": content, "b": run.config}))
        config.checkpoint_of(str(folder.path))
        in_one_line(lambda: RunFolder(folder.path).begin(content))

    (workplace / "damaged-report").mkdir(exist_ok=True)
    folder.config.write_text(yaml.safe_dump(content))
    use()

    def check(copy: Any) -> bool:
        folder.config.write_text(yaml.safe_dump(copy))
        return in_one_line(use)

    assert count_refused(content, check, every)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_value_of_an_evaluation_in_a_card(every: bool, tested: EvaluationResult) -> None:
    found = {key: numbers(tested)[key] for key in ("data", "leaks", "written_predictions", "variants")}
    assert bundle_card(tested.run, None, found)
    assert not count_refused(found, lambda copy: in_one_line(lambda: bundle_card(tested.run, None, copy)), every)


def test_manifest(tmp_path: Path) -> None:
    header, row = ["path", "label", "patient_id", "source", "split", "age"], ["1.png", "a", "1", "s", "train", "7"]
    other, file = ["2.png", "b", "2", "s", "test", "8"], tmp_path / "manifest.csv"
    wrong = (
        "",
        "nan",
        "-1",
        "9" * 400,
        "[red]",
        "x" * 10_000,
        "\0",
        '"',
        "a,b",
        "\x1b[31m",
        "../../x",
        "=1+1",
        "\u202e",
    )

    def read() -> None:
        table = read_manifest(file, images=False)
        assert not table[["path", "label", "patient_id", "source"]].map(CONTROL.search).any(axis=None)
        assign_splits(table.assign(label=["a", "b"][: len(table)]), by="image")

    for number in range(2):
        for column in range(len(header)):
            for value in wrong:
                rows = [list(header), list(row), list(other)]
                rows[number][column] = value
                text = io.StringIO()
                csv.writer(text).writerows(rows)
                file.write_text(text.getvalue())
                in_one_line(read)
    for content in WHOLE.values():
        file.write_bytes(content)
        assert in_one_line(read)


def test_calibration(command: InProcess, tiny_run: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_run(tiny_run, "damaged-calibration")
    code, out, err = command(f"predict run={run} input=data output=damage.csv overwrite=true")
    assert code == 0, out + err
    content = read_json(run / "calibration.json")
    loaded = load.load_run(run, accelerator="cpu")
    monkeypatch.chdir(workplace)

    def fail(*arguments: object) -> None:
        raise UserError("no images here")

    with monkeypatch.context() as context:
        context.setattr(calibration, "own_records", fail)
        refused = try_all(run / "calibration.json", json.dumps, content, lambda: calibration.calibrate(loaded))
        assert refused > 100
    (run / "calibration.json").write_text("[")
    again, _ = calibration.calibrate(loaded)  # the images are here: made again
    assert again is not None
    assert read_json(run / "calibration.json") == content


def test_evaluation_that_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    found = {
        "provenance": {"checkpoint": "best.ckpt, SHA-256 0"},
        "shortcuts": {"verdict": "none", "cheats": False},
        **{"leaks": ["a"], "written_predictions": "calibrated", "own_test_images": True, "request": {"seed": 0}},
        "source_only": {"score": {"correct": 3, "test_images": 4}},
    }
    nothing = pd.DataFrame()
    monkeypatch.setattr(pooling, "check_run", lambda *arguments: (folder, {}, "best", nothing))
    monkeypatch.setattr(pooling, "file_hash", lambda file: "0")
    metrics = folder.evaluation("test") / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps(found))
    current: list[bool] = []

    def read() -> None:
        current.append(pooling.is_current(tmp_path, "test", {"seed": 0}))

    read()
    assert current == [True]
    current.clear()
    # Any damage has the evaluation made again, except 16 copies: another text as the verdict or the leak (6), which is
    # only shown; no leak; true in place of true; an answer of the shortcut test that is true or none (4; NaN is none);
    # and no score of the source alone (4).
    assert try_all(metrics, json.dumps, found, read) == 0
    assert sum(current) == 16
