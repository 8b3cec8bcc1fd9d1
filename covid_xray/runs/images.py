"""The images of an evaluation: the run's own, as in its splits.csv, or those of another data set."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from covid_xray.data.audit.fingerprints import fingerprint_files
from covid_xray.data.audit.report import copies_among
from covid_xray.data.crop import FrameCrop, crop_records
from covid_xray.data.images.grey import ImageError, read_bytes
from covid_xray.data.phantom import draw_phantoms, find_phantoms
from covid_xray.data.records import map_classes
from covid_xray.errors import UserError, is_key, override
from covid_xray.runs.config import build, select
from covid_xray.runs.folder import is_number
from covid_xray.runs.load import Run

MOST_HASHED = 20_000


def own_records(run: Run) -> pd.DataFrame:
    """The table of the run's own data, read again as its configuration says.

    Phantoms that are not there are drawn again, at a place where the run may write (`Run.writable`).

    Raises:
        UserError: If the images cannot be listed, or the run does not know where they are.
    """
    data = run.config.get("data")
    if not data:
        raise UserError(
            f"{run.folder.path} does not say where its images are; give images with data=... (from Python: records=...)"
        )
    draws = data["_target_"] == f"{draw_phantoms.__module__}.{draw_phantoms.__name__}"
    # A set has at least one image of each patient, so one of more patients than images is not the run's.
    fits = run.trust or data.get("patients") in range(len(run.splits) + 1)
    if draws and not (fits and run.writable(data.get("root"))):
        data = {**data, "_target_": f"{find_phantoms.__module__}.{find_phantoms.__name__}"}
    try:
        records: pd.DataFrame = build({"data": data}, "data")
    except UserError as error:
        if not draws or run.trust:
            raise
        raise UserError(f"{error}; to draw the phantoms of a run in another folder than this, set trust=true") from None
    return crop_as_trained(run, records)


def crop_as_trained(run: Run, records: pd.DataFrame) -> pd.DataFrame:
    """The records with images that are cropped as those of the run's training; unchanged if these are not.

    Raises:
        UserError: If the records lack what the crop needs, or the run may not write where it keeps them.
    """
    if not run.config.get("crop"):
        return records
    crop = build(run.config, "crop")
    if run.writable(crop.folder) is None:
        raise UserError(
            f"crop.folder={crop.folder} of the run is not below the current folder; set trust=true to write there"
        )
    return crop_records(records, crop)


def crop_settings(run: Run) -> dict[str, Any] | None:
    """The run's crop as its configuration has it, without the place of the cropped images; None if it has none."""
    crop = run.config.get("crop")
    return {key: value for key, value in crop.items() if key != "folder"} if crop else None


def crop_of_files(run: Run) -> FrameCrop | None:
    """The run's crop, for images that have no table; None if it has none.

    Raises:
        UserError: If the crop needs a column of a table.
    """
    crop = build(run.config, "crop") if run.config.get("crop") else None
    if crop is not None and not isinstance(crop, FrameCrop):
        raise UserError(
            f"{run.folder.path} crops each image by the column {getattr(crop, 'column', '?')} of a table, which a file "
            "alone does not have; use evaluate with data=manifest"
        )
    return crop


def own_images(run: Run, records: pd.DataFrame, split: str) -> pd.DataFrame:
    """Images of one split of the run, sorted by path: the split is from splits.csv, the files are from the records.

    Raises:
        UserError: If the split is empty, an image is no longer in the data, or has another label or other pixels there.
    """
    splits = run.splits
    chosen = splits[splits["split"] == split].sort_values("path", kind="stable")
    if chosen.empty:
        raise UserError(f"the run has no {split} images: its splits.csv lists none, or is missing")
    joined = chosen.merge(records[["path", "file", "label"]], on="path", how="left", suffixes=("", "_now"))
    lost = joined["file"].isna()
    if lost.any():
        raise UserError(
            f"{int(lost.sum())} of {len(chosen)} {split} images of the run are no longer in its data, first "
            f"{joined['path'][lost].iloc[0]}; restore the data, or give its new place with data=... data.root=..."
        )
    if (moved := joined["label"] != joined["label_now"]).any():
        row = joined[moved].iloc[0]
        raise UserError(
            f"{row['path']} was {row['label']} when the run began and is {row['label_now']} now; restore the data"
        )
    if (other := changed_pixels(run, joined)).any():
        raise UserError(
            f"{int(other.sum())} of {len(joined)} {split} images of the run have other pixels than when it began, "
            f"first {joined['path'][other].iloc[0]}; restore the data, or train again"
        )
    return joined.drop(columns="label_now")


def changed_pixels(run: Run, table: pd.DataFrame) -> pd.Series:
    """Whether the pixels of each image are others than when the run began; False for a file that cannot be read.

    Args:
        run: The trained run.
        table: Columns ``file`` and ``pixels``, the digest in splits.csv. Runs of older versions have none.
    """
    if "pixels" not in table:
        return pd.Series(False, index=table.index)
    cache = run.writable(select(run.config, "datamodule.audit_cache"))
    now = fingerprint_files(list(table["file"]), cache).pixels.astype(str)
    known = (table["pixels"] != "") & (now != "")
    return pd.Series(known & (table["pixels"] != now), index=table.index)


def is_own(run: Run, records: pd.DataFrame, split: str) -> bool:
    """Whether records are the run's own data: the same paths and patients, and the same pixels in one split.

    The names of files do not suffice: many collections number their images.
    """
    if set(records["path"]) != set(run.splits["path"]):
        return False
    columns = [name for name in ("path", "patient_id", "pixels", "split") if name in run.splits]
    both = run.splits[columns].merge(records[["path", "file", "patient_id"]], on="path", suffixes=("", "_now"))
    same_patients = both["patient_id"].eq(both["patient_id_now"]).all()
    return bool(same_patients and not changed_pixels(run, both[both["split"] == split]).any())


def external_images(
    records: pd.DataFrame, class_names: tuple[str, ...], class_map: Mapping[str, str | None] | None
) -> pd.DataFrame:
    """All images of another data set, under the run's class names.

    Args:
        records: As `covid_xray.data.manifest` describes.
        class_names: Classes of the run.
        class_map: New name by name in the data, None to leave a class out; names that differ in case and punctuation
            only (``COVID19``, ``covid-19``) need none. The very name of a class always means that class.

    Raises:
        UserError: If a class is unknown to the run, a name may mean several classes, two names would mean one class, or
            no image is left.
    """
    table = map_classes(records, class_map) if class_map else records
    matches = {label: _matches(label, class_names) for label in sorted(table["label"].unique())}
    for label, found in matches.items():
        if not found:
            raise UserError(
                f"the run has no class {label!r}, only {', '.join(class_names)}; {_advice(label, class_names[0])}"
            )
        others = [other for other, names in matches.items() if names == found and other != label]
        if len(found) > 1 or others:
            what = f"the classes {' and '.join(found)} of the run" if len(found) > 1 else f"the label {others[0]!r}"
            raise UserError(f"the label {label!r} differs from {what} in symbols only; {_advice(label, found[0])}")
    table = table.assign(label=table["label"].map(lambda label: matches[label][0]))
    return table.sort_values("path", kind="stable").reset_index(drop=True)


def class_shares(run: Run, split: str) -> dict[str, float]:
    """Share of each class in the run's own images of a split; a bundle states those of train and test."""
    found: object = run.config.get(f"{split}_shares")
    if not run.splits.empty:
        found = run.splits["label"][run.splits["split"] == split].value_counts(normalize=True).to_dict()
    shares = found if isinstance(found, Mapping) else {}
    return {
        name: float(shares[name])
        for name in run.class_names
        if name in shares and is_number(shares[name]) and 0 < shares[name] < 1
    }


def trained_shares(run: Run) -> tuple[float, ...] | None:
    """Class shares, in the order of the logits, of the population that the probabilities of a run are for.

    These are the shares in the training images, unless a sampler or loss weighted the classes; then None, as for a
    bundle that does not state them.
    """
    weights = [select(run.config, key) for key in ("loss.class_weights", "loss.weight")]
    kinds = [str(select(run.config, f"{part}._target_") or "None").rsplit(".", 1)[-1] for part in ("loss", "sampler")]
    plain = kinds[0] in ("None", "CrossEntropy", "FocalLoss") and kinds[1] in ("None", "Shuffled")
    shares = class_shares(run, "train")
    if not plain or any(weight is not None for weight in weights) or shares.keys() != set(run.class_names):
        return None
    return tuple(shares[name] for name in run.class_names)


def content_hashes(files: list[str]) -> list[str]:
    """SHA-256 of every file's content; empty where a file cannot be read, which is reported when the image is read."""
    found = []
    for file in files:
        try:
            found.append(hashlib.sha256(read_bytes(file)).hexdigest())
        except ImageError:
            found.append("")
    return found


def leak_warnings(
    tested: pd.DataFrame,
    splits: pd.DataFrame,
    records: pd.DataFrame | None,
    is_own_data: bool,
    cache: Path | None = None,
) -> tuple[str, ...]:
    """One sentence for each kind of leak: test images or patients that are also in training or validation.

    Args:
        tested: The test images.
        splits: The run's splits.csv.
        records: The run's own data, or None where it cannot be read.
        is_own_data: Whether the test images are the run's own.
        cache: Cache of the audit of the run's data; see `covid_xray.data.audit.fingerprints.fingerprint_files`.
    """
    found = []
    seen = splits[splits["split"].isin(["train", "val"])]
    if is_own_data and (shared := set(tested["patient_id"]) & set(seen["patient_id"])):
        images = int(tested["patient_id"].isin(shared).sum())
        found.append(
            f"Leak: {images} of {len(tested)} test images are of {len(shared)} patients who also have images in "
            "training or validation; the metrics are too good."
        )
    if records is None:
        return (*found, "The run's own images are not here, so it was not checked whether test images were trained on.")
    trained = records.merge(seen[["path"]], on="path")
    if len(trained) > MOST_HASHED:
        return (*found, f"More than {MOST_HASHED:,} training images: not checked for copies of test images.")
    equal, alike = copies_among(*(fingerprint_files(list(table["file"]), cache) for table in (tested, trained)))
    if alike.any():
        found.append(
            f"Leak: {alike.sum()} of {len(tested)} test images are images of training or validation "
            f"({equal.sum()} with the same pixels, {alike.sum() - equal.sum()} nearly so); the metrics are too good."
        )
    return tuple(found)


def marked_leaks(run: Run) -> tuple[str, ...]:
    """The mark of a run that was trained on leaking data (``allow_leakage=true``), as a sentence."""
    if not (leaks := run.metrics.get("leaks")):
        return ()
    return (f"Leak: the run was trained although its audit had {leaks:.0f} findings; its own metrics are too good.",)


def _matches(label: str, class_names: Sequence[str]) -> list[str]:
    """The class of this very name, or else the classes whose name differs in case and punctuation only."""
    return [label] if label in class_names else [name for name in class_names if _plain(name) == _plain(label)]


def _advice(label: str, name: str) -> str:
    if not is_key(label):
        return f"rename it in the data, to {name} for example"
    rename, leave_out = (override("class_map", {label: new}) for new in (name, None))
    return f"map it with {rename}, or leave it out with {leave_out}"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())
