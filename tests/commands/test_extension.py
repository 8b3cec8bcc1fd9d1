"""Networks, losses, samplers and mixing by one setting each: trained, killed, resumed bit for bit, evaluated."""

import re
from pathlib import Path

import pytest
from conftest import Command, differences, load_state
from tiny_run import InProcess, command, mistake

__all__ = ["command"]
SIZE = [f"schedule.phases.{name}.image_size=64" for name in ("frozen_small", "unfrozen_small")]
SMALL = ("train", "experiment=tiny", "logger=none", "~schedule.phases.frozen_large", "~schedule.phases.unfrozen_large")
TIMM = "model=timm model.architecture="
CASES = {
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
    states = [load_state(workplace / f"{kind}-{folder}" / "state-epoch1-rank0.pt") for kind in ("whole", "killed")]
    assert differences(states[0], states[1]) == []
    if name in ("vit", "darkcovidnet", "densenet"):
        evaluated = covid_xray("evaluate", f"run=whole-{folder}", "resamples=5")
        assert evaluated.returncode == 0, evaluated.stderr
        exported = covid_xray("export", f"run=whole-{folder}")
        assert exported.returncode == 0, exported.stderr


def test_a_run_starts_from_another_run(covid_xray: Command, workplace: Path) -> None:
    settings = (*SMALL, "~schedule.phases.unfrozen_small")
    first = covid_xray(*settings, "run_dir=first")
    assert first.returncode == 0, first.stderr
    second = covid_xray(*settings, "run_dir=second", "weights=first")
    assert second.returncode == 0, second.stderr
    assert re.search(r"Weights: (\d+) of \1 tensors of the network from first/checkpoints/best.ckpt", second.stdout)


MISTAKES = {
    "network size": ("model=darkcovidnet", "DarkCovidNet accepts images of 256 pixels only"),
    "input size": ("model=covidnet model.input_size=100", "model.input_size must be a multiple of 32"),
    "architecture": (f"{TIMM}resnett", "is no network of timm"),
    "architecture not given": ("model=timm", "model.architecture must be given"),
    "loss weights": ("loss.class_weights=heavy", "loss.class_weights must be balanced"),
    "loss class": ("loss.class_weights={flu:2}", "'flu' is no class"),
    "smoothing": ("loss.label_smoothing=1", "loss.label_smoothing must be"),
    "gamma": ("loss=focal loss.gamma=-1", "loss.gamma must be"),
    "unknown loss": ("loss=hinge", "hinge"),
    "sampler class": ("sampler=batch_share sampler.class_name=flu", "sampler.class_name='flu' is no class"),
    "sampler share": ("sampler=batch_share sampler.share=2", "sampler.share must be"),
    "alpha": ("mixing=mixup mixing.alpha=0", "mixing.alpha must be"),
    "mixing and compile": ("mixing=mixup compile=default", "mixing does not work with compile"),
    "weights of no network": ("model=darkcovidnet model.input_size=32 weights=IMAGENET1K_V1", "has no load_weights()"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, command: InProcess) -> None:
    line, expected = MISTAKES[name]
    size = "~schedule.phases.frozen_large ~schedule.phases.unfrozen_large" if "weights=" in line else ""
    mistake(command(f"train experiment=tiny logger=none {line} {size}".strip()), expected)
