"""Every wrong use of a network, weights, loss, sampler, mixing, averaging or Trainer setting gets one sentence.

`test_mistakes` has those of the other settings.
"""

from pathlib import Path

import pytest
import torch
from tiny_run import InProcess, command, mistake

__all__ = ["command"]
SMALL = "~schedule.phases.frozen_large ~schedule.phases.unfrozen_large"
PHASE = "schedule.phases.frozen_small"
TIMM = "model=timm model.architecture="
CALLBACK = "+callbacks.mine._target_=lightning.pytorch.callbacks."
# By name: settings, and a part of the sentence.
WRONG = {
    # networks
    "network": ("model=vgg", "vgg"),
    "network of nothing": ("model._target_=no.such.Network", "model: no.such.Network cannot be imported"),
    "network without groups": ("model._target_=torch.nn.Identity", "model: Identity has no layer_groups"),
    "network setting": ("+model.depth=3", "model: "),
    "timm architecture": (f"{TIMM}resnett", "is no network of timm"),
    "timm architecture not given": ("model=timm", "model.architecture must be given"),
    "timm groups": (f"{TIMM}convnext_atto model.groups=1", "model.groups must be a whole number of at least 2"),
    "timm head": (f"{TIMM}convnext_atto model.head=mlp", "model.head must be linear or fastai"),
    "timm size": (f"{TIMM}convnext_atto model.input_size=64", "accepts any size; leave input_size out"),
    "timm size and schedule": (f"{TIMM}vit_tiny_patch16_224", "TimmNetwork accepts images of 224 pixels only"),
    "timm head without map": (
        f"{TIMM}vit_tiny_patch16_224 model.input_size=64 model.head=fastai",
        "model.head=fastai needs a feature map",
    ),
    "darkcovidnet and schedule": ("model=darkcovidnet", "DarkCovidNet accepts images of 256 pixels only"),
    "darkcovidnet size": ("model=darkcovidnet model.input_size=16", "model.input_size must be a whole number"),
    "covidnet size": ("model=covidnet model.input_size=100", "model.input_size must be a multiple of 32"),
    # weights
    "weights that are text": ("weights=text.pt", "weights file text.pt cannot be read as tensors"),
    "weights of something else": ("weights=other.pt", "does not fit"),
    "weights without tensors": ("weights=number.pt", "holds no state dict"),
    "weights of no network": (f"model=darkcovidnet model.input_size=32 weights=V1 {SMALL}", "has no load_weights()"),
    # losses
    "loss": ("loss=hinge", "hinge"),
    "loss weights": ("loss.class_weights=heavy", "loss.class_weights must be balanced"),
    "loss class": ("loss.class_weights={flu:2}", "'flu' is no class"),
    "loss weight": ("loss.class_weights={normal:-1}", "loss.class_weights.normal must be a number above 0"),
    "smoothing": ("loss.label_smoothing=1", "loss.label_smoothing must be"),
    "smoothing as text": ("loss.label_smoothing=much", "loss.label_smoothing must be a number"),
    "gamma": ("loss=focal loss.gamma=-1", "loss.gamma must be"),
    "loss setting": ("+loss.margin=1", "loss: "),
    "loss without sources": ("loss=group_dro", "all images have one source (phantom)"),
    "loss whose sources are the labels": ("loss=group_dro data.shortcut=1", "no source has both covid-19 and normal"),
    "loss by source and parts": (f"loss=group_dro data.shortcut=0.3 {PHASE}.accumulate=2", "needs whole batches"),
    # adversary
    "adversary": ("adversary=label", "label"),
    "adversary weight": ("adversary=source data.shortcut=0.3 adversary.weight=0", "adversary.weight must be"),
    "adversary without sources": ("adversary=source", "all images have one source (phantom)"),
    "adversary and mixing": ("adversary=source data.shortcut=0.3 mixing=mixup", "does not work with mixing"),
    "adversary and compile": ("adversary=source data.shortcut=0.3 compile=default", "does not work with compile"),
    # samplers and mixing
    "sampler": ("sampler=weighted", "weighted"),
    "sampler class": ("sampler=batch_share sampler.class_name=flu", "sampler.class_name='flu' is no class"),
    "sampler without sources": ("sampler=independent", "all images have one source (phantom)"),
    "sampler share": ("sampler=batch_share sampler.share=2", "sampler.share must be"),
    "mixing": ("mixing=mosaic", "mosaic"),
    "mixup alpha": ("mixing=mixup mixing.alpha=0", "mixing.alpha must be"),
    "cutmix alpha": ("mixing=cutmix mixing.alpha=big", "mixing.alpha must be"),
    "mixing and compile": ("mixing=mixup compile=default", "mixing does not work with compile"),
    # crops
    "crop": ("crop=lungs", "lungs"),
    "crop of all": ("crop=frame crop.left=0.6 crop.right=0.4", "crop.left and crop.right leave nothing"),
    "crop without its column": ("crop=mask", "crop.column='mask' is no column of the data"),
    # averaging and accumulation
    "averaging": ("averaging=swa", "swa"),
    "averaging decay": ("averaging=ema averaging.decay=1", "averaging.decay must be above 0 and below 1"),
    "averaging decay as text": ("averaging=ema averaging.decay=slow", "averaging.decay must be above 0 and below 1"),
    "averaging setting": ("averaging=ema +averaging.every=2", "averaging: "),
    "accumulation": (f"{PHASE}.accumulate=0", f"{PHASE}.accumulate must be a whole number of at least 1"),
    "accumulation and batch": (f"{PHASE}.accumulate=3", f"{PHASE}.accumulate=3 must divide batch_size=8"),
    "accumulation of single images": (f"{PHASE}.accumulate=8", "into equal parts of at least 2 images"),
    "accumulation of Lightning": ("+trainer.accumulate_grad_batches=2", "set accumulate in the phases"),
    # the Trainer
    "max_epochs": ("+trainer.max_epochs=3", "trainer.max_epochs is set by the project"),
    "max_steps": ("+trainer.max_steps=3", "trainer.max_steps=3 would change the schedule"),
    "max_time": ("+trainer.max_time=00:01:00:00", "would change the schedule"),
    "fast_dev_run": ("+trainer.fast_dev_run=true", "trainer.fast_dev_run=True would change the schedule"),
    "limit_train_batches": ("+trainer.limit_train_batches=2", "an epoch has all images of a split"),
    "overfit_batches": ("+trainer.overfit_batches=1", "an epoch has all images of a split"),
    "val_check_interval": ("+trainer.val_check_interval=0.5", "validation follows every epoch"),
    "check_val_every_n_epoch": ("+trainer.check_val_every_n_epoch=2", "validation follows every epoch"),
    "trainer's logger": ("+trainer.logger=false", "trainer.logger is set by the project"),
    "trainer's progress bar": ("+trainer.enable_progress_bar=true", "use callbacks.console"),
    "precision of the weights": ("trainer.precision=bf16-true", "trainer.precision must be auto"),
    "clipping": ("+trainer.gradient_clip_val=1 +trainer.gradient_clip_algorithm=hard", "trainer: "),
    "two devices": ("trainer.accelerator=cpu trainer.devices=2", "use trainer=ddp"),
    "early stopping": (f"{CALLBACK}EarlyStopping +callbacks.mine.monitor=val/loss", "EarlyStopping would change"),
    "stochastic averaging": (f"{CALLBACK}StochasticWeightAveraging +callbacks.mine.swa_lrs=1e-3", "use averaging=ema"),
    "Lightning's averaging": (f"{CALLBACK}EMAWeightAveraging", "use averaging=ema"),
    "callback": ("+callbacks.mine._target_=no.such.Callback", "no.such.Callback"),
    # loggers
    "logger": ("logger=[tensorboard,comet]", "comet"),
}


@pytest.fixture(scope="module", autouse=True)
def weights(workplace: Path) -> None:
    """Files that are no weights of a network here."""
    (workplace / "text.pt").write_text("no tensors")
    torch.save({"layer.weight": torch.zeros(2, 2)}, workplace / "other.pt")
    torch.save(3, workplace / "number.pt")


@pytest.mark.parametrize("name", WRONG)
def test_one_sentence_and_exit_code_2(name: str, command: InProcess, workplace: Path) -> None:
    settings, expected = WRONG[name]
    logger = "" if "logger=" in settings else "logger=none "
    folder = f"wrong-{list(WRONG).index(name)}"
    mistake(command(f"train experiment=tiny run_dir={folder} {logger}{settings}"), expected)
    assert not (workplace / folder).exists(), "a run folder is left behind"


def test_at_least_forty_wrong_uses_and_every_group_of_settings() -> None:
    assert len(WRONG) >= 40
    lines = " ".join(settings for settings, _ in WRONG.values())
    groups = (
        "model",
        "weights",
        "loss",
        "sampler",
        "mixing",
        "adversary",
        "averaging",
        "trainer",
        "callbacks",
        "logger",
    )
    for group in groups:
        assert f"{group}=" in lines or f"{group}." in lines
