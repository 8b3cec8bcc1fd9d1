"""Predictions row by row, also after a kill, and exported networks that answer as PyTorch does."""

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from tiny_run import InProcess, command, copy_run, mistake, phantom_manifest, tiny_run

from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.images.resize import resize
from covid_xray.errors import UserError
from covid_xray.runs.calibration import learn, ood_score
from covid_xray.runs.predict import OUT_OF_DISTRIBUTION, UNSURE
from covid_xray.runs.prediction_file import PredictionFile, list_images

__all__ = ["command", "tiny_run"]
CLASSES = ("covid-19", "normal", "pneumonia")


@pytest.fixture(scope="module")
def pictures(workplace: Path) -> Path:
    """Nine images in two folders, two of them broken."""
    folder = workplace / "pictures"
    (folder / "more").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(7):
        place = folder / ("more" if number > 4 else ".") / f"{number}.png"
        write_png(place, random.integers(0, 256, (60, 50), dtype=np.uint8))
    (folder / "3-broken.png").write_text("no image")
    (folder / "more" / "9.png").write_bytes(b"")
    (folder / "notes.md").write_text("not read")
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_folder_in_order_with_broken_files_told(
    command: InProcess, tiny_run: Path, pictures: Path, workplace: Path
) -> None:
    code, out, err = command(f"predict run={tiny_run} input=pictures output=all.csv overwrite=true batch_size=2")
    assert code == 0, err
    assert "9 images, 2 broken" in out
    assert "Left out: 1 files that are no images" in out
    assert "not for diagnosis" in out
    found = rows(workplace / "all.csv")
    assert [Path(row["path"]).name for row in found] == [
        "0.png",
        "1.png",
        "2.png",
        "3-broken.png",
        "3.png",
        "4.png",
        "5.png",
        "6.png",
        "9.png",
    ]
    broken = [row for row in found if row["error"]]
    assert [row["error"] for row in broken] == ["it is no image of a known format", "it is empty"]
    assert all(row["prediction"] == "" for row in broken)
    for row in found:
        if not row["error"]:
            chances = [float(row[f"p_{name}"]) for name in CLASSES]
            assert sum(chances) == pytest.approx(1, abs=1e-4)
            assert row["prediction"] == CLASSES[int(np.argmax(chances))]
    assert not list(workplace.glob("all.csv.part*"))
    mistake(command(f"predict run={tiny_run} input=pictures output=all.csv"), "exists already")


def test_probabilities_are_those_of_evaluate(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    code, _, err = command(f"evaluate run={tiny_run} resamples=5 saliency=false name=same")
    assert code == 0, err
    table = pd.read_csv(tiny_run / "evaluation" / "same" / "predictions.csv")
    manifest = phantom_manifest(workplace)
    (workplace / "list.txt").write_text(
        "# tested\n\n" + "".join(f"{manifest.parent / path}\n" for path in table["path"])
    )
    code, _, err = command(f"predict run={tiny_run} input=list.txt output=list.jsonl overwrite=true")
    assert code == 0, err
    found = [json.loads(line) for line in (workplace / "list.jsonl").read_text().splitlines()]
    for name in CLASSES:
        assert [row[f"p_{name}"] for row in found] == pytest.approx(list(table[f"p_{name}"]), abs=2e-2)


def test_a_killed_prediction_continues_to_the_same_file(
    command: InProcess, tiny_run: Path, pictures: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"predict run={tiny_run} input=pictures batch_size=2 overwrite=true output="
    assert command(line + "whole.csv")[0] == 0
    append, calls = PredictionFile.append, []

    def killed(self: PredictionFile, *arguments: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            with self.part.open("a") as file:
                file.write("pictures/half a ro")
            raise KeyboardInterrupt
        append(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PredictionFile, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        command(line + "cut.csv")
    monkeypatch.setattr(PredictionFile, "append", append)
    assert not (workplace / "cut.csv").exists()
    mistake(command(line + "cut.csv confidence=0.9"), "begun with other settings (confidence)")
    code, out, err = command(line + "cut.csv")
    assert code == 0, err
    assert "Continuing after 4 images" in out
    assert (workplace / "cut.csv").read_bytes() == (workplace / "whole.csv").read_bytes()


def test_flags_follow_the_thresholds(command: InProcess, tiny_run: Path, pictures: Path, workplace: Path) -> None:
    line = f"predict run={tiny_run} input=pictures/0.png overwrite=true output=flags.csv"
    assert command(f"{line} confidence=1")[0] == 0
    assert UNSURE in rows(workplace / "flags.csv")[0]["flag"]
    assert command(f"{line} confidence=0")[0] == 0
    assert UNSURE not in rows(workplace / "flags.csv")[0]["flag"]
    stored = json.loads((tiny_run / "calibration.json").read_text())
    run = copy_run(tiny_run, "strict")
    stored["best"]["ood_limit"] = -1e9
    (run / "calibration.json").write_text(json.dumps(stored))
    assert command(f"{line.replace('tiny-run', 'strict')}")[0] == 0
    assert OUT_OF_DISTRIBUTION in rows(workplace / "flags.csv")[0]["flag"]


def test_noise_is_unlike_what_was_seen_and_what_was_seen_is_not() -> None:
    random = np.random.default_rng(0)
    seen = random.normal(3, 1, (100, 40)).astype(np.float32)
    logits = random.normal(0, 1, (100, 3))
    labels = [int(label) for label in random.integers(0, 3, 100)]
    learnt = learn(labels, logits, seen, CLASSES, "")
    assert (ood_score(logits, seen, learnt.features) > learnt.ood_limit).sum() == 5
    other = random.normal(3, 2, (50, 40)).astype(np.float32)
    assert (ood_score(logits[:50], other, learnt.features) > learnt.ood_limit).all()
    without = learn(labels, logits, None, CLASSES, "")
    assert (ood_score(logits, None, without.features) > without.ood_limit).sum() == 5


def test_inputs(pictures: Path) -> None:
    assert len(list(list_images(str(pictures)))) == 9
    assert [Path(file).name for file in list_images(f"{pictures}/[01].png")] == ["0.png", "1.png"]
    assert list(list_images(str(pictures / "0.png"))) == [str(pictures / "0.png")]


def test_onnx_answers_as_predict_does(command: InProcess, tiny_run: Path, pictures: Path, workplace: Path) -> None:
    code, out, err = command(f"export run={tiny_run} output=model.onnx")
    assert code == 0, err
    assert "largest difference from PyTorch" in out
    metadata = {entry.key: entry.value for entry in onnx.load(workplace / "model.onnx").metadata_props}
    size = int(metadata["image_size"])
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert float(metadata["temperature"]) > 0
    assert "not for diagnosis" in metadata["use"]
    assert command(f"predict run={tiny_run} input=pictures/?.png overwrite=true output=onnx.csv")[0] == 0
    found = rows(workplace / "onnx.csv")
    images = np.stack([resize(read_image(workplace / row["path"]), size) for row in found])[:, None]
    session = onnxruntime.InferenceSession(workplace / "model.onnx")
    for count in (1, 5):
        chances = session.run(["probabilities"], {"images": images[:count]})[0]
        for row, values in zip(found, chances, strict=False):
            # Training, and so predict, may compute in bfloat16; the exported file never does.
            assert [float(row[f"p_{name}"]) for name in CLASSES] == pytest.approx(values.tolist(), abs=2e-2)


def test_folded_batchnorm_answers_nearly_the_same(
    command: InProcess, tiny_run: Path, pictures: Path, workplace: Path
) -> None:
    for name, more in {"exact": "", "folded": " fold_batchnorm=true"}.items():
        code, _, err = command(f"predict run={tiny_run} input=pictures/?.png overwrite=true output={name}.csv{more}")
        assert code == 0, err
    exact, folded = rows(workplace / "exact.csv"), rows(workplace / "folded.csv")
    for row, other in zip(exact, folded, strict=True):
        for name in (*(f"p_{name}" for name in CLASSES), "ood_score"):
            assert float(other[name]) == pytest.approx(float(row[name]), rel=0.05, abs=2e-2)  # bfloat16
    assert [row["confidence"] for row in folded] != [row["confidence"] for row in exact]


def test_onnx_in_8_bit_integers(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    code, out, err = command(f"export run={tiny_run} int8=true output=out/small.onnx")
    assert code == 0, err
    found = re.search(r"largest difference of a probability (\S+), on 16 test images", out)
    assert found is not None, out
    assert 0 < float(found[1]) < 0.2
    model = onnx.load(workplace / "out/small.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 20
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert metadata["int8"].startswith("calibrated on ")
    size = int(metadata["image_size"])
    session = onnxruntime.InferenceSession(workplace / "out/small.onnx")
    assert session.run(["probabilities"], {"images": np.zeros((3, 1, size, size), np.uint8)})[0].shape == (3, 3)
    mistake(command(f"export run={tiny_run} int8=true format=safetensors"), "int8 must be false, or true with")


def test_predict_by_onnxruntime(command: InProcess, tiny_run: Path, pictures: Path, workplace: Path) -> None:
    line = f"predict run={tiny_run} input=pictures/?.png overwrite=true"
    (tiny_run / "export/model.onnx").unlink(missing_ok=True)
    mistake(command(f"{line} output=ort.csv backend=onnx"), "model.onnx does not exist; make it with covid-xray export")
    assert command(f"export run={tiny_run}")[0] == 0
    for name, more in {"exact": "", "ort": " backend=onnx"}.items():
        code, _, err = command(f"{line} output={name}.csv{more}")
        assert code == 0, err
    for row, other in zip(rows(workplace / "exact.csv"), rows(workplace / "ort.csv"), strict=True):
        assert other["prediction"] == row["prediction"]
        for name in (*(f"p_{name}" for name in CLASSES), "ood_score"):
            assert float(other[name]) == pytest.approx(float(row[name]), rel=0.05, abs=2e-2)  # bfloat16
    mistake(command(f"{line} output=ort.csv backend=tensorrt"), "backend must be torch, onnx or onnx-int8")
    model = onnx.load(tiny_run / "export/model.onnx")
    model.graph.output[0].name, model.graph.output[1].name = "probabilities", "logits"
    features = next(output for output in model.graph.output if output.name == "features")
    features.name = model.graph.output[0].name
    onnx.save_model(model, str(tiny_run / "export/model.onnx"))
    mistake(command(f"{line} output=ort.csv backend=onnx"), "model.onnx is ")


def test_safetensors_hold_the_weights_and_what_they_mean(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    code, _, err = command(f"export run={tiny_run} format=safetensors output=out/model.safetensors")
    assert code == 0, err
    state = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    with safe_open(workplace / "out" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(state)
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in state.items())
        assert json.loads(file.metadata()["classes"]) == list(CLASSES)
    assert json.loads((workplace / "out" / "model.json").read_text())["image_size"] == 48
    assert "TransferResNet" in (workplace / "out" / "model.yaml").read_text()


def test_what_is_an_image(tmp_path: Path) -> None:
    """Files without ending, and with another one, are tried by content; the others are counted."""
    folder = tmp_path / "scans [1]"
    (folder / "sub").mkdir(parents=True)
    image = np.zeros((40, 40), np.uint8)
    write_png(folder / "a.png", image)
    content = (folder / "a.png").read_bytes()
    (folder / "IM000001").write_bytes(bytes(128) + b"DICM")
    (folder / "1.2.840.7").write_bytes(content)
    (folder / "b.jfif").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    (folder / "sub/c.gif").write_bytes(b"GIF89a")
    (folder / "._a.png").write_bytes(content)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/a.png").write_bytes(content)
    (folder / "notes.txt").write_text("no image")
    os.mkfifo(folder / "pipe")
    left_out: Counter[str] = Counter()
    found = [Path(path).name for path in list_images(str(folder), left_out)]
    assert found == ["1.2.840.7", "IM000001", "a.png", "b.jfif", "c.gif"]
    assert left_out == {"hidden files and folders": 2, "files that are no images": 2}
    assert [Path(path).name for path in list_images(f"{folder}/*")] == found[:-1]
    assert [Path(path).name for path in list_images(f"{folder}/[ab].png")] == ["a.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_png(tmp_path / "sub/ü.png", np.zeros((40, 40), np.uint8))
    expected = [str(tmp_path / "sub/ü.png")]
    (tmp_path / "list.txt").write_text("# images\nsub\\ü.png\n", encoding=encoding)
    assert list(list_images(str(tmp_path / "list.txt"))) == expected
    (tmp_path / "list.csv").write_text('label,Path\nx,"sub/ü.png"\n', encoding=encoding)
    assert list(list_images(str(tmp_path / "list.csv"))) == expected
    (tmp_path / "list.csv").write_text("a,b\n", encoding=encoding)
    with pytest.raises(UserError, match="has no column path"):
        list(list_images(str(tmp_path / "list.csv")))


def test_exit_code_where_every_image_fails(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    (workplace / "broken").mkdir(exist_ok=True)
    (workplace / "broken/a.png").write_text("no image")
    code, out, err = command(f"predict run={tiny_run} input=broken output=broken.csv overwrite=true")
    assert code == 1, err
    assert "1 images, 1 broken" in out
    assert rows(workplace / "broken.csv")[0]["error"] == "it is no image of a known format"


def test_an_output_has_one_writer(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "out.csv", "csv", ("path",), {})
    code = (
        "import sys; from pathlib import Path; from covid_xray.runs.prediction_file import PredictionFile\n"
        "with PredictionFile(Path(sys.argv[1]), 'csv', ('path',), {}).held(): pass"
    )
    other = [sys.executable, "-c", code, str(file.output)]
    with file.held():
        refused = subprocess.run(other, capture_output=True, text=True, check=False)
        assert "another process writes" in refused.stderr
        file.begin()
        file.append([{"path": "a.png"}], 1)
        file.finish()
    assert subprocess.run(other, check=False).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
