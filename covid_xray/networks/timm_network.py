"""Any classifier of the library timm, with layer groups from its ``group_matcher``."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.networks import torchxrayvision
from covid_xray.networks.heads import fastai_head
from covid_xray.networks.layer_groups import LayerGroups
from covid_xray.networks.weights import FILE_ENDINGS, first_line, load_matching, read_state_dict


class TimmNetwork(nn.Module):
    """A timm classifier with a body in layer groups and a new head.

    The layers of ``group_matcher(coarse=True)`` are divided into ``groups - 1`` parts of equal number, from the image
    to the features; the head is the last group. With three groups they are ``early``, ``late`` and ``head``.

    Args:
        num_classes: Number of logits.
        architecture: timm's name of the network, such as ``convnext_tiny``.
        groups: Number of layer groups, at least 2.
        head: ``linear`` (the network's own pooling and one linear layer) or ``fastai`` (fastai's head; needs a feature
            map).
        input_size: Side of the images, in pixels, for networks that accept one size only, such as most ViTs; None: the
            size that it was pretrained with.

    Raises:
        UserError: If timm is not installed, has no such network, or the network does not fit.

    Source: Wightman, PyTorch Image Models (timm).
    """

    def __init__(
        self,
        num_classes: int,
        architecture: str,
        groups: int = 3,
        head: str = "linear",
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 2:
            raise UserError(f"model.groups must be a whole number of at least 2, not {groups!r}")
        if head not in ("linear", "fastai"):
            raise UserError(f"model.head must be linear or fastai, not {head!r}")
        timm = _import_timm()
        if not timm.is_model(architecture):
            near = ", ".join(timm.list_models(f"*{str(architecture)[:6]}*")[:5])
            raise UserError(
                f"model.architecture={architecture!r} is no network of timm {timm.__version__}; near: {near}"
            )
        pretrained: dict[str, Any] = timm.get_pretrained_cfg(architecture).to_dict()
        self.architecture = architecture
        self.mean, self.std = tuple(pretrained["mean"]), tuple(pretrained["std"])
        size: dict[str, Any] = {}
        if pretrained.get("fixed_input_size"):
            self.input_size = pretrained["input_size"][-1] if input_size is None else input_size
            size["img_size"] = self.input_size
        elif input_size is not None:
            raise UserError(f"model.input_size: {architecture} accepts any size; leave input_size out")
        try:
            self.body = timm.create_model(architecture, num_classes=num_classes if head == "linear" else 0, **size)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise UserError(f"model.architecture={architecture}: {first_line(error)}") from None
        if not hasattr(self.body, "group_matcher"):
            raise UserError(f"model.architecture={architecture}: timm names no layer groups (group_matcher) for it")
        # Swin and others compute (batch, h, w, c).
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self._fastai: nn.Module | None = None
        if head == "fastai":
            with torch.no_grad():
                side = getattr(self, "input_size", 64)
                maps = self.body.eval().forward_features(torch.zeros(1, 3, side, side))
            self.body.train()
            if maps.ndim != 4 or maps.shape[1] != self.body.num_features:
                raise UserError(f"model.head=fastai needs a feature map, which {architecture} has not; use head=linear")
            self._fastai = fastai_head(maps.shape[1], num_classes, 512, (0.25, 0.5))
        self.groups = groups

    def layer_groups(self) -> LayerGroups:
        """Modules and parameters by group name, from the image to the head; together every parameter."""
        from timm.models import group_parameters

        layers = group_parameters(self.body, self.body.group_matcher(coarse=True))
        in_head = {id(parameter) for parameter in self.body.get_classifier().parameters()}
        parameters = dict(self.body.named_parameters())
        names = ["early", "late"] if self.groups == 3 else [f"body{number + 1}" for number in range(self.groups - 1)]
        parts: dict[str, list[nn.Parameter]] = {name: [] for name in names}
        head: list[nn.Parameter] = []
        for position, layer in enumerate(sorted(layers)):
            part = parts[names[position * len(names) // len(layers)]]
            for name in layers[layer]:
                (head if id(parameters[name]) in in_head else part).append(parameters[name])
        found: LayerGroups = {name: _owners(self.body, part) for name, part in parts.items()}
        found["head"] = [*_owners(self.body, head), *([self._fastai] if self._fastai else [])]
        return found

    def load_weights(self, weights: str) -> None:
        """Load pretrained weights into the body.

        Args:
            weights: ``DEFAULT`` or a tag of timm (``in1k``), which are downloaded, or a local file, also that of
                torchxrayvision's DenseNet121, whose normalisation is used then.

        Raises:
            UserError: If the weights cannot be downloaded or read, or do not fit.
        """
        if Path(weights).is_file() or Path(weights).suffix in FILE_ENDINGS:
            state = read_state_dict(Path(weights))
            if (published := torchxrayvision.three_channels(state)) is not None:
                state, self.mean, self.std = published, torchxrayvision.MEAN, torchxrayvision.STD
                print("Images are normalised to [-1024, 1024], as torchxrayvision does")
        else:
            name = self.architecture if weights == "DEFAULT" else f"{self.architecture.split('.')[0]}.{weights}"
            try:
                state = _import_timm().create_model(name, pretrained=True).state_dict()
            except Exception as error:  # the hub's client raises errors of many libraries
                raise UserError(
                    f"cannot fetch the weights {weights} of {self.architecture} ({first_line(error)}); with a network, "
                    f"download them to a file, or set weights=FILE, or weights=null for random weights"
                ) from None
        classifier = {id(p) for p in self.body.get_classifier().parameters()}
        head = [name for name, tensor in self.body.state_dict(keep_vars=True).items() if id(tensor) in classifier]
        load_matching(self.body, state, weights, head, self.architecture)

    def features(self, images: Tensor) -> Tensor:
        """Last feature map (batch, c, h, w), or tokens (batch, n, c), of normalised images (batch, 3, h, w)."""
        features: Tensor = self.body.forward_features(images)
        return features.permute(0, 3, 1, 2) if self._channels_last else features

    def head(self, features: Tensor) -> Tensor:
        """Logits (batch, classes) of what `features` returns."""
        if self._fastai is None and self._channels_last:
            features = features.permute(0, 2, 3, 1)
        logits: Tensor = self.body.forward_head(features) if self._fastai is None else self._fastai(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalised images (batch, 3, h, w)."""
        return self.head(self.features(images))


def _owners(network: nn.Module, parameters: list[nn.Parameter]) -> list[nn.Module | nn.Parameter]:
    """The modules that hold exactly these parameters, and parameters whose module holds others, too.

    Freezing needs the modules, to set the mode of BatchNorm.
    """
    wanted = {id(parameter) for parameter in parameters}
    found: list[nn.Module | nn.Parameter] = []
    for module in network.modules():
        direct = list(module.parameters(recurse=False))
        if direct and all(id(p) in wanted for p in direct) and len(list(module.parameters())) == len(direct):
            found.append(module)
            wanted -= {id(p) for p in direct}
    return [*found, *(parameter for parameter in parameters if id(parameter) in wanted)]


def _import_timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("model=timm needs timm: pip install 'covid-xray[timm]'") from None
    return timm
