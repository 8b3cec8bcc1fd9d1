"""Train, validation and test: by patient, stratified by class, the same on every machine."""

from typing import Any

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from covid_xray.errors import UserError

SPLITS = ("train", "val", "test")


def split_records(records: pd.DataFrame, by: str = "patient", **settings: Any) -> pd.DataFrame:
    """Records with their split assigned.

    With ``by="article"`` the article's mistake is repeated: a test set is held out by image, but the training list is
    made from all images, test images included. Such images stand in the table twice. So that the mistake can be
    measured, the images of some patients, as many as in a test set by patient, are kept out of all that as ``unseen``.

    Args:
        records: See `assign_splits`.
        by: ``patient``, ``image`` or ``article``.
        **settings: The other arguments of `assign_splits`.
    """
    if by != "article":
        return records.assign(split=assign_splits(records, by, **settings))
    shares = {name: value for name, value in settings.items() if name not in ("folds", "fold")}
    kept_out = assign_splits(records.assign(split=""), "patient", **shares) == "test"
    unseen, records = records[kept_out].assign(split="unseen"), records[~kept_out]
    test = records[assign_splits(records, "image", **settings) == "test"].assign(split="test")
    free = records.assign(split="")
    # Another seed than the test set's: the same one would hold out the same images again.
    again = {"test_share": settings.get("val_share", 0.2), "seed": settings.get("seed", 0) + 1}
    in_val = assign_splits(free, "image", **{**settings, **again}) == "test"
    listed = free.assign(split=in_val.map({True: "val", False: "train"}))
    return pd.concat([listed, test, unseen], ignore_index=True)


def assign_splits(
    records: pd.DataFrame,
    by: str = "patient",
    val_share: float = 0.2,
    test_share: float = 0.2,
    folds: int | None = None,
    fold: int = 0,
    seed: int = 0,
) -> pd.Series:
    """Say for every record whether it is ``train``, ``val`` or ``test``.

    A split that the records bring along (column ``split``) is kept. Without folds, missing test images are held out
    first, then missing validation images from the rest. With folds, fold number ``fold`` is the test set; where a
    test set is given, it is the validation set instead. The order of the records does not matter.

    Args:
        records: Columns ``path``, ``label``, ``patient_id``, ``split`` (empty where not given), and optionally
            ``group``: patients that must stay together, because they share an image.
        by: ``patient`` (no patient crosses) or ``image`` (as the article did: leaks patients).
        val_share: Share of the images not in the test set that go to validation; above 0, at most 0.5.
        test_share: Share of all images that go to the test set; above 0, at most 0.5.
        folds: Number of folds, at least 2, or None.
        fold: Which fold, from 0.
        seed: Seed of the shuffling.

    Returns:
        Split by record, in the records' order.

    Raises:
        UserError: If a setting is out of range, or a split would lack a class.

    Source: scikit-learn's StratifiedGroupKFold and StratifiedKFold.
    """
    _check_settings(by, val_share, test_share, folds, fold, seed)
    table = records.sort_values("path", kind="stable")
    split = table["split"].copy()
    has_test, has_val = (split == "test").any(), (split == "val").any()
    if folds is not None:
        target = "val" if has_test else "test"
        if (split == target).any():
            raise UserError(f"data.folds={folds}: the data already has its own {target} images; leave folds out")
        split = _hold_out(table, split, target, folds, fold, by, seed)
    elif not has_test:
        split = _hold_out(table, split, "test", round(1 / test_share), 0, by, seed)
    if not has_val and not (split == "val").any():
        split = _hold_out(table, split, "val", round(1 / val_share), 0, by, seed + 1)
    split[split == ""] = "train"
    _check_classes(table["label"], split)
    return split.reindex(records.index)


def _hold_out(
    table: pd.DataFrame, split: pd.Series, target: str, folds: int, fold: int, by: str, seed: int
) -> pd.Series:
    """Move fold ``fold`` of the records that are free (or given as train) to ``target``."""
    free = table[(split == "") | (split == "train")]
    groups = free["group"] if "group" in free else free["patient_id"]
    units = groups.groupby(free["label"]).nunique() if by == "patient" else free["label"].value_counts()
    if free.empty or units.min() < folds:
        counts = ", ".join(f"{label}: {count}" for label, count in sorted(units.items()))
        raise UserError(
            f"too few {by}s to hold out {target} images by {by}: {folds} parts need {folds} {by}s of every class, "
            f"found {counts or 'none'}; lower data.folds, raise data.{target}_share, or give a split column"
        )
    if by == "patient":
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        parts = splitter.split(free, free["label"], groups)
    else:
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(free, free["label"])
    held_out = list(parts)[fold][1]
    split = split.copy()
    split[free.index[held_out]] = target
    return split


def _check_settings(by: str, val_share: float, test_share: float, folds: int | None, fold: int, seed: int) -> None:
    if by not in ("patient", "image"):
        raise UserError(f"data.split must be patient, image or article, not {by!r}")
    for key, share in (("val_share", val_share), ("test_share", test_share)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
            raise UserError(f"data.{key} must lie above 0 and at most 0.5, not {share!r}")
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, int) or folds < 2):
        raise UserError(f"data.folds must be a whole number of at least 2, or null, not {folds!r}")
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < (folds or 1):
        raise UserError(f"data.fold must be a whole number from 0 to {(folds or 1) - 1}, not {fold!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32 - 1:
        raise UserError(f"seed must be a whole number from 0 to 2^32 - 2, not {seed!r}")


def _check_classes(labels: pd.Series, split: pd.Series) -> None:
    classes = sorted(labels.unique())
    if len(classes) < 2:
        raise UserError(f"the data has one class only ({', '.join(classes)}); a classifier needs at least two")
    for name in SPLITS:
        present = set(labels[split == name])
        if missing := [label for label in classes if label not in present]:
            raise UserError(
                f"no {name} image of class {missing[0]!r} ({len(labels[labels == missing[0]])} images in all); "
                f"add images or change the split"
            )
