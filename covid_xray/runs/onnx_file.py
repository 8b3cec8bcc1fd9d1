"""A trained network as an ONNX file that holds its own preprocessing, and what onnxruntime makes of it."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from covid_xray.errors import UserError
from covid_xray.files import atomic_write
from covid_xray.training.module import XrayClassifier


class Deployed(nn.Module):
    """Logits and calibrated probabilities of grey images, everything in between included.

    Args:
        module: The classifier.
        temperature: What logits are divided by before the softmax.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: XrayClassifier, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = module.network, temperature
        self.register_buffer("mean", module.mean.detach().clone())
        self.register_buffer("std", module.std.detach().clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, both (n, classes), of uint8 images (n, 1, s, s)."""
        # As in the classifier, but for the memory format, which ONNX has no word for.
        logits = self.network((images.float() / 255 - self.mean) / self.std)
        return logits, torch.softmax(logits / self.temperature, dim=1)


def write_onnx(network: Deployed, image_size: int, metadata: Mapping[str, Any], file: Path) -> None:
    """Write an ONNX file: input ``images``, outputs ``logits`` and ``probabilities``, any number of images.

    Args:
        network: On the CPU, in evaluation mode.
        image_size: Side of the images.
        metadata: What a user of the file must know; values that are no text are written as JSON.
        file: Where to; written beside and renamed.

    Raises:
        UserError: If the libraries are missing or the network cannot be expressed in ONNX.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 torch asks for it only in the middle of its work
    except ImportError as error:
        raise UserError(f"format=onnx needs {error.name}: pip install 'covid-xray[export]'") from None
    example = torch.zeros(2, 1, image_size, image_size, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            )
        assert program is not None
        model = program.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"this network cannot be exported to ONNX ({str(error).splitlines()[0]})") from None
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.checker.check_model(model)
    with atomic_write(file) as draft:
        onnx.save_model(model, str(draft))


def run_onnx(
    file: Path, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Logits and probabilities by onnxruntime on the CPU; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    return logits, probabilities
