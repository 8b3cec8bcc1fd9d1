"""Cached features of a frozen body: the weights of a run without a cache, exact on resume, each image computed once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import differences
from lightning import Trainer
from test_api import Small, make_data, records
from test_fit import DEFAULTS, AtHook, load, terminate
from torch import Tensor, nn

import covid_xray as cx
from covid_xray.data.augmentation import Augmentation, ResizeWarp
from covid_xray.networks.heads import fastai_head
from covid_xray.networks.layer_groups import LayerGroups
from covid_xray.training.callbacks.checkpoint import TrainingStopped
from covid_xray.training.feature_cache import FeatureCache
from covid_xray.training.mixing import mixup

__all__ = ["records"]
SETTINGS: dict[str, Any] = {**DEFAULTS, "trainer": {"accelerator": "cpu", "precision": "32-true"}}


class Counting(Small):
    """Counts the images that pass the body."""

    images = 0

    def features(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return super().features(images)


class Pooled(nn.Module):
    """The same with fastai's head, which begins with pooling."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.head = Counting(num_classes), fastai_head(8, num_classes, 4, (0.25, 0.5))
        del self.body.top

    @property
    def images(self) -> int:
        return self.body.images

    def layer_groups(self) -> LayerGroups:
        return {"stem": [self.body], "top": [self.head]}

    def features(self, images: Tensor) -> Tensor:
        return self.body.features(images)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def schedule(cached: bool, epochs: int = 3) -> cx.Schedule:
    top = cx.Phase(32, 8, epochs, "top", 1e-2, train_bn=False, cached_features=cached)
    return cx.Schedule({"top": top, "all": cx.Phase(32, 8, 1, "all", 1e-3)})


def fit(
    records: pd.DataFrame, folder: Path, cached: bool, kind: type[Counting | Pooled] = Counting, **settings: Any
) -> Counting | Pooled:
    torch.manual_seed(0)
    network = kind(3)
    cx.fit(network, make_data(records, schedule(cached)), folder, **{**SETTINGS, **settings})
    return network


@pytest.mark.parametrize(("kind", "precision"), [(Counting, "32-true"), (Pooled, "bf16-mixed")])
def test_weights_equal_those_without_a_cache(
    records: pd.DataFrame, tmp_path: Path, kind: type[Counting | Pooled], precision: str
) -> None:
    trainer = {"accelerator": "cpu", "precision": precision}
    without, cached = (fit(records, tmp_path / str(each), each, kind, trainer=trainer) for each in (False, True))
    for part in ("state_dict", "optimizer_states", "callbacks"):
        assert differences(load(tmp_path / "False")[part], load(tmp_path / "True")[part]) == [], part
    epochs, batches = 3, int((records["split"] == "train").sum()) // 8
    val, test = (int((records["split"] == split).sum()) for split in ("val", "test"))
    others = 8 * batches + val + test  # the last phase, and the test
    assert without.images == epochs * (8 * batches + val) + others
    # An image that the first epoch left out, because it fills no batch, makes its later batch pass again.
    assert 8 * batches + val <= cached.images - others <= 2 * 8 * batches + val


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_do_not_depend_on_the_place_in_a_batch(dtype: torch.dtype) -> None:
    """What the exact resume of a phase with cached features rests on."""
    network = cx.create_network("resnet18", 3).to(memory_format=torch.channels_last).eval()
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        body: Callable[[Tensor], Tensor] = network.features  # type: ignore[assignment]
        features, moved = body(images), body(images[order])
    assert features.dtype == dtype
    assert torch.equal(features[order], moved)


def test_stopped_and_resumed_bit_for_bit(records: pd.DataFrame, tmp_path: Path) -> None:
    fit(records, tmp_path / "whole", True)
    later = AtHook("on_before_backward", lambda trainer: None)

    def at_second_epoch(trainer: Trainer, *_: Any, **__: Any) -> None:
        if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 2:
            terminate(trainer)

    later.on_before_backward = at_second_epoch  # type: ignore[method-assign]
    for hook in (AtHook("on_before_backward", terminate), later):
        with pytest.raises(TrainingStopped):
            fit(records, tmp_path / "run", True, callbacks=[hook])
    fit(records, tmp_path / "run", True)
    for part in ("state_dict", "optimizer_states"):
        assert differences(load(tmp_path / "whole")[part], load(tmp_path / "run")[part]) == [], part


def test_images_of_the_phase_are_not_augmented(records: pd.DataFrame) -> None:
    data = cx.XrayDataModule(records, schedule(True), Augmentation([ResizeWarp()]), num_workers=0)
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()
    assert {sample.seed for batch in loader.batch_sampler for sample in batch} == {None}  # type: ignore[union-attr]


class Random(nn.Module):
    """A body with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)), nn.Flatten()

    def features(self, images: Tensor) -> Tensor:
        maps: Tensor = self.body(images)
        return maps


def test_random_layers_of_the_body_are_off_and_modes_are_kept() -> None:
    network = Random().train()
    network.body[0].eval()
    cache = FeatureCache(network)  # type: ignore[arg-type]
    images = torch.arange(2 * 25, dtype=torch.uint8).view(2, 1, 5, 5)
    first = cache.logits(images, lambda greys: greys.float().expand(-1, 3, -1, -1))
    assert torch.equal(first[0], first[0].clone())
    assert torch.equal(first, network.eval().body(images.float().expand(-1, 3, -1, -1)).flatten(1))
    assert len(cache) == 2
    network.train()
    network.body[0].eval()
    cache.logits(255 - images, lambda greys: greys.float().expand(-1, 3, -1, -1))
    assert [module.training for module in network.body] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_bn": True}, "cached_features needs train_bn to be false"),
        ({"accumulate": 2}, "accumulate to be 1"),
        ({"cached_features": "yes"}, "cached_features must be true or false"),
        ({"trains": "all"}, r"schedule\.phases\.only\.cached_features needs trains to be top"),
    ],
)
def test_a_phase_whose_features_change_is_refused(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"trains": "top", "max_lr": 1e-2, "train_bn": False, "cached_features": True}
    with pytest.raises(cx.UserError, match=message):
        cx.Schedule({"only": cx.Phase(32, 8, 1, **{**settings, **changes})}).check(("stem", "top"))


def test_mixed_images_are_refused(records: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(cx.UserError, match="works only with mixing=none, adversary=none and compile=null"):
        fit(records, tmp_path / "run", True, mixing=mixup(3))
