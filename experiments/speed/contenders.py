"""The contenders that run in this project's environment: ``python contenders.py NAME JSON``.

The JSON holds the fields of a `bench.Scenario`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from pacing import Pacer
from torch import nn
from torch.nn import functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class PacingCallback(Callback):
    """Reports every batch of ``covid-xray train`` to the pacer."""

    def __init__(self) -> None:
        self.pacer = Pacer()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resume the clock after a validation."""
        self.pacer.go_on()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report a batch; stop the clock after the last batch of an epoch."""
        self.pacer.batch_done(len(batch[1]))
        if batch_idx + 1 == trainer.num_training_batches:
            self.pacer.pause()


class Contiguous(Callback):
    """Uses the contiguous instead of the channels-last format, for network and images."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Change the format of the network and of the images."""
        pl_module.network = pl_module.network.to(memory_format=torch.contiguous_format)
        channels_last = pl_module.normalise
        pl_module.normalise = lambda images: channels_last(images).contiguous()


def train_with(*overrides: str) -> None:
    """Run ``covid-xray train`` with any settings and with the pacer."""
    from covid_xray.cli import main

    sys.argv[1:] = ["train", "+callbacks.pacer._target_=contenders.PacingCallback", *overrides]
    main()


def train(scenario: dict[str, Any], *overrides: str) -> None:
    """Run ``covid-xray train`` with its real data pipeline, all its callbacks, checkpoints and TensorBoard."""
    phase = "schedule.phases.frozen_small"
    train_with(
        "data=folder", f"data.root={scenario['root']}", "allow_leakage=true", "weights=null",
        *(f"~schedule.phases.{name}" for name in ("unfrozen_small", "frozen_large", "unfrozen_large")),
        f"{phase}.image_size={scenario['size']}", f"{phase}.batch_size={scenario['batch']}", f"{phase}.epochs=10000",
        f"{phase}.trains={'all' if scenario['unfrozen'] else 'head'}", f"{phase}.train_bn={scenario['train_bn']}",
        f"{phase}.max_lr=1e-5", "run_dir=run", *overrides,
    )  # fmt: skip


def bare(scenario: dict[str, Any], precision: str, memory_format: str, compiled: bool = False) -> None:
    """The ceiling: the same network and optimiser, on one synthetic batch that is already on the device."""
    pacer, network = Pacer(), our_network(scenario)
    network = network.to(DEVICE, memory_format=getattr(torch, memory_format))
    images = torch.randn(scenario["batch"], 3, scenario["size"], scenario["size"], device=DEVICE)
    images = images.contiguous(memory_format=getattr(torch, memory_format))
    labels = torch.arange(scenario["batch"], device=DEVICE) % 3
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    forward = torch.compile(network) if compiled else network
    while True:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pacer.batch_done(len(labels))


def reference(scenario: dict[str, Any]) -> None:
    """A loop like torchvision's reference scripts: ImageFolder, transforms v2, float32, SGD, their metrics."""
    from torch.utils.data import DataLoader
    from torchvision import models
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    pacer = Pacer()
    augment = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize((scenario["size"],) * 2, antialias=True),
            v2.RandomPerspective(0.2),
            v2.RandomAffine(10, scale=(1.0, 1.1)),
            v2.ColorJitter(0.2, 0.2),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = DataLoader(
        ImageFolder(Path(scenario["root"]) / "train", augment), scenario["batch"], shuffle=True, drop_last=True,
        num_workers=min(16, os.cpu_count() or 1), pin_memory=DEVICE == "cuda",
    )  # fmt: skip
    network = models.resnet50(num_classes=3).to(DEVICE)
    if not scenario["unfrozen"]:
        for name, parameter in network.named_parameters():
            is_norm = isinstance(network.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)
            parameter.requires_grad_(name.startswith("fc") or (is_norm and scenario["train_bn"]))
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), 0.01, 0.9, weight_decay=1e-4)
    while True:
        network.train()
        for images, labels in loader:
            output = network(images.to(DEVICE, non_blocking=True))
            loss = F.cross_entropy(output, labels := labels.to(DEVICE, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            _ = loss.item(), (output.argmax(1) == labels).float().mean().item()
            pacer.batch_done(len(labels))


def bare_forward(scenario: dict[str, Any]) -> None:
    """The ceiling of evaluation: forward passes only, channels-last, in bfloat16 if the hardware computes in it."""
    from covid_xray.hardware import best_precision

    pacer, network = Pacer(), our_network(scenario)
    network = network.to(DEVICE, memory_format=torch.channels_last).eval()
    images = torch.randn(scenario["batch"], 3, scenario["size"], scenario["size"], device=DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)
    while True:
        autocast = torch.autocast(DEVICE, torch.bfloat16, enabled=best_precision(DEVICE) == "bf16-mixed")
        with torch.inference_mode(), autocast:
            network(images)
        pacer.batch_done(len(images))


def predict(scenario: dict[str, Any]) -> None:
    """The work of ``covid-xray predict`` for every image: read, resize, run the network of a run."""
    _infer(scenario, {})


def evaluate(scenario: dict[str, Any]) -> None:
    """The work of ``covid-xray evaluate`` for every image: the same, and once more for each of its shortcut tests."""
    from covid_xray.data.images.resize import resize
    from covid_xray.probes.shortcuts import blacken_centre, keep_centre, remove_border

    def without_border(images: np.ndarray) -> np.ndarray:
        return np.stack([resize(image, images.shape[1]) for image in remove_border(images)])

    conditions = {"centre blacked out": blacken_centre, "centre only": keep_centre, "border removed": without_border}
    _infer(scenario, conditions)


def _infer(scenario: dict[str, Any], conditions: dict[str, Any]) -> None:
    from covid_xray.runs.inference import infer
    from covid_xray.runs.load import load_run

    run, pacer = load_run(scenario["run"], "last"), Pacer()
    images = sorted(map(str, Path(scenario["root"]).glob("train/*/*.*")))
    files = [images[index % len(images)] for index in range(scenario["images"])]
    while True:
        infer(run, files, conditions)
        pacer.batch_done(len(files) * (1 + len(conditions)))


def our_network(scenario: dict[str, Any]) -> nn.Module:
    """A TransferResNet, frozen as in the scenario."""
    from covid_xray.networks.layer_groups import freeze_for
    from covid_xray.networks.resnet import TransferResNet
    from covid_xray.schedule import Phase

    network = TransferResNet(num_classes=3)
    trains = "all" if scenario["unfrozen"] else "head"
    phase = Phase(scenario["size"], scenario["batch"], 1, trains, 1e-5, scenario["train_bn"])
    network.train()
    freeze_for(phase, network.layer_groups())
    return network


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    if name != "train_with":
        arguments[0] = json.loads(arguments[0])
    {each.__name__: each for each in (train_with, train, bare, reference, bare_forward, predict, evaluate)}[name](
        *arguments
    )
