"""Train, validation and test: by patient, stratified by class, the same on every machine."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from covid_xray.data.audit.report import patient_groups
from covid_xray.data.audit.sources import confounding_text, held_out_problem
from covid_xray.data.cache import Images
from covid_xray.errors import UserError

SPLITS = ("train", "val", "test")


def assign_splits(
    records: pd.DataFrame,
    by: str = "patient",
    val_share: float = 0.2,
    test_share: float = 0.2,
    folds: int | None = None,
    fold: int = 0,
    seed: int = 0,
    given: str = "keep",
    images: Images | None = None,
    test_source: str | None = None,
) -> pd.DataFrame:
    """Assign every record to ``train``, ``val`` or ``test``.

    A split that the records have already (column ``split``) is kept. Without folds, missing test images are held out
    first, then missing validation images from the rest. With folds, fold number ``fold`` is the test set; where a
    test set is given, the fold is the validation set instead. The order of the records does not matter.

    ``by="leaky"`` repeats the mistake of the 2020 article: a test set is held out by image, but the training list is
    made from all images, test images included. Such images are in the table twice. To measure the effect, the images
    of some patients, as many as in a test set by patient, are kept out of all splits as ``unseen``.

    ``by="source"`` tests on all images of one source, and learns from the others, of which the validation images are
    held out by patient. Given splits are not used.

    Args:
        records: Columns ``path``, ``label``, ``patient_id``, ``split`` (empty where not given), ``file`` if ``images``
            is given, and ``source`` if ``by`` is ``source``.
        by: ``patient`` (no patient is in two splits), ``image`` or ``leaky`` (both leak patients), or ``source``.
        val_share: Share of the images not in the test set that go to validation; above 0, at most 0.5.
        test_share: Share of all images that go to the test set; above 0, at most 0.5.
        folds: Number of folds, at least 2, or None.
        fold: Which fold, from 0.
        seed: Seed of the shuffling.
        given: ``keep`` or ``ignore`` the splits that the records have.
        images: If given, patients who share an image (the same or a near duplicate) stay together. Collections list
            copies of one image under several patients; split by patient id alone, these would leak.
        test_source: The source that is the test set, if ``by`` is ``source``.

    Returns:
        The records with the column ``split`` filled in.

    Raises:
        UserError: If a setting is out of range, a split would lack a class, or ``test_source`` cannot be a test set,
            because it has one class only or a class that no other source has.

    Source: scikit-learn's StratifiedGroupKFold and StratifiedKFold.
    """
    _check_settings(by, val_share, test_share, folds, fold, seed, given)
    if by == "source":
        records = _hold_out_source(records, test_source, folds)
    elif test_source is not None:
        raise UserError(f"split.test_source={test_source} needs split=source")
    if given == "ignore" and by != "source":
        records = records.assign(split="")
    groups = records["patient_id"]
    if images is not None:
        table = records.sort_values("path", kind="stable")  # the names of the groups depend on the order
        groups = patient_groups(table, images.select(table["file"].tolist()).fingerprints).reindex(records.index)
    records = records.assign(group=groups)
    settings: dict[str, Any] = {
        "val_share": val_share,
        "test_share": test_share,
        "folds": folds,
        "fold": fold,
        "seed": seed,
    }
    if by == "leaky":
        return _leaky(records, **settings).drop(columns="group")
    return records.assign(split=_splits(records, by, **settings)).drop(columns="group")


def _leaky(records: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    shares = settings | {"folds": None, "fold": 0}
    kept_out = _splits(records.assign(split=""), "patient", **shares) == "test"
    unseen, records = records[kept_out].assign(split="unseen"), records[~kept_out]
    test = records[_splits(records, "image", **settings) == "test"].assign(split="test")
    free = records.assign(split="")
    # Another seed than the test set's, which would hold out the same images again.
    again = {"test_share": settings["val_share"], "seed": settings["seed"] + 1}
    in_val = _splits(free, "image", **{**settings, **again}) == "test"
    listed = free.assign(split=in_val.map({True: "val", False: "train"}))
    table = pd.concat([listed, test, unseen], ignore_index=True)
    table.attrs = dict(records.attrs)
    return table


def _hold_out_source(records: pd.DataFrame, test_source: str | None, folds: int | None) -> pd.DataFrame:
    labels, sources = records["label"].tolist(), records["source"].tolist()
    if folds is not None:
        raise UserError("split.folds is not used with split=source; set split.folds=null")
    if not isinstance(test_source, str):
        names = ", ".join(sorted(filter(None, set(sources)))) or "not named in this data"
        raise UserError(f"split=source needs the source to test on: set split.test_source=...; the sources are {names}")
    if problem := held_out_problem(labels, sources, test_source):
        reason = confounding_text(labels, sources)
        raise UserError(
            f"split.test_source={test_source} cannot be the test set: {problem}. {reason}".strip().rstrip(".")
        )
    return records.assign(split=(records["source"] == test_source).map({True: "test", False: ""}))


def _splits(
    records: pd.DataFrame, by: str, val_share: float, test_share: float, folds: int | None, fold: int, seed: int
) -> pd.Series:
    """Split of every record, in the records' order."""
    table = records.sort_values("path", kind="stable")
    split = table["split"].copy()
    has_test, has_val = (split == "test").any(), (split == "val").any()
    if folds is not None:
        target = "val" if has_test else "test"
        if (split == target).any():
            raise UserError(
                f"split.folds={folds}: the data already has its own {target} images; use split.folds=null, or "
                f"split.given=ignore to drop the given splits"
            )
        split = _hold_out(table, split, target, folds, fold, by, seed)
    elif not has_test:
        split = _hold_out(table, split, "test", round(1 / test_share), 0, by, seed)
    if not has_val and not (split == "val").any():
        split = _hold_out(table, split, "val", round(1 / val_share), 0, by, seed + 1)
    split[split == ""] = "train"
    _check_classes(table["label"], split, SPLITS if by != "source" else SPLITS[:2])
    return split.reindex(records.index)


def _hold_out(
    table: pd.DataFrame, split: pd.Series, target: str, folds: int, fold: int, by: str, seed: int
) -> pd.Series:
    """Move fold ``fold`` of the records that are free (or given as train) to ``target``."""
    free = table[(split == "") | (split == "train")]
    by = "patient" if by == "source" else by
    units = free["group"].groupby(free["label"]).nunique() if by == "patient" else free["label"].value_counts()
    if free.empty or units.min() < folds:
        counts = ", ".join(f"{label}: {count}" for label, count in sorted(units.items()))
        raise UserError(
            f"too few {by}s to hold out {target} images by {by}: {folds} parts need {folds} {by}s of every class, "
            f"found {counts or 'none'}; lower split.folds, raise split.{target}_share, or give a split column"
        )
    # Here, because predictions and given splits need no scikit-learn.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if by == "patient":
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        parts = splitter.split(free, free["label"], free["group"])
    else:
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(free, free["label"])
    held_out = list(parts)[fold][1]
    split = split.copy()
    split[free.index[held_out]] = target
    return split


def _check_settings(
    by: str, val_share: float, test_share: float, folds: int | None, fold: int, seed: int, given: str
) -> None:
    if by not in ("patient", "image", "leaky", "source"):
        raise UserError(f"split.by must be patient, image, leaky or source, not {by!r}")
    if given not in ("keep", "ignore"):
        raise UserError(f"split.given must be keep or ignore, not {given!r}")
    for key, share in (("val_share", val_share), ("test_share", test_share)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 0.5:
            raise UserError(f"split.{key} must be above 0 and at most 0.5, not {share!r}")
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, int) or folds < 2):
        raise UserError(f"split.folds must be a whole number of at least 2, or null, not {folds!r}")
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < (folds or 1):
        raise UserError(f"split.fold must be a whole number from 0 to {(folds or 1) - 1}, not {fold!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32 - 1:
        raise UserError(f"seed must be a whole number from 0 to 2^32 - 2, not {seed!r}")


def _check_classes(labels: pd.Series, split: pd.Series, names: Sequence[str] = SPLITS) -> None:
    classes = sorted(labels.unique())
    if len(classes) < 2:
        raise UserError(f"the data has one class only ({', '.join(classes)}); a classifier needs at least two")
    for name in names:
        present = set(labels[split == name])
        if missing := [label for label in classes if label not in present]:
            raise UserError(
                f"no {name} image of class {missing[0]!r} ({len(labels[labels == missing[0]])} images in all); "
                f"add images or change the split"
            )
