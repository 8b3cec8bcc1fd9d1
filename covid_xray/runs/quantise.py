"""An ONNX file in 8-bit integers, calibrated on images: smaller and, on most processors, faster."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from covid_xray.errors import UserError
from covid_xray.files import atomic_write

_BATCH = 16


def quantise_onnx(file: Path, output: Path, images: npt.NDArray[np.uint8]) -> None:
    """Write a copy of an ONNX file whose convolutions and linear layers compute in 8-bit integers.

    Weights are rounded per channel. Activations are rounded to the ranges that they have on the images, so the images
    should be like those of the later use, and not the ones that the file is tested on.

    Args:
        file: The ONNX file, with the input ``images``.
        output: The new file.
        images: Images (n, 1, s, s), such as the validation images.

    Raises:
        UserError: If onnxruntime is missing.

    Source: static quantisation of onnxruntime (QDQ format, min-max calibration); Jacob et al. 2018.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise UserError(f"int8 needs {error.name}: pip install 'covid-xray[export]'") from None

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = iter(
                {"images": images[first : first + _BATCH]} for first in range(0, len(images), _BATCH)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    beside = tempfile.TemporaryDirectory(dir=output.parent)  # the system's folder may be small
    with beside as folder, atomic_write(output) as draft, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(folder) / "prepared.onnx"  # with BatchNorm folded into the convolutions
        level = logging.getLogger().level
        with contextlib.redirect_stdout(io.StringIO()):
            logging.getLogger().setLevel(logging.ERROR)
            try:
                quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
                quantization.quantize_static(
                    str(prepared),
                    str(draft),
                    Reader(),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "MaxPool"],
                )
            finally:
                logging.getLogger().setLevel(level)
        model = onnx.load(str(draft))
        del model.metadata_props[:]
        model.metadata_props.extend(onnx.load(str(file), load_external_data=False).metadata_props)
        model.metadata_props.add(key="int8", value=f"calibrated on {len(images)} images")
        onnx.save_model(model, str(draft))
