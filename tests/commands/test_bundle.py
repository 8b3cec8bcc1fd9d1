"""A bundle: shared without data, patients or paths, it predicts and evaluates as the run does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import Command
from safetensors.torch import load_file, save_file
from tiny_run import InProcess, command, copy_run, mistake, numbers, phantom_manifest, tiny_run

import covid_xray as cx
from covid_xray.networks.weights import load_weights, read_weights
from covid_xray.reporting.bundle_card import hub_metadata
from covid_xray.runs.config import checkpoint_of
from covid_xray.runs.load import load_run

__all__ = ["command", "tiny_run"]
CLASSES = ("covid-19", "normal", "pneumonia")
FILES = {"README.md", "calibration.json", "config.yaml", "model.safetensors", "preprocessing.json"}


@pytest.fixture
def bundle(command: InProcess, tiny_run: Path, workplace: Path) -> Path:
    """A bundle of the run, with the metrics of its evaluation."""
    folder = workplace / "shared-bundle"
    if not folder.is_dir():
        if not (tiny_run / "evaluation" / "test" / "metrics.json").is_file():
            assert command(f"evaluate run={tiny_run} resamples=20 saliency=false")[0] == 0
        code, out, err = command(f"export run={tiny_run} format=bundle output=shared-bundle license=cc-by-4.0")
        assert code == 0, err
        assert "largest difference from PyTorch 0, on 16 test images" in out
    return folder


def phantoms(workplace: Path) -> Path:
    """Manifest of the run's images."""
    return phantom_manifest(workplace)


def test_a_bundle_names_no_patient_and_no_place(bundle: Path, tiny_run: Path, workplace: Path) -> None:
    assert {file.name for file in bundle.iterdir()} == FILES
    splits = pd.read_csv(tiny_run / "splits.csv", dtype=str)
    secrets = {*splits["patient_id"], *splits["path"], str(workplace), str(Path.home()), "data/phantoms"}
    for file in bundle.iterdir():
        content = file.read_bytes()
        assert [secret for secret in secrets if secret.encode() in content] == [], file.name


def test_a_bundle_predicts_in_an_empty_folder(
    command: InProcess, covid_xray: Command, bundle: Path, tiny_run: Path, workplace: Path, tmp_path: Path
) -> None:
    images = phantom_manifest(workplace).parent
    assert command(f"predict run={tiny_run} input={images} output=of-run.csv overwrite=true")[0] == 0
    shutil.copytree(bundle, tmp_path / "received")
    done = covid_xray("predict", "run=received", f"input={images}", "output=of-bundle.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "of-bundle.csv").read_bytes() == (workplace / "of-run.csv").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["of-bundle.csv", "received"]
    assert {file.name for file in (tmp_path / "received").iterdir()} == FILES


def test_a_bundle_evaluates_as_the_run(command: InProcess, bundle: Path, tiny_run: Path, workplace: Path) -> None:
    table = pd.read_csv(phantom_manifest(workplace), dtype=str).head(40)
    table["path"] = [str(phantom_manifest(workplace).parent / path) for path in table["path"]]
    table[["path", "label", "patient_id"]].to_csv(workplace / "for-bundle.csv", index=False)
    line = "data=manifest data.manifest=for-bundle.csv resamples=20 saliency=false name=other-data"
    for run in (tiny_run, bundle):
        code, _, err = command(f"evaluate run={run} {line}")
        assert code == 0, err
    written = workplace / "outputs" / bundle.name / "evaluation" / "other-data"
    found, expected = numbers(written), numbers(tiny_run / "evaluation" / "other-data")
    for key in ("variants", "temperature", "operating_points", "shortcuts"):
        assert found[key] == expected[key]
    assert not (bundle / "evaluation").exists()
    code, _, err = command(f"compare runs=[{tiny_run},{bundle}] name=other-data resamples=20 output=compare-bundle")
    assert code == 0, err
    mistake(command(f"evaluate run={bundle}"), "does not say where its images are")
    mistake(command(f"evaluate run={bundle} checkpoint=last"), "is a bundle, which has one set of weights")


def test_weights_of_a_bundle(bundle: Path, tiny_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network, run = cx.create_network("resnet18", 3), load_run(tiny_run, accelerator="cpu")
    load_weights(network, checkpoint_of(str(bundle)), run.class_names)
    expected = run.module.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert "model.safetensors" in capfd.readouterr().out


def test_the_card_has_what_hubs_read(bundle: Path, tiny_run: Path) -> None:
    text = (bundle / "README.md").read_text()
    _, block, body = text.split("---\n", 2)
    found = yaml.safe_load(block)
    measured: Any = numbers(tiny_run / "evaluation" / "test")
    values = measured["variants"][measured["written_predictions"]]["metrics"]
    assert (found["license"], found["library_name"]) == ("cc-by-4.0", "covid-xray")
    assert {"pytorch", "not-for-diagnosis"} <= set(found["tags"])
    (model,) = found["model-index"]
    reported = {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert reported["accuracy"] == pytest.approx(values["accuracy"]["value"], abs=1e-4)
    assert reported["roc_auc"] == pytest.approx(values["macro_auroc"]["value"], abs=1e-4)
    assert set(found["metrics"]) == set(reported)
    assert "not for diagnosis" in body
    for name in CLASSES:
        assert body.count(f"| {name} | ") == 2, "two operating points"
    hub = pytest.importorskip("huggingface_hub", reason="the hub's own reader is not installed")
    card = hub.ModelCard(text)
    assert card.data.eval_results[0].metric_type == "accuracy"
    with pytest.raises(cx.UserError, match="license must be a name"):
        hub_metadata("x", "mit\nevil: true", {})


def test_class_names_are_stored_with_the_weights(tiny_run: Path, bundle: Path, tmp_path: Path) -> None:
    for file in (tiny_run / "checkpoints" / "best.ckpt", bundle / "model.safetensors"):
        assert read_weights(file).class_names == CLASSES
    run = copy_run(tiny_run, "without-splits")
    (run / "splits.csv").unlink()
    assert load_run(run, accelerator="cpu").class_names == CLASSES
    file = run / "checkpoints" / "best.ckpt"
    older = torch.load(file, weights_only=True)
    del older["class_names"]
    torch.save(older, file)
    with pytest.raises(cx.UserError, match=r"has no class names, and .*splits\.csv is missing"):
        load_run(run)
    shutil.copy(tiny_run / "splits.csv", run)
    assert load_run(run, accelerator="cpu").class_names == CLASSES


def rewrite_header(names: Any) -> Callable[[Path], object]:
    """Weights with other class names."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(load_file(file), file, None if names is None else {"classes": json.dumps(names)})

    return change


def set_key(**values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | values))

    return change


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign code": (set_key(model={"_target_": "os.system", "command": "true"}), "code outside this project"),
    "an expression": (
        lambda folder: (folder / "config.yaml").write_text(
            (folder / "config.yaml").read_text() + "x: ${oc.env:HOME}\n"
        ),
        "an expression or alias",
    ),
    "huge network": (
        set_key(model={"_target_": "covid_xray.networks.resnet.TransferResNet", "hidden": 1 << 40}),
        "model.hidden must be",
    ),
    "other network": (
        set_key(model={"_target_": "covid_xray.networks.resnet.TransferResNet", "architecture": "resnet34"}),
        "does not fit the run's model",
    ),
    "half of the weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:9000]),
        "cannot be read as tensors",
    ),
    "a pickle as weights": (
        lambda folder: torch.save({"a": torch.zeros(1)}, folder / "model.safetensors"),
        "cannot be read as tensors",
    ),
    "no class names": (rewrite_header(None), "has no class names"),
    "class names of another kind": (rewrite_header({"a": 1}), "has no class names"),
    "a class name with an escape": (rewrite_header(["\x1b[31m", "b", "c"]), "has no class names"),
    "fewer classes": (rewrite_header(["a", "b"]), "does not fit the run's model"),
    "no configuration": (lambda folder: (folder / "config.yaml").unlink(), "is no run folder: config.yaml is missing"),
    "damaged calibration": (
        lambda folder: (folder / "calibration.json").write_text("[1]"),
        "calibration.json is damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_bundle_is_one_sentence(
    name: str, command: InProcess, bundle: Path, workplace: Path
) -> None:
    copy = workplace / "hostile-bundle"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle, copy)
    change, expected = HOSTILE[name]
    change(copy)
    images = phantom_manifest(workplace).parent
    mistake(command(f"predict run={copy} input={images} output=hostile.csv overwrite=true"), expected)


def test_a_bundle_does_not_replace_other_files(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    (workplace / "occupied").mkdir(exist_ok=True)
    (workplace / "occupied" / "thesis.txt").write_text("mine")
    line = f"export run={tiny_run} format=bundle output="
    mistake(command(f"{line}occupied"), "is a folder with other files")
    mistake(command(f"{line}occupied/thesis.txt"), "is a file; choose a new folder")
    assert (workplace / "occupied" / "thesis.txt").read_text() == "mine"
