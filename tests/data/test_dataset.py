"""Batches of the loader are the same with and without a store, with any number of workers."""

from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.augmentation import Augmentation, LogitBrightnessContrast, ResizeWarp
from covid_xray.data.cache import open_store
from covid_xray.data.dataset import XrayDataset, collate
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.images.resize import resize
from covid_xray.data.phantom import draw_phantom
from covid_xray.data.sampling import TrainBatches

ARTICLE = Augmentation([ResizeWarp(), LogitBrightnessContrast()])
FOREIGN = Augmentation([A.RandomResizedCrop((40, 40), p=1.0), ResizeWarp(), A.CoarseDropout(p=1.0), A.RandomGamma()])
STORED = 96


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("phantoms")
    for number in range(24):
        drawn = draw_phantom(("normal", "covid-19", "pneumonia")[number % 3], number, 0, 150)
        write_png(folder / f"{number:02d}.png", drawn[: 110 + number])
    return sorted(map(str, folder.glob("*.png")))


@pytest.mark.parametrize("augment", [ARTICLE, FOREIGN], ids=["article", "foreign"])
@pytest.mark.parametrize("size", [STORED, 64, 48])
def test_cache_and_workers_change_no_pixel(files: list[str], tmp_path: Path, augment: Augmentation, size: int) -> None:
    batches = {
        (stored, workers): list(
            _loader(_dataset(files, augment, tmp_path / "cache" if stored else None), size, workers)
        )
        for stored in (True, False)
        for workers in (0, 2)
    }
    first, *others = batches.values()
    assert first[0][0].shape == (8, 1, size, size)
    assert first[0][0].dtype == torch.uint8
    for other in others:
        for (images, labels), (others_images, others_labels) in zip(first, other, strict=True):
            assert torch.equal(images, others_images)
            assert torch.equal(labels, others_labels)


def test_resizing_twice_is_resizing_once_within_a_grey_level(files: list[str]) -> None:
    """Where the store enlarges no side, only the rounding between the two steps differs."""
    for file in files:
        image = np.repeat(np.repeat(read_image(file), 5, axis=0), 5, axis=1)
        twice, once = resize(resize(image, 448), 224), resize(image, 224)
        assert np.abs(twice.astype(int) - once.astype(int)).max() <= 1


def test_single_samples_and_batches_agree(files: list[str]) -> None:
    dataset, batches = _dataset(files, ARTICLE, None), TrainBatches(["a"] * 24, 0)
    batches.begin(2, 6, 48)
    for batch in batches:
        images, labels = collate([dataset[sample] for sample in batch])
        whole = collate(dataset.__getitems__(batch))
        assert torch.equal(images, whole[0])
        assert torch.equal(labels, whole[1])


def _dataset(files: list[str], augment: Augmentation, cache: Path | None) -> XrayDataset:
    digests = np.array([pixel_digest(read_image(file)) for file in files], dtype="S32")
    stored = open_store(cache, files, digests, STORED) if cache else None
    return XrayDataset(files, [number % 3 for number in range(len(files))], augment, STORED, stored)


def _loader(dataset: XrayDataset, size: int, workers: int) -> "DataLoader[tuple[np.ndarray, int]]":
    batches = TrainBatches(["a"] * len(dataset), 5)
    batches.begin(1, 8, size)
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate)
