"""What the DataModule adds to its parts: the images that a leaking split leaves, and the file of splits."""

import io
from pathlib import Path

import pandas as pd
import pytest

from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.augmentation import Augmentation
from covid_xray.data.datamodule import XrayDataModule
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import make_phantoms
from covid_xray.schedule import Phase, Schedule

SCHEDULE = Schedule({"one": Phase(image_size=32, batch_size=4, epochs=1, trains="all", max_lr=1e-3)})


@pytest.fixture
def records(tmp_path: Path) -> pd.DataFrame:
    """Two images each of patients of three classes."""
    return read_manifest(make_phantoms(tmp_path / "phantoms", 40, 2, 32, 0))


def build(records: pd.DataFrame, **settings: object) -> XrayDataModule:
    return XrayDataModule(records, SCHEDULE, Augmentation([]), num_workers=0, **settings)  # type: ignore[arg-type]


def test_article_keeps_patients_out(records: pd.DataFrame) -> None:
    data = build(records, split="article", allow_leakage=True)
    unseen, train = data.subset("unseen"), data.subset("train")
    assert len(unseen) >= 10
    assert not set(unseen["patient_id"]) & set(train["patient_id"])
    assert len(data.dataset("unseen")) == len(unseen)


def test_unseen_test_images_are_no_copies(records: pd.DataFrame) -> None:
    """Split by image, with a trained image copied under the name of another patient."""
    single = records.drop_duplicates("patient_id")
    data = build(single, split="image", allow_leakage=True)
    test, train = data.subset("test"), data.subset("train").iloc[0]
    assert list(data.subset("unseen")["path"]) == list(test["path"])
    write_png(Path(test.iloc[0]["file"]), read_image(train["file"]))
    again = build(single, split="image", allow_leakage=True)
    assert list(again.subset("unseen")["path"]) == list(test["path"])[1:]


def read_splits(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str)


def test_splits_file_changes_with_the_pixels(records: pd.DataFrame) -> None:
    table = read_splits(build(records).splits_csv())
    assert list(table) == ["path", "label", "patient_id", "source", "split", "pixels"]
    row = records.iloc[0]
    assert table.set_index("path")["pixels"][row["path"]] == pixel_digest(read_image(row["file"]))
    write_png(Path(row["file"]), 255 - read_image(row["file"]))
    changed = table.compare(read_splits(build(records).splits_csv()))
    assert len(changed) == 1
    assert set(changed.columns.get_level_values(0)) == {"pixels"}


def test_splits_without_digests(records: pd.DataFrame) -> None:
    data = build(records)
    whole, bare = read_splits(data.splits_csv()), read_splits(data.splits_csv(digests=False))
    assert bare.equals(whole.drop(columns="pixels"))
