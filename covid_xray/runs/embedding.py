"""Embeddings: the pooled features of a network for every image, in a file that other programs read."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from covid_xray.data.datamodule import IMAGENET_MEAN, IMAGENET_STD
from covid_xray.errors import UserError, printable
from covid_xray.files import atomic_write, write_failure
from covid_xray.networks.archive import bomb
from covid_xray.networks.weights import first_line
from covid_xray.runs import inference
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.images import crop_as_trained, own_images, own_records
from covid_xray.runs.load import Run, torch_device
from covid_xray.schedule import Phase, Schedule
from covid_xray.training.module import XrayClassifier

TEXTS = ("path", "label", "patient_id", "split")
ENDINGS = (".npz", ".parquet")
_MAX_BYTES = 1 << 34
_NO_PARQUET = "a .parquet file needs pyarrow: pip install 'covid-xray[parquet]', or use a .npz file"


@dataclass(frozen=True, eq=False)
class Features:
    """Features of images.

    Attributes:
        values: Mean over the last feature map (n, d), float32.
        table: A row per image: ``path``, ``label``, ``patient_id`` and ``split`` as text, and ``seen``: whether the
            encoder was trained or chosen on this image.
        encoder: What made the features.
    """

    values: npt.NDArray[np.float32]
    table: pd.DataFrame
    encoder: str

    def write(self, file: str | Path) -> None:
        """Write a ``.npz`` or ``.parquet`` file.

        Raises:
            UserError: If the ending is another one, the file cannot be written, or pyarrow is missing.
        """
        path = check_ending(Path(file))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as draft:
                if path.suffix == ".npz":
                    self._write_npz(draft)
                else:
                    self._write_parquet(draft)
        except OSError as error:
            raise write_failure(path, error) from None

    def _write_npz(self, file: Path) -> None:
        arrays: dict[str, Any] = {name: self.table[name].to_numpy(dtype=str) for name in TEXTS}
        arrays |= {"features": self.values, "seen": self.table["seen"].to_numpy(dtype=bool)}
        with file.open("wb") as opened:
            np.savez(opened, encoder=np.array(self.encoder), **arrays)

    def _write_parquet(self, file: Path) -> None:
        columns = {f"f{number}": column for number, column in enumerate(self.values.T)}
        table = pd.concat([self.table[[*TEXTS, "seen"]].reset_index(drop=True), pd.DataFrame(columns)], axis=1)
        table.attrs = {"encoder": self.encoder}  # pandas stores attrs in the file
        try:
            table.to_parquet(file, index=False)
        except ImportError:
            raise UserError(_NO_PARQUET) from None


def embed(
    encoder: Run | nn.Module,
    records: pd.DataFrame | None = None,
    *,
    image_size: int | None = None,
    batch_size: int = 32,
    accelerator: str = "auto",
    threads: int | None = None,
    name: str | None = None,
) -> Features:
    """Compute the features of images, without augmentation.

    Args:
        encoder: A trained run, or a network such as `covid_xray.networks.create.create_network` makes it.
        records: The images, a table as `covid_xray.data.records` describes. None: those of the run, with its splits.
        image_size: Side of the images in pixels, for a network; None: its own ``input_size``, or 224.
        batch_size: Images at a time, for a network.
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``, for a network.
        threads: Threads that read images; None for the number of cores, at most 8.
        name: What made the features; None: the name of the run or network.

    Raises:
        UserError: If there are no images, one cannot be read, or a feature is not finite.
    """
    if isinstance(encoder, Run):
        run, name = encoder, name or encoder.folder.path.resolve().name
    else:
        run, name = _as_run(encoder, image_size, batch_size, accelerator), name or type(encoder).__name__
    if records is None:
        if not isinstance(encoder, Run):
            raise UserError("a network has no images of its own: give records")
        splits = [str(split) for split in run.splits["split"].unique()]
        own = own_records(run)
        records = pd.concat([own_images(run, own, split) for split in splits], ignore_index=True) if splits else own
    else:
        records = crop_as_trained(run, records)
    table = records.sort_values("path", kind="stable").reset_index(drop=True)
    files = table["file"].tolist()
    outputs = inference.infer(run, files, feature_rows=range(len(files)), threads=threads)
    assert outputs.features is not None
    values = outputs.features
    if not np.isfinite(values).all():
        raise UserError(f"{name}: a feature of {files[int(np.argmin(np.isfinite(values).all(axis=1)))]} is not finite")
    return Features(values, table[list(TEXTS)].assign(seen=_seen(run, table)), name)


def read_features(file: str | Path) -> Features:
    """Read a file of `Features.write`. The file may come from anyone: only arrays and text are read.

    Raises:
        UserError: If it is missing, damaged or no file of features.
    """
    path = check_ending(Path(file))
    if not path.is_file():
        raise UserError(f"features={path} does not exist; make it with covid-xray embed")
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"features={path} is larger than {_MAX_BYTES:,} bytes; split it")
    try:
        content = _read_npz(path) if path.suffix == ".npz" else _read_parquet(path)
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and pyarrow raise many kinds
        raise UserError(f"features={path} cannot be read ({first_line(error)}); make it again") from None
    values, table, encoder = content
    sound = values.ndim == 2 and values.dtype.kind == "f" and len(values) == len(table) > 0
    if not sound or not np.isfinite(values).all():
        raise UserError(f"features={path} is damaged (features must be finite numbers, a row per image); make it again")
    if table["path"].duplicated().any():
        raise UserError(f"features={path} lists an image twice; make it again")
    return Features(values.astype(np.float32), table, printable(encoder)[:200])


def check_ending(path: Path) -> Path:
    """Return a path that ends with .npz or .parquet.

    Raises:
        UserError: If it does not.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: a file of features ends with .npz or .parquet")
    return path


def _read_npz(path: Path) -> tuple[npt.NDArray[Any], pd.DataFrame, str]:
    reason = bomb(path) if zipfile.is_zipfile(path) else "it is no zip file"
    if reason:
        raise UserError(f"features={path} cannot be read ({reason}); make it with covid-xray embed")
    with np.load(path, allow_pickle=False) as arrays:
        columns = {name: np.atleast_1d(arrays[name]) for name in (*TEXTS, "seen")}
        values, encoder = arrays["features"], str(arrays["encoder"])
    table = pd.DataFrame({name: columns[name].astype(str) for name in TEXTS})
    return values, table.assign(seen=columns["seen"].astype(bool)), encoder


def _read_parquet(path: Path) -> tuple[npt.NDArray[Any], pd.DataFrame, str]:
    try:
        found = pd.read_parquet(path)
    except ImportError:
        raise UserError(_NO_PARQUET) from None
    names = [name for name in found.columns if name not in (*TEXTS, "seen")]
    table = pd.DataFrame({name: found[name].astype(str) for name in TEXTS}).assign(seen=found["seen"].astype(bool))
    return found[names].to_numpy(), table, str(found.attrs.get("encoder", path.stem))


def _seen(run: Run, table: pd.DataFrame) -> pd.Series:
    """Whether each image is in the training or validation of the run."""
    used = run.splits[run.splits["split"].isin(["train", "val"])]
    known = set(zip(used["path"], used["patient_id"], strict=True))
    return pd.Series([key in known for key in zip(table["path"], table["patient_id"], strict=True)], index=table.index)


def _as_run(network: nn.Module, image_size: int | None, batch_size: int, accelerator: str) -> Run:
    """A network that was not trained here, as the inference needs it."""
    size = getattr(network, "input_size", 224) if image_size is None else image_size
    phase = Phase(size, max(2, batch_size), 1, "all", 1e-3)
    mean, std = getattr(network, "mean", IMAGENET_MEAN), getattr(network, "std", IMAGENET_STD)
    module = XrayClassifier(network, Schedule({"embed": phase}), ("a", "b"), mean=mean, std=std)
    device = torch_device(accelerator)
    module = module.to(device).eval().requires_grad_(False)
    splits = pd.DataFrame(columns=["path", "label", "patient_id", "source", "split"], dtype=str)
    nowhere = RunFolder(Path(type(network).__name__))
    return Run(nowhere, {}, "given", splits, module, size, size, phase.batch_size, device, "32-true")
