"""Classifier heads: what follows the last feature map."""

import torch
from torch import Tensor, nn


class ConcatPool(nn.Module):
    """Global maximum and average side by side: (batch, c, h, w) to (batch, 2c).

    Source: fastai's AdaptiveConcatPool2d.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool a feature map."""
        return torch.cat([features.amax(dim=(2, 3)), features.mean(dim=(2, 3))], dim=1)


def fastai_head(channels: int, num_classes: int, hidden: int, dropout: tuple[float, float]) -> nn.Sequential:
    """Fastai's head: concat pool, then two blocks of BatchNorm, dropout and linear layer.

    Args:
        channels: Channels of the feature map.
        num_classes: Number of logits.
        hidden: Width of the hidden layer.
        dropout: Dropout before the hidden and before the last linear layer.

    Source: fastai's ``create_head``, with Kaiming-normal weights and biases of 0.
    """
    head = nn.Sequential(
        ConcatPool(),
        nn.BatchNorm1d(2 * channels),
        nn.Dropout(dropout[0]),
        nn.Linear(2 * channels, hidden),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(hidden),
        nn.Dropout(dropout[1]),
        nn.Linear(hidden, num_classes),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return head
