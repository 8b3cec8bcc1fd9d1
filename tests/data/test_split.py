"""Splits: no patient is in two splits, the shares are as set, and the order of the records has no effect."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covid_xray.data.audit.fingerprints import Fingerprints
from covid_xray.data.audit.report import audit_records
from covid_xray.data.cache import Images, read_images
from covid_xray.data.images.read import write_png
from covid_xray.data.phantom import CLASSES, draw_phantom
from covid_xray.data.split import assign_splits
from covid_xray.errors import UserError


def records(patients: list[tuple[str, int]], split: str = "") -> pd.DataFrame:
    """One patient per pair: label and number of images."""
    rows = [
        (f"{label}/{number:03d}_{image}.png", label, f"p{number}", split)
        for number, (label, images) in enumerate(patients)
        for image in range(images)
    ]
    return pd.DataFrame(rows, columns=["path", "label", "patient_id", "split"])


BALANCED = records([("a", 1), ("b", 1)] * 30)
PATIENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=60, max_size=120)


@settings(max_examples=25, deadline=None)
@given(PATIENTS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_no_patient_is_in_two_splits_in_any_order(patients, seed, random) -> None:  # type: ignore[no-untyped-def]
    table = records(patients + [(label, 1) for label in "abc" for _ in range(10)])
    assigned = assign_splits(table, seed=seed)
    pd.testing.assert_frame_equal(assigned.drop(columns="split"), table.drop(columns="split"))
    assert set(table["split"]) == {""}, "the argument must not change"
    split = assigned["split"]
    assert (split.groupby(table["patient_id"]).nunique() == 1).all()
    assert set(split) == {"train", "val", "test"}
    assert 0.1 < (split == "test").mean() < 0.3
    assert 0.08 < (split == "val").mean() < 0.26
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = table.iloc[order]
    pd.testing.assert_frame_equal(assign_splits(shuffled, seed=seed).sort_index(), assigned.sort_index())


def test_folds_partition_the_images() -> None:
    table = records([(label, 1 + number % 3) for number in range(40) for label in "abc"])
    assigned = [assign_splits(table, folds=5, fold=fold) for fold in range(5)]
    tests = [set(fold["path"][fold["split"] == "test"]) for fold in assigned]
    assert sum(map(len, tests)) == len(table)
    assert set.union(*tests) == set(table["path"])


def test_given_test_set_is_kept_and_folds_then_make_validation() -> None:
    table = records([(label, 2) for _ in range(20) for label in "abc"])
    table.loc[table["patient_id"].isin([f"p{i}" for i in range(12)]), "split"] = "test"
    choices: list[dict[str, Any]] = [{}, {"folds": 4, "fold": 1}]
    for arguments in choices:
        split = assign_splits(table, **arguments)["split"]
        assert ((split == "test") == (table["split"] == "test")).all()
        assert (split == "val").any()


def test_patient_with_images_of_two_classes_stays_in_one_split() -> None:
    table = records([(label, 2) for _ in range(30) for label in "ab"])
    table["patient_id"] = [f"p{row // 4}" for row in range(len(table))]
    split = assign_splits(table)["split"]
    assert (split.groupby(table["patient_id"]).nunique() == 1).all()


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (records([("a", 1)] * 9 + [("b", 1)] * 3), {}, "too few patients .* found a: 9, b: 3; lower split.folds"),
        (records([("a", 3)] * 30), {}, "one class only"),
        (BALANCED, {"by": "hospital"}, "split.by must be patient, image, leaky or source"),
        (BALANCED, {"by": "article"}, "split.by must be patient, image, leaky or source"),
        (BALANCED, {"given": "drop"}, "split.given must be keep or ignore"),
        (BALANCED, {"folds": 1}, "split.folds must be"),
        (BALANCED, {"folds": True}, "split.folds must be"),
        (BALANCED, {"folds": 5, "fold": 5}, "split.fold must be .* 0 to 4"),
        (BALANCED, {"fold": 1}, "split.fold must be .* 0 to 0"),
        (BALANCED, {"val_share": 0.9}, "split.val_share must be"),
        (BALANCED, {"test_share": 0}, "split.test_share must be"),
        (BALANCED, {"seed": -1}, "seed must be"),
    ],
)
def test_bad_settings_and_small_data_are_refused(
    table: pd.DataFrame, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        assign_splits(table, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["train", "val", "test"])
def test_given_split_without_a_class_is_refused(missing: str) -> None:
    table = records([(label, 1) for _ in range(30) for label in "ab"])
    table["split"] = ["train", "val", "test"] * 20
    other = "train" if missing == "val" else "val"
    table.loc[(table["label"] == "b") & (table["split"] == missing), "split"] = other
    with pytest.raises(UserError, match=f"no {missing} image of class 'b' .30 images in all."):
        assign_splits(table)


def test_leaky_split_trains_on_most_of_its_test_images() -> None:
    table = records([(label, 2) for _ in range(60) for label in "abc"])
    split = assign_splits(table, by="leaky")
    assert list(split.columns) == list(table.columns)
    test, unseen = (split[split["split"] == name] for name in ("test", "unseen"))
    listed = split[split["split"].isin(["train", "val"])]
    assert set(listed["path"]) | set(unseen["path"]) == set(table["path"])
    assert listed["path"].is_unique
    assert not set(unseen["patient_id"]) & (set(listed["patient_id"]) | set(test["patient_id"]))
    assert len(unseen) == pytest.approx(0.2 * len(table), rel=0.1)
    in_train = set(listed["path"][listed["split"] == "train"])
    leaked = len(set(test["path"]) & in_train) / len(test)
    assert 0.6 < leaked < 0.95
    assert 0.15 < (listed["split"] == "val").mean() < 0.25


@settings(max_examples=5, deadline=None)
@given(PATIENTS, st.integers(2, 5), st.integers(0, 5))
def test_every_patient_is_tested_in_one_fold(patients, folds, seed) -> None:  # type: ignore[no-untyped-def]
    table = records(patients + [(label, 1) for label in "abc" for _ in range(10)])
    splits = [assign_splits(table, folds=folds, fold=fold, seed=seed)["split"] for fold in range(folds)]
    tested = pd.concat([table["patient_id"][split == "test"].drop_duplicates() for split in splits])
    assert sorted(tested) == sorted(set(table["patient_id"]))
    assert all((split.groupby(table["patient_id"]).nunique() == 1).all() for split in splits)


def fingerprints(images: np.ndarray) -> Fingerprints:
    """Fingerprints of random images; entries with the same number are the same image."""
    rng, n = np.random.default_rng(0), images.max() + 1
    hashes, thumbnails = (
        rng.integers(0, 2**63, (n, 4), dtype=np.uint64)[images],
        rng.integers(0, 256, (n, 32, 32), dtype=np.uint8)[images],
    )
    return Fingerprints(
        sha256=np.array([f"{number:064x}" for number in range(len(images))], dtype="S64"),
        pixels=np.array([f"{number:032x}" for number in range(n)], dtype="S32")[images],
        hash=hashes,
        thumbnail=thumbnails,
        even_hash=hashes,
        even_thumbnail=thumbnails,
        width=np.full(len(images), 100, dtype=np.int32),
        height=np.full(len(images), 100, dtype=np.int32),
        reason=np.zeros(len(images), dtype="S300"),
    )


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 5), st.integers(2, 4))
def test_patients_who_share_an_image_stay_together(seed: int, chained: int) -> None:
    """In each chain, the last image of a patient is the first image of the next patient."""
    table = records([(label, 2) for label in "ab" for _ in range(60)])
    table["file"] = "/" + table["path"]
    patients = np.arange(len(table)) // 2
    first_of_chain, last_image = patients % chained == 0, np.arange(len(table)) % 2 == 1
    pictures = np.arange(len(table))
    pictures[~first_of_chain & ~last_image] -= 1
    chains = pd.Series(patients // chained, index=table.index)
    images = Images(tuple(table["file"]), fingerprints(pictures))
    assigned = assign_splits(table, seed=seed, images=images)
    assert list(assigned.columns) == list(table.columns)
    assert (assigned["split"].groupby(chains).nunique() == 1).all()
    alone = assign_splits(table, seed=seed)["split"]
    assert (alone.groupby(chains).nunique() > 1).any(), "the chains must be what makes the difference"
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(
        assign_splits(shuffled, seed=seed, images=images).sort_values("path"), assigned.sort_values("path")
    )


def test_given_splits_can_be_ignored() -> None:
    table = records([(label, 2) for _ in range(30) for label in "ab"])
    given_splits = table.assign(split=["train", "val", "test"] * 40)  # every patient is in two splits
    for arguments in ({}, {"by": "image"}, {"folds": 4, "fold": 1}, {"by": "leaky"}):
        ignored = assign_splits(given_splits, given="ignore", **arguments)
        pd.testing.assert_frame_equal(ignored, assign_splits(table, **arguments))
    assert list(assign_splits(given_splits)["split"]) == list(given_splits["split"])
    with pytest.raises(UserError, match=r"split\.folds=4: the data already has its own val images; .*split.given=ign"):
        assign_splits(given_splits, folds=4)


def test_refusal_of_leaking_data_names_the_setting_that_removes_the_leak(tmp_path: Path) -> None:
    """The given splits put the images of every patient into two splits."""
    table = records([(label, 2) for _ in range(6) for label in CLASSES])
    table["file"], table["source"] = [str(tmp_path / f"{row}.png") for row in range(len(table))], ""
    for row, (file, label) in enumerate(zip(table["file"], table["label"], strict=True)):
        write_png(Path(file), draw_phantom(label, row // 2, row % 2, 48))
    table["split"] = ["train", "val", "train", "test"] * 9
    images = read_images(table["file"].tolist())
    with pytest.raises(UserError, match=r"^the data leaks between train, validation and test: patient p0 in ") as info:
        audit_records(assign_splits(table, images=images), images).raise_for_leaks()
    assert "drop the splits that the data brings (split.given=ignore)" in str(info.value)
    assert "\n" not in str(info.value)
    settings: dict[str, Any] = {"val_share": 0.5, "test_share": 0.5}
    audit_records(assign_splits(table, given="ignore", images=images, **settings), images).raise_for_leaks()
