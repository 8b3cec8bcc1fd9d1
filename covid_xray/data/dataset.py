"""From a sample's number to the pixels that the network gets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from covid_xray.data.augmentation import Augmentation
from covid_xray.data.images import GreyImage, read_image
from covid_xray.data.sampling import Sample

Batch = tuple[Tensor, Tensor]


class XrayDataset(Dataset[tuple[GreyImage, int]]):
    """Images as files, read when asked for.

    Args:
        files: Paths of the images.
        labels: Class number of every image.
        augment: Applied to samples that carry a seed; the others are squished only.
    """

    def __init__(self, files: Sequence[str], labels: Sequence[int], augment: Augmentation) -> None:
        # One array each, not a list of objects: reference counts of a list are written to in every worker, which
        # copies its memory pages one by one.
        self.files = np.asarray(files, dtype=np.bytes_) if all(map(str.isascii, files)) else np.asarray(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.augment = augment
        self.plain = Augmentation()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, sample: Sample) -> tuple[GreyImage, int]:
        """Grey image (size, size), uint8, and its class number."""
        file = self.files[sample.row]
        image = read_image(file.decode() if isinstance(file, bytes) else str(file))
        if sample.seed is None:
            image = self.plain(image, sample.image_size, ())
        else:
            image = self.augment(image, sample.image_size, sample.seed)
        return image, int(self.labels[sample.row])


def collate(samples: list[tuple[GreyImage, int]]) -> Batch:
    """Stack to images (batch, 1, size, size), uint8, and labels (batch,), int64."""
    images = torch.from_numpy(np.stack([image for image, _ in samples])).unsqueeze(1)
    return images, torch.tensor([label for _, label in samples])
