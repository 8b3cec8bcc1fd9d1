"""Features of a run and of a network, in both kinds of files, and the ranking of encoders on them."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_run import InProcess, command, mistake, phantom_manifest, tiny_run

import covid_xray as cx
from covid_xray.metrics.predictions import read_predictions
from covid_xray.runs.embedding import Features, read_features
from covid_xray.runs.inference import image_reader
from covid_xray.runs.load import load_run

__all__ = ["command", "tiny_run"]


def test_features_of_a_run_with_its_splits(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    code, out, err = command(f"embed run={tiny_run} output=features/run.npz")
    assert code == 0, err
    splits = pd.read_csv(tiny_run / "splits.csv", dtype=str).sort_values("path", ignore_index=True)
    found = read_features(workplace / "features" / "run.npz")
    assert f"{len(splits)} images, 512 features each, by tiny-run" in out
    columns = ["path", "label", "patient_id", "split"]
    pd.testing.assert_frame_equal(found.table[columns].astype(str), splits[columns].astype(str))
    assert found.table["seen"].tolist() == splits["split"].isin(["train", "val"]).tolist()

    # The network's own feature map of one image, averaged.
    run = load_run(tiny_run, accelerator="cpu")
    file = phantom_manifest(workplace).parent / splits["path"][3]
    pixels = torch.from_numpy(image_reader(run)(str(file)))[None, None]
    expected = run.module.network.features(run.module.normalise(pixels)).mean(dim=(2, 3))[0].numpy()
    # The command computes in bfloat16 where the CPU does.
    assert np.corrcoef(found.values[3], expected)[0, 1] > 0.99
    assert np.abs(found.values[3] - expected).max() < 0.1


def test_features_of_a_network_as_parquet(command: InProcess, workplace: Path) -> None:
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    data = "data=phantom_tiny data.root=elsewhere/phantoms data.phantom_seed=9 data.patients=9"
    line = f"embed model=resnet18 weights=null {data} image_size=64 output=features/"
    for ending in ("npz", "parquet"):
        code, _, err = command(f"{line}random.{ending}")
        assert code == 0, err
    one, two = (read_features(workplace / "features" / f"random.{ending}") for ending in ("npz", "parquet"))
    assert (one.encoder, two.encoder) == ("resnet18, random weights",) * 2
    np.testing.assert_array_equal(one.values, two.values)
    pd.testing.assert_frame_equal(one.table.astype(str), two.table.astype(str))
    assert one.values.shape == (len(list(workplace.glob("elsewhere/phantoms/**/*.png"))), 512)
    assert not one.table["seen"].any()


def make(strength: float, name: str, seen: int = 0, patients: int = 30) -> Features:
    """Two images of each patient; ``strength`` separates the three classes."""
    random = np.random.default_rng(7)
    truth = np.arange(2 * patients) // 2 % 3
    values = strength * np.eye(3)[truth] @ random.normal(size=(3, 12)) + random.normal(size=(2 * patients, 12))
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(2 * patients)], "label": np.array(["a", "b", "c"])[truth]})
    table["patient_id"] = [f"p{i // 2}" for i in range(2 * patients)]
    table = table.assign(split="", seen=np.arange(2 * patients) < seen)
    return Features(values.astype(np.float32), table, name)


def test_encoders_are_ranked(command: InProcess, workplace: Path) -> None:
    folder = workplace / "made"
    make(2.0, "strong, [red]").write(folder / "good.npz")
    make(0.3, "weak", seen=4).write(folder / "bad.npz")
    code, out, err = command("probe features=[made/bad.npz,made/good.npz] folds=3 resamples=50 output=ranked")
    assert code == 0, err
    assert "Left out: 4 of 60 images" in out
    assert out.index("good") < out.index("bad")
    found = json.loads((workplace / "ranked" / "probe.json").read_text())
    assert [each["name"] for each in found["encoders"]] == ["good", "bad"]
    assert (found["images"], found["patients"]) == (56, 28)
    best, other = found["encoders"]
    assert best["difference"] is None
    assert other["difference"]["high"] < 0
    accuracy = best["metrics"]["accuracy"]
    assert accuracy["low"] < accuracy["value"]
    assert "given the patients" in accuracy["method"]
    assert {path.name for path in (workplace / "ranked").iterdir()} == {
        *("report.html", "probe.json", "probe.csv", "ranking.png", "good", "bad")
    }
    assert "[red]" in (workplace / "ranked" / "report.html").read_text()
    predictions = read_predictions(workplace / "ranked" / "good" / "evaluation" / "test" / "predictions.csv")
    assert (predictions.predicted == predictions.labels).mean() == accuracy["value"]
    code, _, err = command("compare runs=[ranked/good,ranked/bad] resamples=20 output=compare-probes")
    assert code == 0, err


def test_ranking_from_python() -> None:
    results = cx.probe([make(0.3, "weak"), make(2.0, "strong")], folds=3, resamples=20, metric="nll")
    assert [result.name for result in results] == ["strong", "weak"]
    assert results[1].difference is not None
    assert results[1].difference.value > 0


def damaged_npz(file: Path, **changes: Any) -> None:
    with np.load(file) as arrays:
        content: dict[str, Any] = dict(arrays)
    content |= changes
    np.savez(file, **{name: value for name, value in content.items() if value is not None})


def compressed(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(50_000_000))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: file.unlink(), "does not exist; make it with covid-xray embed"),
    "no zip": (lambda file: file.write_text("x"), "cannot be read"),
    "a bomb": (compressed, "it is compressed, with 50,000,000 bytes"),
    "half": (lambda file: file.write_bytes(file.read_bytes()[:900]), "cannot be read"),
    "objects": (lambda file: damaged_npz(file, label=np.array([{}] * 60, dtype=object)), "cannot be read"),
    "no features": (lambda file: damaged_npz(file, features=None), "cannot be read"),
    "text as features": (lambda file: damaged_npz(file, features=np.full((60, 3), "x")), "is damaged"),
    "fewer features": (lambda file: damaged_npz(file, features=np.zeros((3, 3))), "is damaged"),
    "nan": (lambda file: damaged_npz(file, features=np.full((60, 3), np.nan)), "is damaged"),
    "an image twice": (lambda file: damaged_npz(file, path=np.full(60, "a")), "lists an image twice"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_sentence(name: str, command: InProcess, workplace: Path) -> None:
    file = workplace / "damaged.npz"
    make(1.0, "x").write(file)
    change, expected = DAMAGE[name]
    change(file)
    mistake(command("probe features=damaged.npz resamples=5"), expected)


MISTAKES = {
    "no output": ("embed model=resnet18 weights=null data=phantom_tiny", "output must be given"),
    "no encoder": ("embed output=x.npz", "give either run=RUN_FOLDER, or model=..."),
    "two encoders": ("embed run=x model=resnet18 output=x.npz", "give either run=RUN_FOLDER, or model=..."),
    "two runs": ("embed run=[a,b] output=x.npz", "run must be one run folder or bundle"),
    "no data": ("embed model=resnet18 output=x.npz", "data must be given"),
    "data not named": ("embed model=resnet18 data=folder output=x.npz", "data.root must be given"),
    "ending": ("embed model=resnet18 weights=null data=phantom_tiny output=x.csv", "ends with .npz or .parquet"),
    "image size": ("embed model=resnet18 data=phantom_tiny output=x.npz image_size=big", "image_size must be"),
    "no run": ("embed run=nowhere output=x.npz", "is no folder"),
    "no features": ("probe", "features must be given"),
    "empty list": ("probe features=[]", "names no file"),
    "folds": ("probe features=a.npz folds=1", "folds must be"),
    "ending of features": ("probe features=a.csv", "ends with .npz or .parquet"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, command: InProcess) -> None:
    line, expected = MISTAKES[name]
    mistake(command(line), expected)


def test_features_that_do_not_fit_together(command: InProcess, workplace: Path) -> None:
    folder = workplace / "unfit"
    shutil.rmtree(folder, ignore_errors=True)
    make(1.0, "x").write(folder / "a.npz")
    make(1.0, "x", patients=24).write(folder / "b.npz")
    make(1.0, "x", seen=60).write(folder / "c.npz")
    other = make(1.0, "x")
    other.table.loc[3, "label"] = "c"
    other.write(folder / "d.npz")
    line = "probe resamples=5 output=unfit-probe features="
    mistake(command(f"{line}[unfit/a.npz,unfit/b.npz]"), "are of different images")
    mistake(command(f"{line}[unfit/a.npz,unfit/c.npz]"), "every image was in the training of an encoder")
    mistake(command(f"{line}[unfit/a.npz,unfit/d.npz]"), "3.png has another label or patient in d than in a")
    mistake(command(f"{line}unfit/a.npz metric=speed"), "metric must be one of")
    mistake(command(f"{line}unfit/a.npz folds=11"), "lower folds or add images")
