"""What the DataModule adds to its parts: the images that a leaking split leaves, and the file of splits."""

from pathlib import Path

import pandas as pd
import pytest

from covid_xray.data.augmentation import Augmentation
from covid_xray.data.datamodule import XrayDataModule
from covid_xray.data.fingerprints import pixel_digest
from covid_xray.data.images import read_image, write_png
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


def test_splits_file_changes_with_the_pixels(records: pd.DataFrame, tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    build(records).write_splits(first)
    table = pd.read_csv(first, dtype=str)
    assert list(table) == ["path", "label", "patient_id", "source", "split", "pixels"]
    row = records.iloc[0]
    assert table.set_index("path")["pixels"][row["path"]] == pixel_digest(read_image(row["file"]))
    write_png(Path(row["file"]), 255 - read_image(row["file"]))
    build(records).write_splits(second)
    changed = table.compare(pd.read_csv(second, dtype=str))
    assert len(changed) == 1
    assert set(changed.columns.get_level_values(0)) == {"pixels"}


def test_a_run_that_began_without_digests_keeps_its_file(records: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "splits.csv"
    build(records).write_splits(file)
    pd.read_csv(file, dtype=str).drop(columns="pixels").to_csv(file, index=False)
    before = file.read_text()
    build(records).write_splits(file)
    assert file.read_text() == before
