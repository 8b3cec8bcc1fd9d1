"""Batch samplers: pure functions of seed and epoch, distributed over the processes.

The samplers keep no training state. The DataModule sets the epoch, the phase and the first batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Sample(NamedTuple):
    """Index, size and augmentation seed of one input; the seed is None for an image that is not augmented."""

    row: int
    image_size: int
    seed: tuple[int, ...] | None


class TrainBatches(Sampler[list[Sample]]):
    """Shuffled batches of an epoch; an incomplete last batch is dropped.

    The order depends on seed and epoch only. Each batch is divided equally among the processes, so that the optimiser
    sees the same images for any number of processes.

    Args:
        n_images: Number of training images.
        seed: Seed of the run.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, n_images: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_images, self.seed, self.rank, self.world_size = n_images, seed, rank, world_size
        self.begin(epoch=0, batch_size=1, image_size=1)

    def begin(self, epoch: int, batch_size: int, image_size: int, first_batch: int = 0) -> None:
        """Set the epoch and the settings of its phase; skip ``first_batch`` batches that were trained on before."""
        self.epoch, self.batch_size, self.image_size, self.first_batch = epoch, batch_size, image_size, first_batch

    def __len__(self) -> int:
        """Number of batches of the whole epoch, including skipped ones, as Lightning counts them."""
        return self.n_images // self.batch_size

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the part of every batch that belongs to this process."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_images)
        share = self.batch_size // self.world_size
        for batch in range(self.first_batch, len(self)):
            first = batch * self.batch_size + self.rank * share
            yield [self._sample(int(index)) for index in order[first : first + share]]

    def _sample(self, index: int) -> Sample:
        return Sample(index, self.image_size, (self.seed, self.epoch, index))


class EvalBatches(Sampler[list[Sample]]):
    """Batches of all images in order, without augmentation; the processes take turns, and each image occurs once.

    Args:
        n_images: Number of images.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, n_images: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, n_images, world_size)
        self.begin(batch_size=1, image_size=1)

    def begin(self, batch_size: int, image_size: int) -> None:
        """Set the batch size of this process and the image size."""
        self.batch_size, self.image_size = batch_size, image_size

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the batches of this process in order."""
        for first in range(0, len(self.indices), self.batch_size):
            yield [Sample(index, self.image_size, None) for index in self.indices[first : first + self.batch_size]]
