"""The DataModule: when it reads and audits, the test sets of a leaking split, and the file of splits."""

import builtins
import io
import os
from collections import Counter
from pathlib import Path

import cv2
import pandas as pd
import pytest

from covid_xray.data.audit.fingerprints import pixel_digest
from covid_xray.data.augmentation import Augmentation
from covid_xray.data.cache import read_images
from covid_xray.data.datamodule import XrayDataModule
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import draw_phantoms
from covid_xray.data.split import assign_splits
from covid_xray.errors import UserError
from covid_xray.schedule import Phase, Schedule

SCHEDULE = Schedule({"one": Phase(image_size=32, batch_size=4, epochs=1, trains="all", max_lr=1e-3)})


@pytest.fixture
def records(tmp_path: Path) -> pd.DataFrame:
    """One or two images each of patients of three classes."""
    return draw_phantoms(tmp_path / "phantoms", 40, 2, 32)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is decoded, for fingerprints, cache and dataset together."""
    count: Counter[str] = Counter()

    def counting(file: str) -> object:
        count[str(file)] += 1
        return read_image(file)

    monkeypatch.setattr("covid_xray.data.audit.fingerprints.decode_image", lambda data, file: counting(file))
    for module in ("cache", "dataset"):
        monkeypatch.setattr(f"covid_xray.data.{module}.read_image", counting)
    return count


def build(records: pd.DataFrame, **settings: object) -> XrayDataModule:
    return XrayDataModule(records, SCHEDULE, Augmentation([]), num_workers=0, **settings)  # type: ignore[arg-type]


def set_up(records: pd.DataFrame, **settings: object) -> XrayDataModule:
    data = build(records, **settings)
    data.prepare_data()
    data.setup()
    return data


def test_constructor_opens_no_file_of_100_000(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to one folder of empty files, so that the manifest finds every file."""
    (tmp_path / "files").mkdir()
    for number in range(1000):
        (tmp_path / f"files/{number:03d}.png").touch()
    for link in range(100):
        (tmp_path / f"{link:02d}").symlink_to("files")
    table = pd.DataFrame({"path": [f"{row // 1000:02d}/{row % 1000:03d}.png" for row in range(100_000)]})
    classes, splits = ["normal", "covid-19", "pneumonia"], ["train", "train", "train", "val", "test"]
    table["label"] = [classes[row % 3] for row in range(len(table))]
    table["split"] = [splits[row % 5] for row in range(len(table))]
    table.to_csv(tmp_path / "manifest.csv", index=False)
    records = read_manifest(tmp_path / "manifest.csv")

    def refuse(file: object, *arguments: object, **settings: object) -> None:
        raise AssertionError(f"{file} is opened")

    with monkeypatch.context() as patch:
        for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (cv2, "imread"), (cv2, "imdecode")):
            patch.setattr(module, name, refuse)
        data = XrayDataModule(records, SCHEDULE, cache=str(tmp_path / "cache"), audit_cache=str(tmp_path / "audit"))
        counts = data.counts()
    assert counts.sum().to_dict() == {"train": 60_000, "val": 20_000, "test": 20_000}
    assert data.class_names == sorted(classes)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "audit").exists()


def test_setup_needs_splits(records: pd.DataFrame) -> None:
    sentence = "the records have no split yet: call assign_splits(records) first"
    data = build(records)
    with pytest.raises(UserError) as info:
        data.setup()
    assert str(info.value) == sentence
    some = assign_splits(records)
    some.loc[3, "split"] = ""
    with pytest.raises(UserError) as info:
        set_up(some)
    assert str(info.value) == sentence


def test_prepare_data_reads_once_and_setup_audits(
    records: pd.DataFrame, tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build(assign_splits(records), cache=str(tmp_path / "cache"), audit_cache=str(tmp_path / "audit"))
    assert not reads
    data.prepare_data()
    assert reads == dict.fromkeys(records["file"], 1)
    assert not hasattr(data, "audit")
    for stage in ("fit", "test"):
        data.setup(stage)
    assert data.audit.counts["images"] == len(records)
    assert data.audit.leaks() == []
    first = data.audit
    data.setup("fit")
    assert data.audit is first, "one audit is enough"
    assert len(next(iter(data.train_dataloader()))[0]) == 4
    assert reads == dict.fromkeys(records["file"], 1), "training reads the cache"


def test_setup_without_prepare_data_audits_too(records: pd.DataFrame) -> None:
    """As Lightning does on all processes of a machine but the first."""
    data = build(assign_splits(records))
    data.setup()
    assert data.audit.counts["images"] == len(records)


def test_images_that_were_read_before_are_not_read_again(records: pd.DataFrame, reads: Counter[str]) -> None:
    images = read_images(records["file"].tolist())
    assert reads == dict.fromkeys(records["file"], 1)
    part = assign_splits(records, images=images).sample(frac=0.8, random_state=0)
    data = set_up(part, images=images)
    assert reads == dict.fromkeys(records["file"], 1)
    digests = read_splits(data.splits_csv()).set_index("path")["pixels"]
    assert set(digests.index) == set(part["path"])
    assert all(digests[row["path"]] == pixel_digest(read_image(row["file"])) for _, row in part.iterrows())


def test_images_that_cannot_be_read_are_refused(records: pd.DataFrame, tmp_path: Path) -> None:
    Path(records["file"][5]).write_bytes(b"no image")
    for cache in ("off", str(tmp_path / "cache")):
        with pytest.raises(UserError, match=f"^1 images cannot be read: {records['path'][5]}"):
            set_up(assign_splits(records), cache=cache)


def test_leaky_split_keeps_patients_out(records: pd.DataFrame, reads: Counter[str]) -> None:
    data = set_up(assign_splits(records, by="leaky"))
    assert reads == dict.fromkeys(records["file"], 1), "also of the files that the table lists twice"
    unseen, train = data.test_sets()["unseen"], data.subset("train")
    assert len(unseen) >= 10
    assert list(unseen["path"]) == list(data.subset("unseen")["path"])
    assert not set(unseen["patient_id"]) & set(train["patient_id"])
    assert len(data.dataset(unseen)) == len(unseen)
    assert len(data.test_dataloader()) == 2
    with pytest.raises(UserError, match="the same image in test"):
        data.audit.raise_for_leaks()


def test_unseen_test_images_are_no_copies(records: pd.DataFrame) -> None:
    """Split by image, with a training image copied under the name of another patient."""
    single = assign_splits(records.drop_duplicates("patient_id"), by="image")
    data = set_up(single)
    test, train = data.subset("test"), data.subset("train").iloc[0]
    assert list(data.test_sets()) == ["test"], "nothing leaks"
    write_png(Path(test.iloc[0]["file"]), read_image(train["file"]))
    leaking = set_up(single).test_sets()
    assert list(leaking["test"]["path"]) == list(test["path"])
    assert list(leaking["unseen"]["path"]) == list(test["path"])[1:]


def read_splits(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str)


def test_splits_file_changes_with_the_pixels(records: pd.DataFrame) -> None:
    assigned = assign_splits(records)
    table = read_splits(build(assigned).splits_csv())
    assert list(table) == ["path", "label", "patient_id", "source", "split", "pixels"]
    row = records.iloc[0]
    assert table.set_index("path")["pixels"][row["path"]] == pixel_digest(read_image(row["file"]))
    write_png(Path(row["file"]), 255 - read_image(row["file"]))
    changed = table.compare(read_splits(build(assigned).splits_csv()))
    assert len(changed) == 1
    assert set(changed.columns.get_level_values(0)) == {"pixels"}
