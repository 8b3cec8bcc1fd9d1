"""The folders that reports are written into."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_result import CLASSES, EVIL, make_predictions, make_result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from covid_xray.errors import UserError
from covid_xray.metrics.comparison import compare
from covid_xray.metrics.estimates import estimate
from covid_xray.metrics.groups import group_metrics
from covid_xray.metrics.predictions import read_predictions
from covid_xray.reporting.comparison_report import write_comparison
from covid_xray.reporting.evaluation_folder import write_evaluation, write_pooled_evaluation
from covid_xray.reporting.evaluation_report import key_metrics
from covid_xray.reporting.sweep_report import write_sweep_report
from covid_xray.reporting.sweep_tables import results_csv, summary_table
from covid_xray.runs.external import ExternalTest, drops, recalibrated
from covid_xray.runs.pooling import Member, combine
from covid_xray.runs.sources import source_only
from covid_xray.sweeps.jobs import SweepRun

FIGURES = {"confusion", "by_class", "roc", "precision_recall", "reliability"}
TEXTS = {"predictions.csv", "metrics.csv", "metrics.json", "report.html"}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_evaluation(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    folder = write_evaluation(result, "test")
    assert folder == result.run.folder.evaluation("test")
    drawn = FIGURES | {"shortcuts", "saliency"}
    assert names(folder) == TEXTS | {"model_card.md"} | {f"{name}.png" for name in drawn}
    assert np.array_equal(read_predictions(folder / "predictions.csv").labels, result.predictions.labels)
    content = json.loads((folder / "metrics.json").read_text())
    assert list(content) == [
        *("images", "classes", "data", "own_test_images", "request", "variants", "written_predictions", "temperature"),
        *("operating_points", "shortcuts", "source_only", "groups", "external", "saliency_check", "leaks"),
        *("provenance", "configuration"),
    ]
    assert content["variants"]["calibrated"] == json.loads(json.dumps(result.estimates.to_dict()))
    assert content["written_predictions"] == "calibrated"
    assert content["temperature"]["value"] == 1.5
    assert [point["prevalence"] for point in content["operating_points"]] == [0.05, pytest.approx(8 / 68)]
    assert [point["prevalence_of_test_images"] for point in content["operating_points"]] == [False, True]
    assert (content["shortcuts"]["skill_kept"], content["shortcuts"]["cheats"]) == (0.75, True)
    assert content["shortcuts"]["source_probe"]["all images"]["accuracy"]["low"] == 0.4
    assert content["provenance"]["checkpoint"] == "best.ckpt, SHA-256 abc"
    assert content["configuration"] == result.run.config
    with (folder / "metrics.csv").open() as file:
        rows = {(row["tested"], row["metric"]): row["value"] for row in csv.DictReader(file)}
    assert float(rows["calibrated", "accuracy"]) == pytest.approx(result.metrics["accuracy"].value, rel=1e-5)
    assert ("shortcut test: centre blacked out", "macro_auroc") in rows
    assert key_metrics(result)["skill left without the lungs"] == "75 %"

    # A second evaluation of the same name replaces the first in TensorBoard.
    write_evaluation(result, "test")
    (events,) = result.run.folder.path.glob("events.out.tfevents.*.evaluation-test")
    board = EventAccumulator(str(events), size_guidance={"images": 0})
    board.Reload()
    assert set(board.Tags()["images"]) == {f"evaluation/test/{name}" for name in drawn}
    assert board.Scalars("evaluation/test/accuracy")[0].value == pytest.approx(result.metrics["accuracy"].value)


def test_sources_and_an_external_test_are_in_report_and_numbers(tmp_path: Path) -> None:
    predictions, own = make_predictions(), estimate(make_predictions(1), 20)
    sources = [EVIL if row % 3 else "north" for row in range(len(predictions.labels))]
    labels = [CLASSES[label] for label in predictions.labels]
    tested = pd.DataFrame({"path": predictions.images, "patient_id": predictions.patients})
    tested = tested.assign(label=labels, source=sources)
    alone = source_only(tested.assign(split="train"), tested, predictions, 20, 0)
    logits = np.log(predictions.probabilities)
    few = predictions.select(range(20))
    external = ExternalTest(
        own,
        "",
        drops(own, estimate(predictions, 20)),
        recalibrated(few, logits[:20], predictions, logits, {"normal": 0.3}, 20, 0),
    )
    groups = group_metrics(predictions, sources, 20)
    result = make_result(tmp_path, is_own_data=False, source_only=alone, groups=groups, external=external)
    folder = write_evaluation(result, "other")
    content = json.loads((folder / "metrics.json").read_text())
    assert alone is not None
    assert content["source_only"]["score"]["correct"] == alone.score["correct"]
    assert set(content["groups"]["sources"]) == {"north", EVIL}
    assert content["external"]["drops"]["accuracy"]["value"] == pytest.approx(
        result.metrics["accuracy"].value - own.intervals["accuracy"].value
    )
    assert content["external"]["recalibrated"]["images"] == 20
    assert (folder / "sources.png").is_file()
    report, card = ((folder / name).read_text() for name in ("report.html", "model_card.md"))
    assert "Accuracy, and sensitivity of each class, by source" in report
    assert "not given is the share of the class in the run&#39;s own test images" in report
    for title in ("External test", "Sources", "Published results"):
        assert f"<h2>{title}</h2>" in report
    assert "No published result in this table has exactly the classes covid-19, normal" in report
    assert "<script>" not in report + card
    assert "Worst group: " in card


def test_metrics_json_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = make_result(tmp_path)
    folder = write_evaluation(result, "test")
    (folder / "model_card.md").unlink()
    (folder / "model_card.md").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_evaluation(result, "test")
    assert not (folder / "metrics.json").exists()
    assert not list(folder.glob("*.tmp"))


def make_member(seed: int, fold: int | None = None) -> Member:
    part = make_predictions(seed)
    config = {"split": {"fold": fold or 0, "folds": None if fold is None else 2}}
    images = [f"{fold}/{image}" for image in part.images]
    named = part.build(part.labels, part.probabilities, part.class_names, images, part.patients)
    splits = pd.DataFrame({"path": ["x"], "patient_id": ["nobody"], "split": ["train"]})
    return Member(config, splits, named, True, True, "test", ())


def make_found(members: Mapping[str, Member]) -> dict[str, Any]:
    return {
        name: {
            "shortcuts": {"verdict": f"{EVIL} {name}", "cheats": name == "fold-1"},
            "leaks": ["Leak."],
            "provenance": {"checkpoint": f"best.ckpt of {name}"},
        }
        for name in members
    }


def test_pooled_evaluation(tmp_path: Path) -> None:
    members = {f"fold-{fold}": make_member(fold, fold) for fold in (0, 1)}
    combined = combine(members, 20, 0)
    folder = write_pooled_evaluation(tmp_path, "test", combined, make_found(members))
    assert folder == tmp_path / "evaluation" / "test"
    assert names(folder) == TEXTS | {f"{name}.png" for name in FIGURES}
    content = json.loads((folder / "metrics.json").read_text())
    assert list(content) == [
        *("images", "classes", "combination", "members", "pooled", "folds", "verdicts", "leaks", "provenance"),
    ]
    assert content["folds"]["accuracy"]["mean"] == pytest.approx(combined.table["accuracy"]["mean"])
    assert content["provenance"]["checkpoint, fold-1"] == "best.ckpt of fold-1"
    assert content["leaks"] == {"fold-0": ["Leak."], "fold-1": ["Leak."]}
    page = (folder / "report.html").read_text()
    assert "fold-1: Leak." in page
    assert "1 of 2 runs use information outside the lungs." in page
    assert "136 images of 34 patients, 2 folds pooled" in page
    assert "<script>" not in page
    assert len(list(tmp_path.glob("events.out.tfevents.*.evaluation-test"))) == 1


def test_evaluation_of_an_ensemble(tmp_path: Path) -> None:
    members = {f"seed-{seed}": make_member(seed) for seed in (0, 1, 2)}
    combined = combine(members, 20, 0)
    folder = write_pooled_evaluation(tmp_path, "test", combined, make_found(members))
    content = json.loads((folder / "metrics.json").read_text())
    assert (content["combination"], content["images"]) == ("mean of 3 runs", 68)
    assert content["members"] == {"all": ["seed-0", "seed-1", "seed-2"]}
    mean = np.mean([member.predictions.probabilities for member in members.values()], axis=0)
    assert read_predictions(folder / "predictions.csv").probabilities == pytest.approx(mean)
    page = (folder / "report.html").read_text()
    assert "Ensemble" in page
    assert "averaged for every image" in page


def test_comparison(tmp_path: Path) -> None:
    comparisons = [compare(make_predictions(), make_predictions(i), ("a", f"b{i}"), 20) for i in (0, 1)]
    output = tmp_path / "out"
    write_comparison(output, comparisons, [tmp_path], "test", 20, 0)
    assert names(output) == {
        *("report.html", "comparison.json", "comparison.csv", "comparison-1.png", "comparison-2.png")
    }
    content = json.loads((output / "comparison.json").read_text())
    same, other = content["comparisons"]
    assert (same["first"], same["second"], same["mcnemar"]["p"]) == ("a", "b0", 1)
    assert other["differences"]["accuracy"]["value"] == comparisons[1].differences["accuracy"].value
    assert content["provenance"]["bootstrap"] == "20 resamples of patients, seed 0"
    with (output / "comparison.csv").open() as file:
        rows = {(row["second"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["b0", "accuracy"]["difference"]) == 0
    assert float(rows["b1", "ece"]["value_second"]) == comparisons[1].b["ece"]
    write_comparison(output, comparisons[:1], [tmp_path], "test", 20, 0)
    assert (output / "comparison.png").is_file()


def test_sweep(tmp_path: Path) -> None:
    runs = []
    for number, seed in enumerate("012"):
        metrics = {"val/loss": 0.5 + number, "test/accuracy": 0.5, "test/images": 4.0} if number < 2 else {}
        overrides = {"model": EVIL, "seed": seed}
        status = ("finished", "finished", "failed")[number]
        error = "<b> broke" if status == "failed" else None
        runs.append(SweepRun(tmp_path / "sweep" / f"run{number}", overrides, status, metrics, 60.0, error))
    output = tmp_path / "report"
    output.mkdir()
    (output / "leak.png").write_bytes(b"of an earlier report")
    settings = write_sweep_report(tmp_path / "sweep", runs, "val/loss", output)
    assert names(output) == {"report.html", "results.csv", "ranking.png"}
    page = (output / "report.html").read_text()
    assert f"<h1>Sweep: {tmp_path.name}</h1>" in page
    assert "1 of 3 runs are not finished" in page
    assert "&lt;b&gt; broke" in page
    assert "<script>" not in page
    table = summary_table(settings, "val/loss")
    assert table.rows == (("as configured", "2 of 3", "1", "0.7071", "0.5 to 1.5"),)
    rows = list(csv.DictReader(io.StringIO(results_csv(runs, "test/accuracy"))))
    assert [row["test/accuracy"] for row in rows] == ["0.5", "0.5", ""]
    assert (rows[0]["test/accuracy low"], rows[0]["val/loss"], rows[2]["error"]) == ("0.150039", "0.5", "<b> broke")
    write_sweep_report(tmp_path / "sweep", runs, "test/accuracy", output)
    assert "50.0 % (15.0 to 85.0 %)" in (output / "report.html").read_text()
