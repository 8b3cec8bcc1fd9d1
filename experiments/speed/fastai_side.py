"""The contender fastai 2, in its own environment: ``python fastai_side.py JSON [options|train_bn=False|validate]``."""

import json
import sys
import warnings

import torch
from fastai.callback.channelslast import *  # noqa: F403  (adds methods to Learner)
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    Resize,
    ResizeMethod,
    accuracy,
    aug_transforms,
    resnet50,
    vision_learner,
)
from pacing import Pacer

warnings.filterwarnings("ignore")


class Pacing(Callback):
    """Reports every training batch, or every validation batch, to the pacer."""

    order = 100

    def __init__(self, validate: bool) -> None:
        self.pacer, self.validate = Pacer(), validate

    def after_batch(self) -> None:
        """Report a batch."""
        if self.training != self.validate:
            self.pacer.batch_done(len(self.yb[0]))

    def after_train(self) -> None:
        """Stop the clock when validation begins."""
        self.pacer.pause()

    def before_train(self) -> None:
        """Resume the clock when training continues."""
        self.pacer.go_on()


def main() -> None:
    """Train as in fastai's documentation; with ``options`` also channels-last and, on GPUs, bfloat16."""
    scenario, modes = json.loads(sys.argv[1]), sys.argv[2:]
    dls = ImageDataLoaders.from_folder(
        scenario["root"], valid="val", bs=scenario["batch"],
        item_tfms=Resize(scenario["size"], ResizeMethod.Squish), batch_tfms=aug_transforms(),
    )  # fmt: skip
    learn = vision_learner(dls, resnet50, pretrained=False, metrics=accuracy, train_bn="train_bn=False" not in modes)
    if "options" in modes:
        # fastai's mixed precision uses CUDA's autocast, which has no effect on a CPU.
        learn = learn.to_channelslast(use_amp=torch.cuda.is_available(), amp_mode="bf16")
    learn.freeze()
    if scenario["unfrozen"]:
        learn.unfreeze()
    pacing = Pacing("validate" in modes)
    with learn.no_bar():
        while "validate" in modes:
            learn.validate(cbs=[pacing])
        learn.fit_one_cycle(10000, 1e-5, cbs=[pacing])


if __name__ == "__main__":
    main()
