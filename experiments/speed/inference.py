"""Speed and agreement of ways to compute a run's answers: torch, BatchNorm folded, onnxruntime, int8, OpenVINO.

``python experiments/speed/inference.py RUN [RUN ...]`` writes inference.csv; the test images of the runs must be there.
OpenVINO is measured where it is installed (``pip install openvino``). Every way computes on one thread and, in each
round, one batch in turn; its speed is in images per second of processor time, which other programs disturb least.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from bench import HERE, hardware, write_table

from covid_xray.metrics.intervals import clustered_exact_interval
from covid_xray.networks.folding import fold_batchnorm
from covid_xray.runs.export import CALIBRATION_IMAGES, Deployed, spread, write_onnx
from covid_xray.runs.images import own_images, own_records
from covid_xray.runs.inference import image_reader, infer_batch
from covid_xray.runs.load import Run, load_run
from covid_xray.runs.quantise import quantise_onnx

Images = npt.NDArray[np.uint8]
Way = Callable[[Images], Any]  # logits (n, c) of images (n, 1, s, s)
BATCH = 16
TODAY = "torch, as predict and evaluate"


def main() -> None:
    """Measure every run at every size; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 448])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, help="number of test images, at most")
    parser.add_argument("--ways", nargs="+", help="names of the ways to measure; all, if not given")
    parser.add_argument("--output", type=Path, default=HERE / "inference.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        for path in options.runs:
            run = replace(load_run(path, accelerator="cpu"), image_size=size, base_size=size)
            found = compare(run, options.rounds, options.images, options.ways)
            rows += found
            for row in found:
                print(*row.values(), sep="  ", flush=True)
            write_table(options.output, [row | {"hardware": hardware()} for row in rows])


def compare(run: Run, rounds: int, most: int | None, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of one run at one size."""
    records = own_records(run)
    test = own_images(run, records, "test")[:most]
    images, labels = read(run, list(test["file"])), [run.class_names.index(label) for label in test["label"]]
    val = list(own_images(run, records, "val")["file"])
    calibration = read(run, [val[row] for row in spread(len(val), CALIBRATION_IMAGES)])
    with tempfile.TemporaryDirectory() as folder:
        int8 = only is None or any("int8" in name for name in only)
        every = all_ways(run, calibration, Path(folder), int8)
        ways = {name: way for name, way in every if only is None or name in (TODAY, *only)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                start = time.process_time()
                way(images[:BATCH])
                if number:  # the first round warms up
                    seconds[name].append(time.process_time() - start)
        answers = {
            name: np.concatenate([way(images[first : first + BATCH]) for first in range(0, len(images), BATCH)])
            for name, way in ways.items()
            if name != "bare forward pass"
        }
    exact, rows = softmax(answers[TODAY]), []
    for name in ways:
        row = {
            "size": run.image_size,
            "run": run.folder.path.name,
            "way": name,
            "images_per_second": round(BATCH / statistics.median(seconds[name]), 1),
            "of_today": round(statistics.median(a / b for a, b in zip(seconds[TODAY], seconds[name], strict=True)), 2),
            "rounds": rounds,
        }
        if name in answers:
            found = softmax(answers[name])
            accuracy = clustered_exact_interval(found.argmax(axis=1) == labels, test["patient_id"])
            row |= {
                "largest_difference": round(float(np.abs(found - exact).max()), 4),
                "changed_answers": int((found.argmax(axis=1) != exact.argmax(axis=1)).sum()),
                "images": len(labels),
                "accuracy": round(accuracy.value, 4),
                "low": round(accuracy.low, 4),
                "high": round(accuracy.high, 4),
            }
        rows.append(row)
    return rows


def read(run: Run, files: list[str]) -> Images:
    """Images (n, 1, s, s) of some files at the run's size."""
    return np.stack([image_reader(run)(file) for file in files])[:, None]


def softmax(logits: Any) -> npt.NDArray[np.float64]:
    """Probabilities of logits (n, c)."""
    return torch.softmax(torch.as_tensor(logits).double(), dim=1).numpy()


def all_ways(run: Run, calibration: Images, folder: Path, int8: bool) -> Iterator[tuple[str, Way]]:
    """Every way by name; those in 8-bit integers, whose calibration takes long, on request."""
    yield "bare forward pass", bare_forward(run)
    yield TODAY, lambda images: infer_batch(run, torch.from_numpy(images))[0]
    folded = replace(run, module=copy.deepcopy(run.module))
    fold_batchnorm(folded.module.network)
    folded.module.network.to(memory_format=torch.channels_last)
    yield "torch, BatchNorm folded", lambda images: infer_batch(folded, torch.from_numpy(images))[0]
    file, small = folder / "model.onnx", folder / "int8.onnx"
    write_onnx(Deployed(run.module, 1.0).eval(), run.image_size, {}, file)
    yield "onnxruntime, float32", by_onnxruntime(file)
    with suppress(ImportError):
        yield "OpenVINO, float32", by_openvino(file)
    if not int8:
        return
    quantise_onnx(file, small, calibration)
    yield "onnxruntime, int8", by_onnxruntime(small)
    with suppress(ImportError):
        yield "OpenVINO, int8", by_openvino(small)


def bare_forward(run: Run) -> Way:
    """Only the network, on a batch that is normalised already."""
    batch = run.module.normalise(torch.zeros(BATCH, 1, run.image_size, run.image_size, dtype=torch.uint8))

    def way(images: Images) -> Any:
        bf16 = run.precision == "bf16-mixed"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return run.module.network(batch)

    return way


def by_onnxruntime(file: Path) -> Way:
    """Logits by onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


def by_openvino(file: Path) -> Way:
    """Logits by OpenVINO, on one thread."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    return lambda images: compiled([images])["logits"]


if __name__ == "__main__":
    main()
