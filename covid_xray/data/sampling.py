"""Batch samplers: pure functions of seed and epoch, distributed over the processes.

The samplers keep no training state. The DataModule sets the epoch, the phase and the first batch.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from covid_xray.data.audit.sources import separation_problem
from covid_xray.errors import UserError

Labels = NDArray[np.str_]


class Sample(NamedTuple):
    """Index, size and augmentation seed of one input; the seed is None for an image that is not augmented."""

    row: int
    image_size: int
    seed: tuple[int, ...] | None


class Order(Protocol):
    """The images of an epoch: numbers of the images, batch after batch; a pure function of its arguments."""

    def __call__(self, labels: Labels, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Numbers (batches * batch_size,) or more; the rest is dropped."""
        ...


class SourceOrder(Protocol):
    """An order that asks for the source of every image, by a parameter of this name."""

    def __call__(self, labels: Labels, batch_size: int, rng: np.random.Generator, sources: Labels) -> NDArray[np.int64]:
        """As `Order`."""
        ...


def takes_sources(function: Callable[..., Any]) -> bool:
    """Whether a sampler or a loss asks for the source of every image: it has a parameter ``sources``."""
    return "sources" in inspect.signature(function).parameters


class Shuffled:
    """Every image once."""

    def __call__(self, labels: Labels, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """A permutation."""
        return rng.permutation(len(labels))


class Balanced:
    """All classes equally often, with as many images per epoch as there are; images of rare classes come repeatedly."""

    def __call__(self, labels: Labels, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Classes drawn with equal probability, then the next image of the class."""
        classes = np.unique(labels)
        return _take(labels, classes[rng.integers(len(classes), size=len(labels))], rng)


class BatchShare:
    """A fixed share of one class in every batch; the rest of the batch are images of the other classes, each once.

    Args:
        class_name: The class.
        share: Its share of every batch, above 0 and below 1.

    Raises:
        UserError: If the share is out of range.

    Source: COVID-Net's training (``covid_percent``).
    """

    def __init__(self, class_name: str, share: float = 0.3) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"sampler.share must be above 0 and below 1, not {share!r}")
        self.class_name, self.share = class_name, float(share)

    def __call__(self, labels: Labels, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Shuffled batches with the same number of the class in each."""
        if self.class_name not in labels:
            raise UserError(
                f"sampler.class_name={self.class_name!r} is no class; use one of {', '.join(np.unique(labels))}"
            )
        wanted = min(batch_size - 1, max(1, round(self.share * batch_size)))
        others = rng.permutation(np.flatnonzero(labels != self.class_name))
        batches = max(1, len(others) // (batch_size - wanted))
        others = np.resize(others, batches * (batch_size - wanted)).reshape(batches, -1)
        names = np.full(batches * wanted, self.class_name, dtype=labels.dtype)
        chosen = _take(labels, names, rng).reshape(batches, -1)
        return rng.permuted(np.concatenate([chosen, others], axis=1), axis=1).ravel()


class Independent:
    """Class and source are drawn independently of each other, each as often as in the training images.

    So the source says nothing about the label, in as many images per epoch as there are. Images of rare combinations
    come repeatedly. A source that lacks a class is not drawn: with it, class and source cannot be independent.

    Raises:
        UserError: If no source has images of every class, or there is one source only.
    """

    def __call__(self, labels: Labels, batch_size: int, rng: np.random.Generator, sources: Labels) -> NDArray[np.int64]:
        """Classes and sources drawn with their probabilities, then the next image of both."""
        classes, label = np.unique(labels, return_inverse=True)
        places, source = np.unique(sources, return_inverse=True)
        counts = np.zeros((len(classes), len(places)), dtype=np.int64)
        np.add.at(counts, (label, source), 1)
        counts[:, (counts == 0).any(axis=0)] = 0
        if len(places) < 2 or not counts.any():
            reason = separation_problem(labels.tolist(), sources.tolist()) or (
                f"no source has training images of every class ({', '.join(classes)}); add some, or leave a class out"
            )
            raise UserError(f"label and source cannot be made independent by sampler=independent: {reason}")
        drawn_label, drawn_source = (
            rng.choice(size, size=len(labels), p=counts.sum(axis=axis) / counts.sum())
            for size, axis in ((len(classes), 1), (len(places), 0))
        )
        return _take(label * len(places) + source, drawn_label * len(places) + drawn_source, rng)


def _take(labels: NDArray[Any], classes: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """For every entry of ``classes``, an image of that class: all of them once, shuffled, then again."""
    found = np.zeros(len(classes), dtype=np.int64)
    for name in np.unique(classes):
        places, images = np.flatnonzero(classes == name), np.flatnonzero(labels == name)
        rounds = [rng.permutation(images) for _ in range(-(-len(places) // len(images)))]
        found[places] = np.concatenate(rounds)[: len(places)]
    return found


class TrainBatches(Sampler[list[Sample]]):
    """Batches of an epoch; an incomplete last batch is dropped.

    The order depends on seed and epoch only. Each batch is divided equally among the processes, so that the optimiser
    sees the same images for any number of processes.

    Args:
        labels: Class of every training image.
        seed: Seed of the run.
        rank: Number of this process.
        world_size: Number of processes.
        order: Which images come in which order; None: `Shuffled`.
        sources: Source of every training image, for an order that asks for it.
    """

    def __init__(
        self,
        labels: Sequence[str],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        order: Order | SourceOrder | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        self.labels, self.seed, self.rank, self.world_size = np.asarray(labels), seed, rank, world_size
        self.order: Callable[..., NDArray[np.int64]] = Shuffled() if order is None else order
        self._asked = {"sources": np.asarray(sources)} if takes_sources(self.order) else {}
        self.begin(epoch=0, batch_size=1, image_size=1)

    def begin(self, epoch: int, batch_size: int, image_size: int, first_batch: int = 0, augmented: bool = True) -> None:
        """Set the epoch and the settings of its phase; skip ``first_batch`` batches that were trained on before."""
        self.epoch, self.batch_size, self.image_size, self.first_batch = epoch, batch_size, image_size, first_batch
        self.augmented = augmented

    def __len__(self) -> int:
        """Number of batches of the whole epoch, including skipped ones, as Lightning counts them."""
        return len(self._images()) // self.batch_size

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the part of every batch that belongs to this process."""
        images = self._images()
        repeats = _repeats(images)
        share = self.batch_size // self.world_size
        for batch in range(self.first_batch, len(images) // self.batch_size):
            first = batch * self.batch_size + self.rank * share
            yield [self._sample(int(images[i]), repeats[i]) for i in range(first, first + share)]

    def _images(self) -> NDArray[np.int64]:
        return self.order(self.labels, self.batch_size, np.random.default_rng((self.seed, self.epoch)), **self._asked)

    def _sample(self, index: int, repeat: int) -> Sample:
        seed = (self.seed, self.epoch, index, repeat) if repeat else (self.seed, self.epoch, index)
        return Sample(index, self.image_size, seed if self.augmented else None)


def _repeats(images: NDArray[np.int64]) -> list[int]:
    """How often each entry occurred before it, so that a repeated image is augmented differently."""
    seen: dict[int, int] = {}
    found = []
    for image in images.tolist():
        found.append(seen.get(image, 0))
        seen[image] = found[-1] + 1
    return found


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
