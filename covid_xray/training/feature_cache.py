"""Features of images, kept while the body is frozen, so that every image passes it once."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from covid_xray.networks.heads import ConcatPool
from covid_xray.networks.layer_groups import LayeredNetwork

_POOLING = (ConcatPool, nn.AdaptiveAvgPool2d)


class FeatureCache:
    """Computes logits from features that are kept in memory, by the pixels of their images.

    The size of a batch decides how oneDNN computes in float32 (features of a ResNet-50 differ by up to 3e-4), but the
    place of an image in it does not. So if an image is new in a batch of this size, the whole batch passes the body.
    A head that begins with a pooling layer gets pooled features, which are small (4,096 numbers for a ResNet-50).

    Args:
        network: Its body, which computes in evaluation mode, must not change as long as the cache is used.
    """

    def __init__(self, network: LayeredNetwork) -> None:
        assert isinstance(network, nn.Module)
        self._network, self._known = network, dict[tuple[int, bytes], Tensor]()
        self._pool: Callable[[Tensor], Tensor] = nn.Identity()
        self._rest: Callable[[Tensor], Tensor] = network.head
        if isinstance(head := network.head, nn.Sequential) and isinstance(head[0], _POOLING):
            self._pool, self._rest = head[0], head[1:]

    def __len__(self) -> int:
        """Number of images; one that was in batches of two sizes counts twice."""
        return len(self._known)

    def logits(self, images: Tensor, normalise: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (batch, classes).

        Args:
            images: Grey images (batch, 1, h, w), uint8.
            normalise: Turns them into the input of the network.
        """
        pixels = images.cpu().numpy()
        keys = [(len(images), hashlib.blake2b(image, digest_size=16).digest()) for image in pixels]
        if any(key not in self._known for key in keys):
            self._known.update(zip(keys, self._compute(normalise(images)).chunk(len(keys)), strict=True))
        # Unlike `stack`, `cat` keeps the memory format, which decides the order of sums.
        return self._rest(torch.cat([self._known[key] for key in keys]))

    def _compute(self, inputs: Tensor) -> Tensor:
        modes = {module: module.training for module in self._network.modules()}
        self._network.eval()
        features = self._pool(self._network.features(inputs)).detach()
        for module, training in modes.items():
            module.training = training
        return features
