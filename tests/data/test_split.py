"""Splits: no patient crosses, shares are kept, every machine gets the same."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covid_xray.data.split import assign_splits, split_records
from covid_xray.errors import UserError


def records(patients: list[tuple[str, int]], split: str = "") -> pd.DataFrame:
    """A table with so many images of each (label, images) patient."""
    rows = [
        (f"{label}/{number:03d}_{image}.png", label, f"p{number}", split)
        for number, (label, images) in enumerate(patients)
        for image in range(images)
    ]
    return pd.DataFrame(rows, columns=["path", "label", "patient_id", "split"])


PATIENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=60, max_size=120)


@settings(max_examples=25, deadline=None)
@given(PATIENTS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_no_patient_crosses_and_order_does_not_matter(patients, seed, random) -> None:  # type: ignore[no-untyped-def]
    table = records(patients + [(label, 1) for label in "abc" for _ in range(10)])
    split = assign_splits(table, seed=seed)
    assert (split.groupby(table["patient_id"]).nunique() == 1).all()
    assert set(split) == {"train", "val", "test"}
    assert 0.1 < (split == "test").mean() < 0.3
    assert 0.08 < (split == "val").mean() < 0.26
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = table.iloc[order]
    pd.testing.assert_series_equal(assign_splits(shuffled, seed=seed).sort_index(), split.sort_index())


def test_folds_partition_the_images() -> None:
    table = records([(label, 1 + number % 3) for number in range(40) for label in "abc"])
    tests = [set(table["path"][assign_splits(table, folds=5, fold=fold) == "test"]) for fold in range(5)]
    assert sum(map(len, tests)) == len(table)
    assert set.union(*tests) == set(table["path"])


def test_given_test_set_is_kept_and_folds_then_make_validation() -> None:
    table = records([(label, 2) for _ in range(20) for label in "abc"])
    table.loc[table["patient_id"].isin([f"p{i}" for i in range(12)]), "split"] = "test"
    for arguments in ({}, {"folds": 4, "fold": 1}):
        split = assign_splits(table, **arguments)
        assert ((split == "test") == (table["split"] == "test")).all()
        assert (split == "val").any()


def test_patient_with_images_of_two_classes_stays_on_one_side() -> None:
    table = records([(label, 2) for _ in range(30) for label in "ab"])
    table["patient_id"] = [f"p{row // 4}" for row in range(len(table))]
    split = assign_splits(table)
    assert (split.groupby(table["patient_id"]).nunique() == 1).all()


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (records([("a", 1)] * 9 + [("b", 1)] * 3), {}, "too few patients .* found a: 9, b: 3"),
        (records([("a", 3)] * 30), {}, "one class only"),
        (records([("a", 1), ("b", 1)] * 30), {"by": "hospital"}, "data.split must be patient, image"),
        (records([("a", 1), ("b", 1)] * 30), {"folds": 1}, "data.folds"),
        (records([("a", 1), ("b", 1)] * 30), {"folds": 5, "fold": 5}, "data.fold must be .* 0 to 4"),
        (records([("a", 1), ("b", 1)] * 30), {"val_share": 0.9}, "data.val_share"),
    ],
)
def test_what_cannot_be_split_is_told(table: pd.DataFrame, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign_splits(table, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["train", "val", "test"])
def test_class_that_a_given_split_lacks_is_told(missing: str) -> None:
    table = records([(label, 1) for _ in range(30) for label in "ab"])
    table["split"] = ["train", "val", "test"] * 20
    other = "train" if missing == "val" else "val"
    table.loc[(table["label"] == "b") & (table["split"] == missing), "split"] = other
    with pytest.raises(UserError, match=f"no {missing} image of class 'b' .30 images in all."):
        assign_splits(table)


def test_article_trains_on_most_of_its_test_images() -> None:
    table = records([(label, 2) for _ in range(60) for label in "abc"])
    split = split_records(table, by="article")
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
    splits = [assign_splits(table, folds=folds, fold=fold, seed=seed) for fold in range(folds)]
    tested = pd.concat([table["patient_id"][split == "test"].drop_duplicates() for split in splits])
    assert sorted(tested) == sorted(set(table["patient_id"]))
    assert all((split.groupby(table["patient_id"]).nunique() == 1).all() for split in splits)


def test_patients_of_one_group_stay_together() -> None:
    table = records([(label, 2) for _ in range(30) for label in "ab"])
    table["group"] = [f"g{row // 6}" for row in range(len(table))]
    split = assign_splits(table)
    assert (split.groupby(table["group"]).nunique() == 1).all()
