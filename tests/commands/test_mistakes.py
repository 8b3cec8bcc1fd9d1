"""A user's mistake gets one sentence and exit code 2, never a traceback."""

from pathlib import Path

import pytest
import torch
from tiny_run import InProcess, command, mistake, tiny_run

__all__ = ["command", "tiny_run"]
PHASE = "schedule.phases.frozen_small"
# Without a run.
MISTAKES = {
    "unknown command": ("fit", "no command"),
    "unknown key": ("train foo=1", "foo"),
    "unknown group option": ("train model=vgg", "vgg"),
    "own configuration missing": ("train --config-dir nowhere model=mine", "nowhere"),
    "unknown experiment": ("train experiment=nothing", "nothing"),
    "override syntax": ("train seed=[1", "no viable alternative"),
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
    "weights name": ("train experiment=tiny weights=IMAGENET9", "neither a file"),
    "weights file": ("train experiment=tiny weights=none.pt", "none.pt does not exist"),
    "dropout": ("train experiment=tiny model.dropout=[0.5]", "model.dropout"),
    "hidden": ("train experiment=tiny model.hidden=0", "model.hidden"),
    "unknown model key": ("train experiment=tiny +model.depth=3", "model: "),
    "run folder below a file": ("train run_dir=/dev/null/run", "/dev/null/run cannot be written: Not a directory"),
    "run folder of a long name": (f"train run_dir={'x' * 300}", "x... is too long for the path of a file"),
    "folder missing": ("train data=folder data.root=nowhere", "data.root=nowhere is no folder"),
    "folder of a long name": (f"train data=folder data.root={'x' * 300}", "x... is too long for the path of a file"),
    "folder not given": ("train data=folder", "data.root"),
    "folder empty": ("train data=folder data.root=empty", "holds no images"),
    "patient expression": ("train data=folder data.root=. data.patient_regex='('", "no regular expression"),
    "manifest missing": ("train data=manifest data.manifest=none.csv", "none.csv does not exist"),
    "split": ("train experiment=tiny split.by=hospital", "split.by must be"),
    "validation share": ("train experiment=tiny split.val_share=0", "split.val_share"),
    "fold": ("train experiment=tiny split.folds=5 split.fold=5", "split.fold must be"),
    "folds": ("train experiment=tiny split.folds=50", "too few patients"),
    "workers": ("train experiment=tiny datamodule.num_workers=-1", "datamodule.num_workers"),
    "normalization": ("train experiment=tiny datamodule.normalization=zscore", "datamodule.normalization"),
    "phantoms": ("train experiment=tiny data.patients=1", "data.patients"),
    "shortcut": ("train experiment=tiny data.shortcut=2", "data.shortcut must be a number from 0 to 1"),
    "test shortcut": ("train experiment=tiny data.test_shortcut=0", "needs data.shortcut"),
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
    "no GPU": ("train experiment=tiny trainer.accelerator=gpu", "trainer: "),
    "fixed trainer setting": (
        "train experiment=tiny +trainer.max_epochs=3",
        "trainer.max_epochs is set by the project",
    ),
    "find-lr phase": ("find-lr experiment=tiny phase=third", "phase='third'"),
    "find-lr steps": ("find-lr experiment=tiny steps=3", "steps must be"),
    "find-lr rates": ("find-lr experiment=tiny start_lr=20", "start_lr"),
    "given splits": ("train experiment=tiny split.given=drop", "split.given must be keep or ignore"),
    "rates": ("train experiment=tiny schedule.rates=fast", "schedule.rates must be one of discriminative, uniform"),
    "sizes": ("train experiment=tiny schedule.sizes=huge", "schedule.sizes must be one of progressive, first, last"),
    "rate factor": ("train experiment=tiny schedule.lr_scale=0", "schedule.lr_scale must be a number above 0"),
    "mask": ("train experiment=tiny mask_centre=1", "mask_centre must be above 0 and below 1"),
    "needed callback": ("train experiment=tiny callbacks.freezing=null", "callbacks.freezing=null: the schedule needs"),
    "no checkpoint callback": ("train experiment=tiny +callbacks.checkpoint=null", "callbacks.checkpoint=null"),
    "weights of a folder": ("train experiment=tiny weights=.", "neither a file"),
    "no logger target": ("train experiment=tiny ~logger.tensorboard._target_", "logger.tensorboard must be a mapping"),
    "logger of another kind": ("train experiment=tiny +logger._target_=x", "logger._target_ must be a mapping"),
    "no such logger": ("train experiment=tiny logger=[tensorboard,comet]", "use csv, mlflow, none, tensorboard, wandb"),
    "logger setting": ("train experiment=tiny +logger.tensorboard.speed=3", "logger: TensorBoardLogger cannot be made"),
    "mlflow address": (
        "train experiment=tiny logger=mlflow logger.mlflow.tracking_uri=x://y",
        "logger=mlflow: x://y cannot be used",
    ),
    "trainer setting": ("train experiment=tiny +trainer.speed=3", "trainer: "),
    "audit split": ("audit data=phantom_tiny output=x split.by=hospital", "split.by must be"),
    "audit data": ("audit output=x data=folder", "data.root must be given"),
}
# With a finished run.
RUN_MISTAKES = {
    "no run": ("evaluate", "run must be given"),
    "no folder": ("evaluate run=nowhere", "is no folder"),
    "no run folder": ("evaluate run=data", "is no run folder"),
    "checkpoint": ("evaluate run={run} checkpoint=first", "checkpoint must be best or last"),
    "split": ("evaluate run={run} subset=all", "subset must be"),
    "resamples": ("evaluate run={run} resamples=0", "resamples must be"),
    "tta": ("evaluate run={run} tta=maybe", "tta must be"),
    "name": ("evaluate run={run} name=../x", "name must be"),
    "prevalence": ("evaluate run={run} prevalence={{covid-19:2}}", "prevalence.covid-19 must be"),
    "prevalence of no class": ("evaluate run={run} prevalence={{flu:0.5}} saliency=false", "'flu' is no class"),
    "accelerator": ("evaluate run={run} accelerator=abacus", "accelerator must be"),
    "data": ("evaluate run={run} data=manifest data.manifest=none.csv", "none.csv does not exist"),
    "data not given": ("evaluate run={run} data=folder", "data.root must be given"),
    "one run to compare": ("compare runs=[{run}]", "at least two"),
    "no input": ("predict run={run} output=x.csv", "input must be given"),
    "input missing": ("predict run={run} input=nowhere output=x.csv", "input=nowhere does not exist"),
    "nothing to read": ("predict run={run} input=empty-folder output=x.csv", "holds no images"),
    "format": ("predict run={run} input=pictures output=x.xlsx", "format must be csv or jsonl"),
    "folder as output": ("predict run={run} input=pictures output=pictures format=csv", "is a folder"),
    "confidence": ("predict run={run} input=pictures output=x.csv confidence=2", "confidence must be"),
    "batch size": ("predict run={run} input=pictures output=x.csv batch_size=0", "batch_size must be"),
    "run": ("predict run=pictures input=pictures output=x.csv", "is no run folder"),
    "export format": ("export run={run} format=tflite", "format must be onnx, safetensors or bundle"),
    "tolerance": ("export run={run} tolerance=0", "tolerance must be"),
    "export run": ("export run=pictures", "is no run folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_sentence_and_exit_code_2(name: str, command: InProcess, workplace: Path) -> None:
    if name == "no GPU" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (workplace / "empty").mkdir(exist_ok=True)
    line, expected = MISTAKES[name]
    mistake(command(line), expected)


@pytest.mark.parametrize("name", RUN_MISTAKES)
def test_one_sentence_about_a_run(name: str, command: InProcess, tiny_run: Path, workplace: Path) -> None:
    for folder in ("empty-folder", "pictures"):
        (workplace / folder).mkdir(exist_ok=True)
    if not any((workplace / "pictures").iterdir()):
        (workplace / "pictures" / "0.png").write_text("no image")
    line, expected = RUN_MISTAKES[name]
    mistake(command(line.format(run=tiny_run)), expected)
