"""A bundle: one folder with all that a trained network needs elsewhere, and nothing about patients or this machine.

A bundle has a configuration like that of a run, without the data, and weights with their class names in place of
checkpoints and splits.csv. So `covid_xray.runs.load.load_run` reads a bundle as it reads a run, with the same checks.
"""

import copy
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import save
from torch import Tensor

from covid_xray.errors import UserError
from covid_xray.files import write_atomically, write_failure
from covid_xray.runs.calibration import Calibration, calibrate
from covid_xray.runs.config import select
from covid_xray.runs.export import check_batch, check_difference, describe, largest_difference, metadata_text
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.images import class_shares, crop_settings, trained_shares
from covid_xray.runs.load import Run, load_run

CARD_FILE, PREPROCESSING_FILE = "README.md", "preprocessing.json"


def bundle_config(run: Run) -> dict[str, Any]:
    """The part of a run's configuration that rebuilds the network and its inputs."""
    return {
        "model": run.config["model"],
        "schedule": run.config["schedule"],  # has the image size and batch size
        "augment": run.config["augment"],  # for test-time augmentation
        "data": None,
        "checkpoint": {"select": run.checkpoint},
        "trainer": {"precision": select(run.config, "trainer.precision") or "auto"},
        "mask_centre": run.config.get("mask_centre"),
        "crop": crop_settings(run),
        "test_shares": class_shares(run, "test"),  # for PPV and NPV on other data
        "train_shares": dict(zip(run.class_names, trained_shares(run) or (), strict=False)),  # for other class shares
    }


def write_bundle_files(
    run: Run, output: Path, card: str, images: Tensor | None = None, tolerance: float = 1e-3
) -> float:
    """Write a bundle, read it again, and compare it with the run on real images.

    Args:
        run: The trained run, on the CPU.
        output: The folder; it is new, empty, or an earlier bundle.
        card: The model card.
        images: Images (n, 1, s, s), uint8, to compare on; None: 16 of `covid_xray.runs.export.check_batch`.
        tolerance: Largest difference of a logit that is accepted.

    Returns:
        The largest difference of a logit.

    Raises:
        UserError: If the folder has other files or cannot be written, or the bundle differs.
    """
    bundle = RunFolder(output)
    check_bundle_output(output)
    calibration = calibrate(run)[0]
    meaning = describe(run, calibration)
    content = save(
        {name: tensor.contiguous() for name, tensor in run.module.state_dict().items()}, metadata_text(meaning)
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file in (bundle.config, bundle.calibration):  # without a configuration, it is no bundle
            file.unlink(missing_ok=True)
        write_atomically(bundle.weights, content)
        write_atomically(output / PREPROCESSING_FILE, json.dumps(meaning, indent=2) + "\n")
        if calibration is not None:
            write_atomically(bundle.calibration, _calibration_json(run, calibration, content))
        write_atomically(output / CARD_FILE, card)
        write_atomically(bundle.config, OmegaConf.to_yaml(OmegaConf.create(bundle_config(run))))
    except OSError as error:
        raise write_failure(output, error) from None
    again = load_run(output, accelerator="cpu", network=copy.deepcopy(run.module.network))
    difference = largest_difference(run, again, check_batch(run)[0] if images is None else images)
    check_difference(difference, tolerance, bundle.config)
    return difference


def check_bundle_output(output: Path) -> None:
    """Check that a folder may become a bundle.

    Raises:
        UserError: If it has other files than a bundle, or a bundle of several runs, or is a file.
    """
    if output.is_dir():
        others = [file for file in output.iterdir() if not RunFolder(file).is_bundle and file.name != CARD_FILE]
        if others and not RunFolder(output).is_bundle:
            raise UserError(f"output={output} is a folder with other files; choose a new folder for the bundle")
    elif output.exists():
        raise UserError(f"output={output} is a file; choose a new folder for the bundle")


def _calibration_json(run: Run, calibration: Calibration, weights: bytes) -> str:
    """Content of ``calibration.json``, for the weights of the bundle in place of the run's checkpoint."""
    own = replace(calibration, checkpoint_sha256=hashlib.sha256(weights).hexdigest())
    return json.dumps({run.checkpoint: asdict(own)}, indent=2) + "\n"
