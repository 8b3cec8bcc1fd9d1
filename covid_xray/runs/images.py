"""Which images an evaluation is about: the run's own, as its splits.csv says, or another data set's."""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MOST_HASHED = 20_000


def read_records(data: DictConfig) -> "pd.DataFrame":
    """Images that a ``data`` group names, without a split, which a test set of few classes could not have.

    Raises:
        UserError: If a setting is missing, or the images cannot be listed.
    """
    from hydra.utils import get_method

    if missing := sorted(OmegaConf.missing_keys(data)):
        raise UserError(f"data.{missing[0]} must be given: add data.{missing[0]}=... to the command")
    settings: dict[str, Any] = OmegaConf.to_container(data, resolve=True)  # type: ignore[assignment]
    method = get_method(settings.pop("_target_"))
    if not inspect.ismethod(method):
        raise UserError("data: this kind of data gives no table of images; use data=folder or data=manifest")

    def table(records: "pd.DataFrame", **_settings: Any) -> "pd.DataFrame":
        return records

    # The same reading as in training, with the table itself in the place of a DataModule.
    reading = method.__func__
    try:
        inspect.signature(reading).bind(table, **settings)
    except TypeError as error:
        raise UserError(f"data: {error}; see its settings with --cfg job --package data") from None
    found: pd.DataFrame = reading(table, **settings)
    if found.empty:
        raise UserError("data: the data set is empty")
    return found


def own_images(splits: "pd.DataFrame", records: "pd.DataFrame", split: str) -> "pd.DataFrame":
    """Images of one split of the run, in the order of their paths; splits.csv is the truth, records give the files.

    Raises:
        UserError: If the split is empty, an image is no longer in the data, or has another label there.
    """
    own = splits[splits["split"] == split].sort_values("path", kind="stable")
    if own.empty:
        raise UserError(f"the run has no {split} images: splits.csv lists none")
    joined = own.merge(records[["path", "file", "label"]], on="path", how="left", suffixes=("", "_now"))
    lost = joined["file"].isna()
    if lost.any():
        raise UserError(
            f"{int(lost.sum())} of {len(own)} {split} images of the run are no longer in its data, first "
            f"{joined['path'][lost].iloc[0]}; restore the data, or say where it lies with data=... data.root=..."
        )
    if (moved := joined["label"] != joined["label_now"]).any():
        row = joined[moved].iloc[0]
        raise UserError(
            f"{row['path']} was {row['label']} when the run began and is {row['label_now']} now; restore the data"
        )
    return joined.drop(columns="label_now")


def external_images(
    records: "pd.DataFrame", class_names: tuple[str, ...], class_map: Mapping[str, str | None] | None
) -> "pd.DataFrame":
    """All images of another data set, under the run's class names.

    Args:
        records: As `covid_xray.data.manifest` describes.
        class_names: Classes of the run.
        class_map: New name by name in the data, None to leave a class out; names that differ in case and punctuation
            only (``COVID19``, ``covid-19``) need none.

    Raises:
        UserError: If a class is unknown to the run, or no image is left.
    """
    from covid_xray.data.manifest import map_classes

    table = map_classes(records, class_map) if class_map else records
    plain = {_plain(name): name for name in class_names}
    table = table.assign(label=[plain.get(_plain(label), label) for label in table["label"]])
    if unknown := sorted(set(table["label"]) - set(class_names)):
        raise UserError(
            f"the run knows no class {unknown[0]!r}, only {', '.join(class_names)}; map it with "
            f"class_map={{{unknown[0]}: {class_names[0]}}}, or leave it out with class_map={{{unknown[0]}: null}}"
        )
    return table.sort_values("path", kind="stable").reset_index(drop=True)


def content_hashes(files: list[str]) -> list[str]:
    """SHA-256 of every file's content; empty where a file cannot be read, which reading the image will tell."""
    found = []
    for file in files:
        try:
            with open(file, "rb") as content:  # noqa: PTH123 many files
                found.append(hashlib.file_digest(content, "sha256").hexdigest())
        except OSError:
            found.append("")
    return found


def leak_warnings(
    tested: "pd.DataFrame", splits: "pd.DataFrame", records: "pd.DataFrame | None", own: bool, cache: Path | None = None
) -> tuple[str, ...]:
    """What the test images share with those trained or chosen on, in words; nothing shared gives no words.

    Args:
        tested: The test images.
        splits: The run's splits.csv.
        records: The run's own data, or None where it cannot be read.
        own: Whether the test images are the run's own.
        cache: What the audit of the run's data remembers; see `covid_xray.data.audit.fingerprints.fingerprint_files`.
    """
    from covid_xray.data.audit.fingerprints import fingerprint_files
    from covid_xray.data.audit.report import copies_among

    words = []
    seen = splits[splits["split"].isin(["train", "val"])]
    if own and (shared := set(tested["patient_id"]) & set(seen["patient_id"])):
        images = int(tested["patient_id"].isin(shared).sum())
        words.append(
            f"Leak: {images} of {len(tested)} test images are of {len(shared)} patients who also have images in "
            "training or validation; the figures are too good."
        )
    if records is None:
        return (*words, "The run's own images are not here, so it was not checked whether test images were trained on.")
    trained = records.merge(seen[["path"]], on="path")
    if len(trained) > MOST_HASHED:
        return (*words, f"More than {MOST_HASHED:,} training images: not checked for copies of test images.")
    equal, alike = copies_among(*(fingerprint_files(list(table["file"]), cache) for table in (tested, trained)))
    if alike.any():
        words.append(
            f"Leak: {alike.sum()} of {len(tested)} test images are images of training or validation "
            f"({equal.sum()} with the same pixels, {alike.sum() - equal.sum()} nearly so); the figures are too good."
        )
    return tuple(words)


def marked_leaks(metrics: Path) -> tuple[str, ...]:
    """The mark that training left where its audit found leaks and was told to go on."""
    try:
        found = float(json.loads(metrics.read_text(encoding="utf-8")).get("leaks", 0))
    except (OSError, ValueError, AttributeError, TypeError):
        return ()
    if not found:
        return ()
    return (f"Leak: the run was trained although its audit had {found:.0f} findings; its own figures are too good.",)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())
