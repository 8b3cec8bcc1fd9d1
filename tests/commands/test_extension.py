"""Networks, losses, samplers, mixing, averaging: each trained, killed, resumed bit for bit, and evaluated."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from conftest import Command, differences, load_state
from tiny_run import phantom_manifest

from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import resize
from covid_xray.training.callbacks.averaging import RAW

SIZE = [f"schedule.phases.{name}.image_size=64" for name in ("frozen_small", "unfrozen_small")]
SMALL = ("train", "experiment=tiny", "logger=none", "~schedule.phases.frozen_large", "~schedule.phases.unfrozen_large")
TIMM = "model=timm model.architecture="
CASES = {
    "resnet": "model=resnet18",
    "densenet": f"{TIMM}densenet121",
    "convnext": f"{TIMM}convnext_atto",
    "efficientnet": f"{TIMM}efficientnet_b0",
    "vit": f"{TIMM}vit_tiny_patch16_224 model.input_size=64",
    "darkcovidnet": "model=darkcovidnet model.input_size=64",
    "covidnet": "model=covidnet model.input_size=64",
    "balanced loss": "loss=balanced",
    "label smoothing": "loss.label_smoothing=0.1",
    "focal loss": "loss=focal",
    "balanced sampler": "sampler=balanced",
    "batch share": "sampler=batch_share",
    "mixup": "mixing=mixup",
    "cutmix": "mixing=cutmix",
    "averaging": "averaging=ema averaging.decay=0.9",
    "accumulation": "schedule.phases.frozen_small.accumulate=2 schedule.phases.unfrozen_small.accumulate=4",
    "independent": "data.shortcut=0.3 sampler=independent",
    "group dro": "data.shortcut=0.3 loss=group_dro",
    "adversary": "data.shortcut=0.3 adversary=source averaging=ema",
    "all at once": "loss=focal sampler=balanced mixing=mixup averaging=ema schedule.phases.unfrozen_small.accumulate=4",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_bit_for_bit(name: str, covid_xray: Command, workplace: Path) -> None:
    folder = name.replace(" ", "-")
    settings = [*SMALL, *CASES[name].split(), "+callbacks.dump._target_=probe_callbacks.StateDump"]
    settings += ["+callbacks.kill._target_=probe_callbacks.KillAtStep", "checkpoint.every_minutes=1e-6"]
    if "model=" in CASES[name]:
        settings += SIZE
    whole = covid_xray(*settings, f"run_dir=whole-{folder}", "datamodule.num_workers=0")
    assert whole.returncode == 0, whole.stderr
    killed = (*settings, f"run_dir=killed-{folder}", "datamodule.num_workers=2")
    for step in (3, 9):
        result = covid_xray(*killed, env={"KILL_AT_STEP": str(step)})
        assert result.returncode == -9, result.stderr
    assert covid_xray(*killed).returncode == 0
    runs = [workplace / f"{kind}-{folder}" for kind in ("whole", "killed")]
    states = [load_state(run / "state-epoch1-rank0.pt") for run in runs]
    assert differences(states[0], states[1]) == []
    states = [load_state(run / "checkpoints/last.ckpt") for run in runs]
    for part in ("state_dict", RAW, "optimizer_states", "global_step"):
        assert differences(states[0].get(part), states[1].get(part)) == [], part
    assert json.loads((runs[0] / "metrics.json").read_text()) == json.loads((runs[1] / "metrics.json").read_text())
    if "model=" in CASES[name] or name == "averaging":
        check_that_commands_agree(covid_xray, workplace, runs[0])


def check_that_commands_agree(covid_xray: Command, workplace: Path, run: Path) -> None:
    """Check that training, evaluate, predict and the exported ONNX give the same answers on the test images."""
    commands = (
        ("evaluate", "resamples=5", "saliency=false"),
        ("predict", "input=tested.txt", "output=predicted.csv", "overwrite=true"),
        ("export", "output=exported.onnx"),
    )
    for line in commands:
        result = covid_xray(line[0], f"run={run}", *line[1:])
        assert result.returncode == 0, result.stderr
        if line[0] == "evaluate":
            table = pd.read_csv(run / "evaluation/test/predictions.csv")
            root = phantom_manifest(workplace).parent
            (workplace / "tested.txt").write_text("".join(f"{root / path}\n" for path in table["path"]))
    predicted = pd.read_csv(workplace / "predicted.csv")
    session = onnxruntime.InferenceSession(workplace / "exported.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    size, classes = int(metadata["image_size"]), json.loads(metadata["classes"])
    images = np.stack([resize(read_image(Path(file)), size) for file in predicted["path"]])[:, None]
    exported = session.run(["probabilities"], {"images": images})[0]
    for number, name in enumerate(classes):
        # Training, and so evaluate and predict, may compute in bfloat16; the exported file never does.
        assert list(predicted[f"p_{name}"]) == pytest.approx(list(table[f"p_{name}"]), abs=2e-2)
        assert list(predicted[f"p_{name}"]) == pytest.approx(exported[:, number].tolist(), abs=4e-2)
    accuracy = float((table["prediction"] == table["label"]).mean())
    assert accuracy == pytest.approx(json.loads((run / "metrics.json").read_text())["test/accuracy"])


def test_a_run_starts_from_another_run(covid_xray: Command, workplace: Path) -> None:
    settings = (*SMALL, "~schedule.phases.unfrozen_small")
    first = covid_xray(*settings, "run_dir=first")
    assert first.returncode == 0, first.stderr
    second = covid_xray(*settings, "run_dir=second", "weights=first")
    assert second.returncode == 0, second.stderr
    assert re.search(r"Weights: (\d+) of \1 tensors of the network from first/checkpoints/best.ckpt", second.stdout)
