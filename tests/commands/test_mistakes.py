"""A user's mistake gets one sentence and exit code 2, never a traceback."""

import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from covid_xray import cli

PHASE = "schedule.phases.frozen_small"
MISTAKES = {
    "unknown command": ("fit", "no command"),
    "unknown key": ("train foo=1", "foo"),
    "unknown group option": ("train model=vgg", "vgg"),
    "unknown experiment": ("train experiment=nothing", "nothing"),
    "override syntax": ("train seed==", "seed"),
    "group set to null": ("train data=null", "Got NoneType"),
    "image size too small": (f"train {PHASE}.image_size=16", f"{PHASE}.image_size must be"),
    "image size as text": (f"train {PHASE}.image_size=big", f"{PHASE}.image_size must be"),
    "batch size of one": (f"train {PHASE}.batch_size=1", f"{PHASE}.batch_size must be"),
    "no epochs": (f"train {PHASE}.epochs=0", f"{PHASE}.epochs must be"),
    "half an epoch": (f"train {PHASE}.epochs=1.5", f"{PHASE}.epochs must be"),
    "unknown layer group": (f"train experiment=tiny {PHASE}.trains=tail", "'tail' is no layer group"),
    "trains nothing": (f"train {PHASE}.trains=[]", f"{PHASE}.trains must be"),
    "negative rate": (f"train {PHASE}.max_lr=-1", f"{PHASE}.max_lr must be"),
    "rate as text": (f"train {PHASE}.max_lr=fast", f"{PHASE}.max_lr must be"),
    "slice of text": (f"train {PHASE}.max_lr='slice(a)'", f"{PHASE}.max_lr must be"),
    "four rates": (f"train experiment=tiny {PHASE}.max_lr=[1e-3,1e-3,1e-3,1e-3]", "max_lr has 4 values"),
    "train_bn as text": (f"train {PHASE}.train_bn=maybe", f"{PHASE}.train_bn must be"),
    "unknown phase key": (f"train +{PHASE}.speed=3", f"{PHASE}.speed is unknown"),
    "pct_start": ("train schedule.pct_start=1", "schedule.pct_start"),
    "div": ("train schedule.div=0.5", "schedule.div "),
    "beta1": ("train schedule.beta1=[1.0,0.9,0.9]", "schedule.beta1"),
    "architecture": ("train experiment=tiny model.architecture=resnet19", "model.architecture='resnet19'"),
    "weights name": ("train experiment=tiny model.weights=IMAGENET9", "neither a file"),
    "weights file": ("train experiment=tiny model.weights=none.pt", "none.pt does not exist"),
    "dropout": ("train experiment=tiny model.dropout=[0.5]", "model.dropout"),
    "hidden": ("train experiment=tiny model.hidden=0", "model.hidden"),
    "unknown model key": ("train experiment=tiny +model.depth=3", "model: "),
    "folder missing": ("train data=folder data.root=nowhere", "data.root=nowhere is no folder"),
    "folder not given": ("train data=folder", "data.root"),
    "folder empty": ("train data=folder data.root=empty", "holds no images"),
    "patient expression": ("train data=folder data.root=. data.patient_regex='('", "no regular expression"),
    "manifest missing": ("train data=manifest data.manifest=none.csv", "none.csv does not exist"),
    "split": ("train experiment=tiny data.split=hospital", "data.split must be"),
    "validation share": ("train experiment=tiny data.val_share=0", "data.val_share"),
    "fold": ("train experiment=tiny data.folds=5 data.fold=5", "data.fold must be"),
    "folds": ("train experiment=tiny data.folds=50", "too few patients"),
    "workers": ("train experiment=tiny data.num_workers=-1", "data.num_workers"),
    "normalization": ("train experiment=tiny data.normalization=zscore", "data.normalization"),
    "phantoms": ("train experiment=tiny data.patients=1", "data.phantom.patients"),
    "batch above images": (f"train experiment=tiny {PHASE}.batch_size=1000", "more than the"),
    "augmentation range": ("train experiment=tiny augment.transforms.0.warp=0.7", "ResizeWarp needs warp"),
    "augmentation class": ("train experiment=tiny augment.transforms.0._target_=no.such.Thing", "no.such.Thing"),
    "resume": ("train experiment=tiny resume=yes-please", "resume must be"),
    "compile": ("train experiment=tiny compile=fast", "compile must be null or one of default"),
    "select": ("train experiment=tiny checkpoint.select=first", "checkpoint.select"),
    "every_minutes": ("train experiment=tiny checkpoint.every_minutes=0", "checkpoint.every_minutes"),
    "seed": ("train experiment=tiny seed=-1", "seed must be"),
    "accelerator": ("train experiment=tiny trainer.accelerator=abacus", "trainer: "),
    "precision": ("train experiment=tiny trainer.precision=7", "trainer: "),
    "profiler": ("train experiment=tiny trainer.profiler=stopwatch", "trainer.profiler must be one of simple"),
    "no GPU": ("train experiment=tiny trainer=gpu", "trainer: "),
    "fixed trainer setting": (
        "train experiment=tiny +trainer.max_epochs=3",
        "trainer.max_epochs is set by the project",
    ),
    "find-lr phase": ("find-lr experiment=tiny phase=third", "phase='third'"),
    "find-lr steps": ("find-lr experiment=tiny steps=3", "steps must be"),
    "find-lr rates": ("find-lr experiment=tiny start_lr=20", "start_lr"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_sentence_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line, expected = MISTAKES[name]
    if name == "no GPU":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["covid-xray", *line.split(" ")])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    out, err = capfd.readouterr()
    assert exit_info.value.code == 2, err
    assert expected in err
    assert "Traceback" not in err + out
    assert err.startswith("covid-xray: ")
    assert err.count("\n") == 1, "one line"
