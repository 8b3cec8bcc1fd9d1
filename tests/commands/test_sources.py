"""Each source as the test set, classes of one source, an audit without images, an external test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Command
from tiny_run import InProcess, command, mistake, numbers, tiny_run

from covid_xray.data.phantom import draw_phantoms
from covid_xray.metrics.intervals import clustered_exact_interval
from covid_xray.metrics.predictions import read_predictions
from covid_xray.metrics.scores import score
from covid_xray.metrics.thresholds import predictive_values

__all__ = ["command", "tiny_run"]
REAL = Path(__file__).parents[3] / "shared/data/chest-xrays"
PHASES = [f"~schedule.phases.{name}" for name in ("frozen_large", "unfrozen_small", "unfrozen_large")]


@pytest.fixture(scope="module")
def joined(workplace: Path) -> Path:
    """Manifest of two collections of phantoms, north and south, and of a third with one class only."""
    parts = []
    for number, source in enumerate(("north", "south")):
        table = draw_phantoms(str(workplace / source), patients=36, images_per_patient=2, size=48, phantom_seed=number)
        parts.append(table.assign(source=source, patient_id=f"{source}-" + table["patient_id"]))
    table = pd.concat(parts)
    east = (table["source"] == "south") & (table["label"] == "normal")
    first = table["patient_id"][east].iloc[0]
    table.loc[table["patient_id"] == first, "source"] = "east"
    file = workplace / "joined.csv"
    table.assign(path=table["file"])[["path", "label", "patient_id", "source"]].to_csv(file, index=False)
    return file


@pytest.mark.slow
def test_each_source_is_the_test_set_once(
    covid_xray: Command, command: InProcess, joined: Path, workplace: Path
) -> None:
    data = ("experiment=tiny", "data=manifest", f"data.manifest={joined}", "datamodule.num_workers=0")
    found = covid_xray("train", "-m", "sweep=sources", *data, *PHASES, "hydra.sweep.dir=sources")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Warning: east is not tested on: all its images are normal." in found.stdout
    sweep = workplace / "sources"
    runs = sorted(file.parent for file in sweep.glob("*/metrics.json"))
    assert len(runs) == 2
    for run in runs:
        splits = pd.read_csv(run / "splits.csv")
        source = "north" if "north" in run.name else "south"
        assert set(splits["source"][splits["split"] == "test"]) == {source}
        assert set(splits["split"][splits["source"] == source]) == {"test"}
        assert splits.groupby("patient_id")["split"].nunique().max() == 1
    code, out, err = command(f"evaluate run={sweep} resamples=20 saliency=false")
    assert code == 0, err
    assert "2 folds" in out
    pooled: Any = numbers(sweep / "evaluation/test")
    assert pooled["images"] == (pd.read_csv(joined)["source"] != "east").sum()
    each: Any = numbers(runs[0] / "evaluation/test")
    assert "split by source (north)" in each["data"]
    assert list(each["groups"]["sources"]) == ["north"]
    assert each["source_only"]["score"]["new_values"] == each["images"]


def test_sources_that_cannot_be_tested(command: InProcess, joined: Path, tmp_path: Path) -> None:
    line = f"train -m sweep=sources experiment=tiny data=manifest hydra.sweep.dir={tmp_path} data.manifest="
    table = pd.read_csv(joined)
    label = table["label"].mask(table["label"] != "covid-19", "normal")
    confounded = table.assign(label=label, source=label.map({"covid-19": "north", "normal": "south"}))
    confounded.to_csv(tmp_path / "confounded.csv", index=False)
    mistake(command(f"{line}{tmp_path}/confounded.csv"), "no method can separate this class from its source")
    table.drop(columns="source").to_csv(tmp_path / "none.csv", index=False)
    mistake(command(f"{line}{tmp_path}/none.csv"), "the data names no sources: add a column source")
    one = f"train experiment=tiny data=manifest data.manifest={joined} split=source run_dir={tmp_path}/run"
    mistake(command(one), "set split.test_source=...; the sources are east, north, south")
    mistake(command(f"{one} split.test_source=east"), "east cannot be the test set: all its images are normal")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real X-rays in {REAL}")
def test_real_xrays_are_refused_with_the_images_that_would_help(command: InProcess, tmp_path: Path) -> None:
    data = f"experiment=tiny data=manifest data.manifest={REAL}/manifest.csv"
    found = command(f"train -m sweep=sources {data} hydra.sweep.dir={tmp_path}")
    mistake(
        found, "Images that could: covid-19 images from nih-chestxray8, or normal or pneumonia images from covid-chest"
    )
    assert "no other source has normal or pneumonia images" in found[2]


def test_audit_of_lists_without_images(command: InProcess, workplace: Path) -> None:
    lists = workplace / "lists"
    lists.mkdir(exist_ok=True)
    train = [f"a{n} a{n}.png positive ricord" for n in range(30)] + [f"b{n} b{n}.png negative rsna" for n in range(30)]
    test = [f"c{n} c{n}.png positive ricord" for n in range(8)] + [f"d{n} d{n}.png negative rsna" for n in range(8)]
    (lists / "train.txt").write_text("\n".join(train))
    (lists / "test.txt").write_text("\n".join(test))
    code, out, err = command(f"prepare dataset=covidx source={lists} output=listed lists_only=true")
    assert code == 0, err
    line = out.splitlines()[-1].removeprefix("Audit:").strip().removeprefix("covid-xray ")
    assert line == "audit data=manifest data.manifest=listed/manifest.csv data.images=false output=outputs/audit"
    code, out, err = command(line)
    assert code == 0, err
    assert "16 of 16" in out
    assert "images were not read" in out
    report = json.loads((workplace / "outputs/audit/audit.json").read_text())
    assert report["source_only"][0]["factor"] == "source"
    assert report["source_only"][0]["correct"] == 16
    assert report["images_read"] is False
    one = "train experiment=tiny data=manifest data.manifest=listed/manifest.csv data.images=false run_dir=listed-run"
    mistake(command(one), "data.images=false is for audit only")


@pytest.fixture(scope="module")
def other(workplace: Path) -> Path:
    """Another data set: phantoms of other seeds, more of them covid-19, from two sources."""
    table = draw_phantoms(str(workplace / "abroad"), patients=48, images_per_patient=2, size=64, phantom_seed=7)
    patient = pd.factorize(table["patient_id"])[0]
    table = table.assign(path=table["file"], source=np.where(patient % 2 == 0, "east", "west"))
    table = table[(table["label"] == "covid-19") | (patient % 3 != 0)]
    file = workplace / "abroad.csv"
    table[["path", "label", "patient_id", "source"]].to_csv(file, index=False)
    return file


def test_external_test_reports_the_drop_and_recalibrates(command: InProcess, tiny_run: Path, other: Path) -> None:
    settings = "resamples=40 saliency=false"
    code, out, err = command(f"evaluate run={tiny_run} {settings} name=own")
    assert code == 0, err
    external = f"evaluate run={tiny_run} data=manifest data.manifest={other} {settings}"
    code, out, err = command(f"{external} recalibrate=12")
    assert code == 0, err
    assert "accuracy minus own test" in out
    folder = tiny_run / "evaluation/external-manifest"
    found: Any = numbers(folder)
    own: Any = numbers(tiny_run / "evaluation/own")
    here, there = (each["variants"]["calibrated"]["metrics"] for each in (found, own))
    assert found["external"]["own_test"]["metrics"]["accuracy"] == there["accuracy"]
    for name in ("accuracy", "macro_auroc", "sensitivity/covid-19", "ece"):
        drop = found["external"]["drops"][name]
        assert drop["value"] == pytest.approx(here[name]["value"] - there[name]["value"], abs=1e-12)
        assert drop["low"] < drop["value"] < drop["high"]
    # The images for recalibration, whole patients, are not tested.
    tested, everything = read_predictions(folder / "predictions.csv"), pd.read_csv(other)
    recalibrated = found["external"]["recalibrated"]
    assert 12 <= recalibrated["images"] <= 13
    assert len(tested.labels) + recalibrated["images"] == len(everything)
    left_out = everything[~everything["path"].isin(tested.images)]
    assert not set(left_out["patient_id"]) & set(tested.patients)
    assert left_out["patient_id"].nunique() == recalibrated["patients"]
    assert sum(recalibrated["metrics"]["cases"].values()) == len(tested.labels)
    assert abs(sum(recalibrated["shifts"])) < 1e-9
    # PPV and NPV are for the share of each class in the run's own test images.
    splits = pd.read_csv(tiny_run / "splits.csv")
    shares = splits["label"][splits["split"] == "test"].value_counts(normalize=True)
    for point in found["operating_points"]:
        assert point["prevalence"] == pytest.approx(shares[point["class"]])
        sensitivity, specificity = (point[side]["value"] for side in ("sensitivity", "specificity"))
        values = predictive_values(sensitivity, specificity, point["prevalence"])
        for name, value in zip(("ppv", "npv"), values, strict=True):
            assert point[name]["value"] == (None if np.isnan(value) else pytest.approx(value))
    html = (folder / "report.html").read_text()
    assert "<h2>External test</h2>" in html
    assert "<h2>Sources</h2>" in html
    mistake(command(f"{external} recalibrate=60"), "at least half must be left to test on")
    mistake(command(f"{external} recalibrate=1"), "recalibrate must be a whole number of at least 2")
    mistake(command(f"evaluate run={tiny_run} recalibrate=9"), "recalibrate needs another data set")


def test_groups_of_an_evaluation_are_those_of_its_predictions(command: InProcess, tiny_run: Path, other: Path) -> None:
    line = f"evaluate run={tiny_run} data=manifest data.manifest={other} resamples=20 saliency=false name=groups"
    code, out, err = command(line)
    assert code == 0, err
    found: Any = numbers(tiny_run / "evaluation/groups")
    predictions = read_predictions(tiny_run / "evaluation/groups/predictions.csv")
    sources = pd.read_csv(other).set_index("path")["source"].reindex(predictions.images).to_numpy()
    assert [group["sensitivity"]["value"] for group in found["groups"]["groups"]] == sorted(
        group["sensitivity"]["value"] for group in found["groups"]["groups"]
    )
    correct, patients = predictions.predicted == predictions.labels, predictions.patient_index
    for group in found["groups"]["groups"]:
        inside = (sources == group["source"]) & (predictions.labels == predictions.class_names.index(group["class"]))
        interval = clustered_exact_interval(correct[inside], patients[inside])
        assert (group["images"], group["sensitivity"]["low"]) == (inside.sum(), pytest.approx(interval.low))
    for source, metrics in found["groups"]["sources"].items():
        part = score(predictions.select(np.flatnonzero(sources == source))).values
        assert metrics["metrics"]["macro_auroc"]["value"] == pytest.approx(part["macro_auroc"])
    assert "Worst group: " in out
    assert found["external"]["recalibrated"] is None
