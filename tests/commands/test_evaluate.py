"""The real command on one tiny run: what it writes, what it refuses."""

import csv
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import InProcess, command, copy_run, mistake, numbers, phantom_manifest, tiny_run

from covid_xray.data.images.read import write_png
from covid_xray.data.manifest import read_manifest
from covid_xray.errors import UserError
from covid_xray.metrics.predictions import read_predictions
from covid_xray.runs.images import external_images, is_own
from covid_xray.runs.inference import corner_view
from covid_xray.runs.load import load_run
from covid_xray.runs.pooling import is_current

__all__ = ["command", "tiny_run"]
CLASSES = ("covid-19", "normal", "pneumonia")
FILES = {"predictions.csv", "metrics.csv", "metrics.json", "report.html", "model_card.md"}
FIGURES = {"confusion", "by_class", "roc", "precision_recall", "reliability", "shortcuts", "saliency"}


@pytest.fixture
def evaluated(command: InProcess, tiny_run: Path) -> Path:
    folder = tiny_run / "evaluation" / "test"
    # Another test may have evaluated it in another way.
    if not (folder / "saliency.png").is_file() or "TTA, plain mean" not in (folder / "metrics.json").read_text():
        code, out, err = command(f"evaluate run={tiny_run} tta=true resamples=50 prevalence={{covid-19:0.1}}")
        assert code == 0, err
        assert "not for diagnosis" in out
        assert "Verdict: " in out
    return folder


def test_files_and_predictions(evaluated: Path, tiny_run: Path) -> None:
    assert {file.name for file in evaluated.iterdir()} == FILES | {f"{name}.png" for name in FIGURES}
    table = pd.read_csv(evaluated / "predictions.csv")
    splits = pd.read_csv(tiny_run / "splits.csv")
    assert sorted(table["path"]) == sorted(splits["path"][splits["split"] == "test"])
    assert list(table.columns) == ["path", "patient", "label", *(f"p_{name}" for name in CLASSES), "prediction"]
    # The run's own test, by Lightning, saw the same images and weights.
    trained = json.loads((tiny_run / "metrics.json").read_text())
    assert accuracy_score(table["label"], table["prediction"]) == pytest.approx(trained["test/accuracy"])
    figures = pd.read_csv(evaluated / "metrics.csv").set_index(["tested", "metric"])["value"]
    assert figures["as trained", "accuracy"] == pytest.approx(trained["test/accuracy"], rel=1e-5)
    shortcuts: Any = numbers(evaluated)["shortcuts"]
    for name, condition in shortcuts["conditions"].items():
        found = condition["metrics"]["macro_auroc"]["value"]
        assert figures[f"shortcut test: {name}", "macro_auroc"] == pytest.approx(found, rel=1e-5)


def test_numbers_agree_with_scikit_learn(evaluated: Path) -> None:
    found: Any = numbers(evaluated)
    predictions = read_predictions(evaluated / "predictions.csv")
    areas = [roc_auc_score(predictions.labels == k, predictions.probabilities[:, k]) for k in range(3)]
    values = found["variants"]["calibrated"]["metrics"]
    assert values["macro_auroc"]["value"] == pytest.approx(np.mean(areas))
    tta = {"TTA, fastai's rule", "TTA, plain mean"}
    assert set(found["variants"]) == {"as trained", "calibrated", "equal class shares"} | tta
    assert set(found["shortcuts"]["conditions"]) == {
        "whole image",
        "centre blacked out",
        "centre only",
        "border removed",
    }
    assert found["shortcuts"]["rule"].startswith("Rule:")
    shares = np.bincount(predictions.labels) / len(predictions.labels)
    points = [(point["prevalence"], point["prevalence_of_test_images"]) for point in found["operating_points"]]
    assert points == [(0.1, False)] * 2 + [(pytest.approx(shares[k]), True) for k in (1, 1, 2, 2)]
    for key in ("commit of this software", "checkpoint", "splits.csv (SHA-256)", "hardware", "libraries", "leak mark"):
        assert found["provenance"][key], key


def test_equal_class_shares_divide_by_the_shares_of_the_training_images(evaluated: Path, tiny_run: Path) -> None:
    splits = pd.read_csv(tiny_run / "splits.csv")
    training = splits["label"][splits["split"] == "train"].value_counts()
    predictions = read_predictions(evaluated / "predictions.csv")
    weighted = predictions.probabilities / training[list(CLASSES)].to_numpy()
    expected = balanced_accuracy_score(predictions.labels, weighted.argmax(axis=1))
    variants: Any = numbers(evaluated)["variants"]
    assert variants["equal class shares"]["metrics"]["balanced_accuracy"]["value"] == pytest.approx(expected)
    assert "Equal class shares: " in (evaluated / "report.html").read_text()


def test_predict_with_other_class_shares(command: InProcess, evaluated: Path, tiny_run: Path, workplace: Path) -> None:
    line = f"predict run={tiny_run} input=data/phantoms output=shares"
    assert command(f"{line}-as-trained.csv")[0] == 0
    assert command(f"{line}-equal.csv shares=equal")[0] == 0
    given = "shares={covid-19:0.02,normal:0.9,pneumonia:0.08}"
    assert command(f"{line}-given.csv {given}")[0] == 0
    before, equal, other = (
        pd.read_csv(workplace / f"shares-{name}.csv")[[f"p_{name}" for name in CLASSES]].to_numpy()
        for name in ("as-trained", "equal", "given")
    )
    splits = pd.read_csv(tiny_run / "splits.csv")
    training = splits["label"][splits["split"] == "train"].value_counts(normalize=True)[list(CLASSES)].to_numpy()
    weighted = before / training
    np.testing.assert_allclose(equal, weighted / weighted.sum(axis=1, keepdims=True), atol=3e-6)
    weighted = weighted * [0.02, 0.9, 0.08]
    np.testing.assert_allclose(other, weighted / weighted.sum(axis=1, keepdims=True), atol=3e-6)
    files = pd.read_csv(workplace / "shares-given.csv")["path"][:8].tolist()
    shares = {"covid-19": 0.02, "normal": 0.9, "pneumonia": 0.08}
    by_python = load_run(tiny_run).predict([workplace / file for file in files], shares=shares)
    found = by_python[[f"p_{name}" for name in CLASSES]].to_numpy(float)
    np.testing.assert_allclose(found, other[:8], atol=2e-3)  # bfloat16: another batch size
    for wrong, sentence in (
        ("shares=even", "shares must be equal, or {class: share} with all of covid-19, normal, pneumonia, not 'even'"),
        ("shares={normal:1}", "shares must be equal, or .*, not {'normal': 1}"),
        (given.replace("0.9", "-1"), "shares.normal must be above 0 and below 1, not -1"),
    ):
        code, _, err = command(f"{line}-wrong.csv {wrong}")
        assert code == 2
        assert re.search(sentence.replace("{", "\\{").replace("}", "\\}"), err), err


def test_temperature_is_stored_with_the_run_and_fits_validation(evaluated: Path, tiny_run: Path) -> None:
    stored = json.loads((tiny_run / "calibration.json").read_text())["best"]
    splits = pd.read_csv(tiny_run / "splits.csv")
    assert stored["images"] == (splits["split"] == "val").sum()
    assert stored["temperature"]["nll_after"] <= stored["temperature"]["nll_before"]
    assert len(stored["points"]) == 6


def test_report_and_card(evaluated: Path) -> None:
    html = (evaluated / "report.html").read_text()
    for title in ("Discrimination", "Calibration", "Thresholds", "Saliency maps", "Shortcut test", "Provenance"):
        assert f"<h2>{title}</h2>" in html
    for outside in ("http://", "https://", "<script", ' src="/'):
        assert outside not in html
    card = (evaluated / "model_card.md").read_text()
    assert "TO BE FILLED IN BY THE AUTHORS" in card
    assert "not for diagnosis" in card


def test_tensorboard_has_scalars_and_figures(evaluated: Path, tiny_run: Path) -> None:
    events = list(tiny_run.glob("events.out.tfevents.*.evaluation-test"))
    assert len(events) == 1
    board = EventAccumulator(str(events[0]), size_guidance={"images": 0})
    board.Reload()
    assert "evaluation/test/accuracy" in board.Tags()["scalars"]
    assert set(board.Tags()["images"]) == {f"evaluation/test/{name}" for name in FIGURES}


def test_external_images_with_other_names_and_a_missing_class(
    command: InProcess, evaluated: Path, tiny_run: Path, workplace: Path
) -> None:
    phantoms = pd.read_csv(phantom_manifest(workplace))
    folder = phantom_manifest(workplace).parent
    kept = phantoms[phantoms["label"] != "pneumonia"].head(12)
    kept = kept.assign(label=kept["label"].map({"covid-19": "Covid 19", "normal": "healthy"}))
    kept = kept.assign(path=[str(folder / path) for path in kept["path"]])
    kept[["path", "label", "patient_id"]].to_csv(workplace / "other.csv", index=False)
    line = f"evaluate run={tiny_run} data=manifest data.manifest=other.csv resamples=20 saliency=false name=other"
    mistake(command(line), "no class 'healthy'")
    code, _, err = command(f"{line} class_map={{healthy:normal}}")
    assert code == 0, err
    found: Any = numbers(tiny_run / "evaluation" / "other")
    assert found["variants"]["calibrated"]["cases"]["pneumonia"] == 0
    assert "none of class pneumonia" in found["data"]
    assert any("no test case at all" in words for words in found["variants"]["calibrated"]["warnings"])
    assert any("with the same pixels" in words for words in found["leaks"]), "phantoms of the run's training split"


def test_folds_are_pooled(command: InProcess, evaluated: Path, tiny_run: Path, workplace: Path) -> None:
    sweep = workplace / "sweep"
    shutil.rmtree(sweep, ignore_errors=True)
    sweep.mkdir()
    for fold in (0, 1):
        run = copy_run(tiny_run, f"fold-{fold}")
        text = (run / "config.yaml").read_text().replace("folds: null", "folds: 2")
        (run / "config.yaml").write_text(text.replace("fold: 0", f"fold: {fold}"))
        if fold == 1:
            table = pd.read_csv(run / "splits.csv", dtype=str)
            table["split"] = table["split"].replace({"test": "val", "val": "test"})
            table.to_csv(run / "splits.csv", index=False)
        shutil.move(run, sweep / f"fold-{fold}")
    code, _, err = command(f"evaluate run={sweep} resamples=20 saliency=false")
    assert code == 0, err
    found: Any = numbers(sweep / "evaluation" / "test")
    parts: Any = [numbers(sweep / f"fold-{fold}" / "evaluation" / "test") for fold in (0, 1)]
    accuracies = [part["variants"]["calibrated"]["metrics"]["accuracy"]["value"] for part in parts]
    assert found["folds"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert found["folds"]["accuracy"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    total = np.sum([part["variants"]["calibrated"]["confusion"] for part in parts], axis=0)
    assert found["pooled"]["confusion"] == total.tolist()
    mistake(command(f"compare runs=[{sweep}/fold-0,{sweep}/fold-1] resamples=20"), "only in the first")
    (sweep / "fold-1" / "metrics.json").unlink()
    mistake(command(f"evaluate run={sweep}"), "one finished run only")


def test_compare_a_run_with_itself_under_another_name(
    command: InProcess, evaluated: Path, tiny_run: Path, workplace: Path
) -> None:
    twin = workplace / "twin" / "evaluation" / "test"
    twin.mkdir(parents=True, exist_ok=True)
    shutil.copy(evaluated / "predictions.csv", twin)
    code, _, err = command(f"compare runs=[{tiny_run},{workplace}/twin] output=compared resamples=50")
    assert code == 0, err
    found = json.loads((workplace / "compared" / "comparison.json").read_text())["comparisons"][0]
    assert found["mcnemar"]["p"] == 1
    assert found["differences"]["accuracy"]["value"] == 0
    assert (workplace / "compared" / "comparison.png").is_file()
    with (workplace / "compared" / "comparison.csv").open() as file:
        assert {"accuracy", "macro_auroc"} <= {row["metric"] for row in csv.DictReader(file)}
    mistake(command(f"compare runs=[{tiny_run},{tiny_run}]"), "twice")
    mistake(command(f"compare runs=[{tiny_run},{workplace}]"), "has no evaluation 'test'")


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_no_checkpoint_is_unpickled_as_code(command: InProcess, tiny_run: Path, tmp_path: Path) -> None:
    run = copy_run(tiny_run, "evil", checkpoints=False)
    mistake(command(f"evaluate run={run}"), "does not exist")
    proof, file = tmp_path / "proof", run / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": Evil(proof)}, file)
    mistake(command(f"evaluate run={run}"), "cannot be read as tensors")
    file.write_bytes(pickle.dumps(Evil(proof)))
    mistake(command(f"evaluate run={run}"), "cannot be read as tensors")
    assert not proof.exists()


def test_damaged_and_foreign_checkpoints(command: InProcess, tiny_run: Path) -> None:
    run = copy_run(tiny_run, "damaged", checkpoints=False)
    file = run / "checkpoints" / "best.ckpt"
    file.write_bytes((tiny_run / "checkpoints" / "best.ckpt").read_bytes()[:5000])
    mistake(command(f"evaluate run={run}"), "cannot be read as tensors")
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, file)
    mistake(command(f"evaluate run={run}"), "does not fit")
    file.write_bytes((tiny_run / "checkpoints" / "best.ckpt").read_bytes())
    table = pd.read_csv(run / "splits.csv", dtype=str)
    table[table["label"] != "normal"].to_csv(run / "splits.csv", index=False)
    mistake(command(f"evaluate run={run}"), "splits.csv does not fit")
    table[table["split"] != "test"].to_csv(run / "splits.csv", index=False)
    mistake(command(f"evaluate run={run}"), "has no test images")


def test_a_configuration_may_not_name_foreign_code(command: InProcess, tiny_run: Path) -> None:
    run = copy_run(tiny_run, "foreign")
    config = (run / "config.yaml").read_text()
    for target in ("os.system", "covid_xray.networks.weights.torch.load"):
        (run / "config.yaml").write_text(config.replace("covid_xray.networks.resnet.TransferResNet", target))
        mistake(command(f"evaluate run={run}"), "code outside this project")


def test_corner_views_show_the_corners() -> None:
    images = torch.zeros(1, 1, 54, 54, dtype=torch.uint8)
    images[..., :12, :12] = 255
    means = [float(corner_view(images, view).float().mean()) for view in range(8)]
    assert means[0] == pytest.approx(means[4])
    assert means[0] > 1.5 * float(images.float().mean())
    assert means[1] == means[2] == means[3] == 0
    assert torch.equal(corner_view(images, 4), corner_view(images, 0).flip(-1))


def test_class_names_are_matched_in_any_script() -> None:
    records = pd.DataFrame({"label": ["COVID 19", "肺炎", "正常"], "path": ["a", "b", "c"]})
    matched = external_images(records, ("covid-19", "肺炎", "正常"), None)
    assert matched["label"].tolist() == ["covid-19", "肺炎", "正常"]


def test_exact_class_names_win() -> None:
    names = ("covid+", "covid-", "normal")
    table = pd.DataFrame({"label": ["covid+", "covid-", "Normal"], "path": ["a", "b", "c"]})
    assert external_images(table, names, None)["label"].tolist() == ["covid+", "covid-", "normal"]
    with pytest.raises(UserError, match=r"'COVID' differs from the classes covid\+ and covid- of the run"):
        external_images(table.replace("covid+", "COVID"), names, None)
    with pytest.raises(UserError, match=r"'covid\+' differs from the label 'covid-' in symbols only"):
        external_images(table, ("covid", "normal"), None)
    with pytest.raises(UserError, match=r"map it with 'class_map={COVID: \"covid\+\"}', or leave it out"):
        external_images(table.replace("covid+", "COVID"), names, None)


def test_foreign_images_of_the_same_names_are_not_the_runs(
    command: InProcess, evaluated: Path, tiny_run: Path, workplace: Path
) -> None:
    """Other pixels, or other patients: evaluated as external, and the calibration is not made from them."""
    source = phantom_manifest(workplace)
    other = workplace / "other-hospital"
    shutil.rmtree(other, ignore_errors=True)
    table = pd.read_csv(source, dtype=str)
    for number, path in enumerate(table["path"]):
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        write_png(other / path, np.random.default_rng(number).integers(0, 256, (64, 64), dtype=np.uint8))
    run = copy_run(tiny_run, "foreign-data")
    table.to_csv(other / "manifest.csv", index=False)
    line = f"evaluate run={run} data=manifest resamples=5 saliency=false name=x"
    code, _, err = command(f"{line} data.manifest=other-hospital/manifest.csv")
    assert code == 0, err
    found: Any = numbers(run / "evaluation/x")
    assert found["own_test_images"] is False
    assert found["images"] == len(table)
    calibration = json.loads((run / "calibration.json").read_text())
    # The same pixels under other patients are not the run's own data either.
    renamed = table.assign(
        patient_id="B" + table["patient_id"], path=[str(source.parent / path) for path in table["path"]]
    )
    renamed.to_csv(workplace / "renamed.csv", index=False)
    records = read_manifest(workplace / "renamed.csv").assign(path=table["path"])
    assert not is_own(load_run(run), records, "test")
    assert is_own(load_run(run), records.assign(patient_id=table["patient_id"]), "test")
    assert json.loads((run / "calibration.json").read_text()) == calibration
    # A run whose own images were overwritten is neither evaluated nor calibrated.
    config = (run / "config.yaml").read_text()
    text = yaml.safe_load(config)
    text["data"] = {"_target_": "covid_xray.data.manifest.read_manifest", "manifest": str(other / "manifest.csv")}
    (run / "config.yaml").write_text(yaml.safe_dump(text))
    (run / "calibration.json").unlink()
    mistake(command(f"evaluate run={run} resamples=5"), "test images of the run have other pixels than when it began")
    assert not (run / "calibration.json").exists()


def test_only_the_very_same_request_is_reused(evaluated: Path, tiny_run: Path) -> None:
    found: Any = numbers(evaluated)
    request = {**found["request"], "class_map": None, "prevalence": found["request"]["prevalence"] or None}
    name = evaluated.name
    assert is_current(tiny_run, name, request)
    for changed in ({"subset": "val"}, {"tta": not request["tta"]}, {"resamples": 7}, {"seed": 9}):
        assert not is_current(tiny_run, name, request | changed)
