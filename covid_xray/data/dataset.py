"""The dataset: from the number of a sample to the pixels that the network receives."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from covid_xray.data.augmentation import Augmentation
from covid_xray.data.cache import StoredImages
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import read_image
from covid_xray.data.images.resize import resize
from covid_xray.data.sampling import Sample

Batch = tuple[Tensor, ...]  # images, labels and, if the training asks for them, sources


class XrayDataset(Dataset[tuple[GreyImage, int]]):
    """Images from files or from a store of resized images, read on request.

    Args:
        files: Paths of the images.
        labels: Class number of every image.
        augment: Applied to samples that have a seed; other samples are only resized.
        base_size: Side to which every image is resized first; None: no first resizing.
        stored: The images, resized to that side; None: read the files. The pixels are the same.
        sources: Number of the source of every image, to be in the batches; None: they have none.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: Sequence[int],
        augment: Augmentation,
        base_size: int | None = None,
        stored: StoredImages | None = None,
        sources: Sequence[int] | None = None,
    ) -> None:
        # Arrays, not lists of objects: each worker writes to the reference counts of a list, which copies its memory.
        self.files = np.asarray(files, dtype=np.bytes_) if all(map(str.isascii, files)) else np.asarray(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.sources = None if sources is None else np.asarray(sources, dtype=np.int64)
        self.augment, self.base_size, self.stored = augment, base_size, stored

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, sample: Sample) -> tuple[GreyImage, int]:
        """Grey image (size, size), uint8, and its class number."""
        image = self._image(sample.row)
        if sample.seed is None:
            image = resize(image, sample.image_size)
        else:
            image = self.augment(image, sample.image_size, sample.seed)
        return image, int(self.labels[sample.row])

    def __getitems__(self, samples: Sequence[Sample]) -> Batch:
        """Images (batch, 1, size, size), uint8, labels (batch,), and perhaps sources (batch,), both int64.

        The loader calls this.
        """
        size = samples[0].image_size
        images = np.empty((len(samples), 1, size, size), dtype=np.uint8)
        labels = np.empty(len(samples), dtype=np.int64)
        for position, sample in enumerate(samples):
            images[position, 0], labels[position] = self[sample]
        if self.stored is not None:
            self.stored.release()
        if self.sources is not None:
            sources = self.sources[[sample.row for sample in samples]]
            return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(sources)
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _image(self, row: int) -> GreyImage:
        if self.stored is not None:
            return self.stored[row]
        file = self.files[row]
        image = read_image(file.decode() if isinstance(file, bytes) else str(file))
        return image if self.base_size is None else resize(image, self.base_size)


def collate(samples: Batch | list[tuple[GreyImage, int]]) -> Batch:
    """Stack to images (batch, 1, size, size), uint8, and labels (batch,), int64; a batch stays as it is.

    A worker puts the batch into shared memory here. Torch would do it in a thread, where a full memory loses the batch
    and the training process waits for it forever; here the exception reaches that process.
    """
    if isinstance(samples, tuple):
        if get_worker_info() is not None:
            for part in samples:
                part.share_memory_()  # type: ignore[no-untyped-call]
        return samples
    images = torch.from_numpy(np.stack([image for image, _ in samples])).unsqueeze(1)
    return images, torch.tensor([label for _, label in samples])
