"""Several runs as one: evaluated, predicted, compared and exported by the real commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from tiny_run import InProcess, command, copy_run, mistake, numbers, phantom_manifest, tiny_run

import covid_xray as cx
from covid_xray.commands._build import split_records
from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import resize
from covid_xray.metrics.predictions import read_predictions

__all__ = ["command", "tiny_run"]
CLASSES = ("covid-19", "normal", "pneumonia")
PROBABILITIES = [f"p_{name}" for name in CLASSES]


@pytest.fixture
def grid(tiny_run: Path, workplace: Path) -> Path:
    """A sweep of two folds and two seeds; the seeds differ in the weights of the head."""
    sweep = workplace / "grid"
    if not sweep.is_dir():
        sweep.mkdir()
        for fold in (0, 1):
            for seed in (0, 1):
                run = copy_run(tiny_run, f"fold={fold},seed={seed}")
                config = yaml.safe_load((run / "config.yaml").read_text())
                config["split"] |= {"folds": 2, "fold": fold}
                (run / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
                if fold == 1:
                    table = pd.read_csv(run / "splits.csv", dtype=str)
                    table["split"] = table["split"].replace({"test": "val", "val": "test"})
                    table.to_csv(run / "splits.csv", index=False)
                if seed == 1:
                    shift_weights(run / "checkpoints" / "best.ckpt")
                shutil.move(run, sweep / run.name)
    return sweep


def shift_weights(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    name = [key for key in content["state_dict"] if key.startswith("network.head") and key.endswith("weight")][-1]
    content["state_dict"][name] += torch.randn(
        content["state_dict"][name].shape, generator=torch.Generator().manual_seed(1)
    )
    torch.save(content, file)


def members(grid: Path, *names: str) -> str:
    """A list for the command line; the names of the folders have = and commas."""
    return "run=[" + ",".join(f'"{grid.name}/{name}"' for name in names) + "]"


SEEDS = ("fold=0,seed=0", "fold=0,seed=1")


def test_seeds_are_averaged_and_folds_are_pooled(command: InProcess, grid: Path, workplace: Path) -> None:
    code, out, err = command(f"evaluate run={grid.name} resamples=20 saliency=false")
    assert code == 0, err
    assert "4 runs, which differ in seed, split.fold" in out
    assert "2 folds pooled, each the mean of 2 runs" in out
    found: Any = numbers(grid / "evaluation" / "test")
    assert found["members"]["fold 1"] == ["fold=1,seed=0", "fold=1,seed=1"]
    whole = read_predictions(grid / "evaluation" / "test" / "predictions.csv")
    parts = [read_predictions(grid / name / "evaluation" / "test" / "predictions.csv") for name in SEEDS]
    assert not np.allclose(parts[0].probabilities, parts[1].probabilities)
    mean = (parts[0].probabilities + parts[1].probabilities) / 2
    np.testing.assert_allclose(whole.probabilities[: len(mean)], mean, rtol=1e-12)

    # The seeds of one fold as a list: the evaluations of the members are used again.
    code, out, err = command("evaluate resamples=20 saliency=false", members(grid, *SEEDS))
    assert code == 0, err
    assert "Evaluating" not in out
    assert "Mean of 2 runs" in out
    written = workplace / "outputs" / "ensemble" / "evaluation" / "test" / "predictions.csv"
    np.testing.assert_allclose(read_predictions(written).probabilities, mean, rtol=1e-12)
    alone = f'"{grid.name}/{SEEDS[0]}"'
    code, _, err = command("compare resamples=20 output=compare-ensemble", f"runs=[{alone},outputs/ensemble]")
    assert code == 0, err
    mistake(
        command("evaluate", members(grid, SEEDS[0], "fold=1,seed=0", "fold=1,seed=1")), "fold 0 has 1 finished runs"
    )
    mistake(command("evaluate", members(grid, SEEDS[0], SEEDS[0])), "names a run twice")


def test_folds_are_averaged_on_another_data_set(command: InProcess, grid: Path, workplace: Path) -> None:
    images = "data=phantom_tiny data.root=elsewhere/phantoms data.phantom_seed=9 data.patients=9"
    line = f"evaluate {images} resamples=20 saliency=false output=of-folds name=other"
    code, out, err = command(line, members(grid, SEEDS[0], "fold=1,seed=1"))
    assert code == 0, err
    assert "Mean of 2 runs, " in out
    assert "images of 9 patients\n" in out
    found = read_predictions(workplace / "of-folds" / "evaluation" / "other" / "predictions.csv")
    parts = [
        read_predictions(grid / name / "evaluation" / "other" / "predictions.csv")
        for name in (SEEDS[0], "fold=1,seed=1")
    ]
    np.testing.assert_allclose(found.probabilities, (parts[0].probabilities + parts[1].probabilities) / 2)
    manifest = phantom_manifest(workplace)
    table = pd.read_csv(manifest, dtype=str).head(12)
    table.assign(path=[str(manifest.parent / path) for path in table["path"]]).to_csv(
        workplace / "seen.csv", index=False
    )
    line = "evaluate data=manifest data.manifest=seen.csv resamples=20 saliency=false name=seen"
    mistake(command(line, members(grid, *SEEDS)), "an ensemble is tested on patients that no member has seen")


def test_an_ensemble_predicts_the_mean_also_as_bundle_and_onnx(command: InProcess, grid: Path, workplace: Path) -> None:
    manifest = phantom_manifest(workplace)
    files = [str(manifest.parent / path) for path in pd.read_csv(manifest)["path"][:9]]
    (workplace / "nine.txt").write_text("\n".join(files))
    tables = {}
    for output, runs in (("one", SEEDS[:1]), ("two", SEEDS[1:]), ("both", SEEDS)):
        code, out, err = command(f"predict input=nine.txt output={output}.csv overwrite=true", members(grid, *runs))
        assert code == 0, err
        tables[output] = pd.read_csv(workplace / f"{output}.csv")
    assert "Mean of the calibrated probabilities of 2 runs" in out
    for column in (*PROBABILITIES, "ood_score"):
        mean = (tables["one"][column] + tables["two"][column]) / 2
        np.testing.assert_allclose(tables["both"][column], mean, atol=2e-6)

    code, _, err = command("export format=bundle output=ensemble-bundle", members(grid, *SEEDS))
    assert code == 0, err
    assert {path.name for path in (workplace / "ensemble-bundle").iterdir()} == {"README.md", "member-1", "member-2"}
    code, _, err = command("predict run=ensemble-bundle input=nine.txt output=bundled.csv overwrite=true")
    assert code == 0, err
    assert (workplace / "bundled.csv").read_bytes() == (workplace / "both.csv").read_bytes()

    code, out, err = command("export format=onnx output=ensemble.onnx", members(grid, *SEEDS))
    assert code == 0, err
    assert "largest difference from PyTorch" in out
    session = onnxruntime.InferenceSession(workplace / "ensemble.onnx")
    size = int(session.get_modelmeta().custom_metadata_map["image_size"])
    images = np.stack([resize(read_image(file), size) for file in files])[:, None]
    chances = session.run(["probabilities"], {"images": images})[0]
    # Training, and so predict, may compute in bfloat16; the exported file never does.
    np.testing.assert_allclose(chances, tables["both"][PROBABILITIES].to_numpy(), atol=2e-2)
    assert json.loads(session.get_modelmeta().custom_metadata_map["members"]) == 2
    mistake(command("export format=safetensors", members(grid, *SEEDS)), "format=safetensors holds one network")


def test_an_ensemble_from_python(grid: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    ensemble = cx.load_ensemble([grid / name for name in SEEDS], accelerator="cpu")
    assert ensemble.class_names == CLASSES
    result = ensemble.evaluate(resamples=20, saliency=False)
    assert result.combined.text == "mean of 2 runs"
    stored = read_predictions(grid / SEEDS[0] / "evaluation" / "test" / "predictions.csv")
    assert set(result.combined.predictions.images) == set(stored.images)
    assert 0 <= result.metrics["accuracy"].low <= result.metrics["accuracy"].value
    with pytest.raises(cx.UserError, match="needs at least two runs"):
        cx.load_ensemble([grid / SEEDS[0]])
    other = copy_run(grid / SEEDS[1], "other-classes")
    content = torch.load(other / "checkpoints" / "best.ckpt", weights_only=True)
    content["class_names"] = ["covid-19", "normal", "tuberculosis"]
    torch.save(content, other / "checkpoints" / "best.ckpt")
    (other / "splits.csv").unlink()
    with pytest.raises(cx.UserError, match="an ensemble needs the same classes"):
        cx.load_ensemble([grid / SEEDS[0], other])


def test_several_seeds_share_a_split() -> None:
    table = {"path": [f"{i}.png" for i in range(60)], "label": list("abc") * 20}
    records = cx.check_records(pd.DataFrame(table))
    settings = {"_target_": "covid_xray.data.split.assign_splits", "by": "patient"}

    def split(seed: int, split_seed: int | None) -> list[str]:
        config = {"seed": seed, "split": settings | {"seed": split_seed}}
        return list(split_records(config, records, None)["split"])

    assert split(1, 0) == split(2, 0) == split(0, None)
    assert split(1, None) != split(0, None)
