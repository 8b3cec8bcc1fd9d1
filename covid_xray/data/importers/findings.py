"""Classes from the findings of an image, for collections that give several findings per image.

A mapping gives the class of each finding that counts, such as ``{Pneumonia: pneumonia, No Finding: normal}``. Rules:

- Findings that are not in the mapping do not count. Several findings may have the same class.
- An image without any finding of the mapping is rejected, or gets the class of the key ``other``: with
  ``{Pneumonia: pneumonia, other: no-pneumonia}``, one finding divides all images. A finding that the publisher does not
  mention is absent.
- An image with findings of several classes is rejected.
- Uncertain findings, with ``uncertain=reject``: an image in which a finding of the mapping is uncertain is rejected.
  ``uncertain=positive`` counts them as present, ``uncertain=negative`` as absent ("U-Ones" and "U-Zeroes" of Irvin et
  al. 2019).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from covid_xray.errors import UserError

OTHER = "other"
RULES = ("reject", "positive", "negative")


def label_findings(table: pd.DataFrame, classes: Mapping[str, str], uncertain: str = "reject") -> pd.DataFrame:
    """Set the column ``label`` from the findings, and ``reason`` where there is no label.

    Args:
        table: Columns ``findings`` and ``uncertain``: names joined by ``|``.
        classes: Class of each finding that counts, and perhaps of ``other``. Case does not matter.
        uncertain: ``reject``, ``positive`` or ``negative``.

    Raises:
        UserError: If the rule is unknown.
    """
    if uncertain not in RULES:
        raise UserError(f"uncertain must be one of {', '.join(RULES)}, not {uncertain!r}")
    wanted = {name.lower(): label for name, label in classes.items()}
    present, doubtful = (table[column].map(_names) for column in ("findings", "uncertain"))
    results = [_label(names, doubts, wanted, uncertain) for names, doubts in zip(present, doubtful, strict=True)]
    labels, reasons = zip(*results, strict=True) if results else ((), ())
    given = table["reason"] if "reason" in table else pd.Series("", index=table.index)
    return table.assign(label=labels, reason=given.where(given != "", pd.Series(reasons, index=table.index, dtype=str)))


def check_findings(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Check that findings that the user names exist.

    Raises:
        UserError: If no image has one of them.
    """
    known = {name for column in ("findings", "uncertain") for text in table[column] for name in _names(text)}
    if absent := [name for name in names if name.lower() not in (*known, OTHER)]:
        raise UserError(f"findings: no image has {absent[0]!r}; the findings are {', '.join(sorted(known))}")


def _label(present: list[str], doubtful: list[str], classes: Mapping[str, str], uncertain: str) -> tuple[str, str]:
    """The class, and why there is none."""
    doubts = [name for name in doubtful if name in classes]
    if doubts and uncertain == "reject":
        return "", f"its findings are uncertain ({doubts[0]})"
    counted = [*present, *(doubts if uncertain == "positive" else ())]
    labels = sorted({classes[name] for name in counted if name in classes and name != OTHER})
    if len(labels) > 1:
        return "", f"its findings are of several classes ({', '.join(labels)})"
    label = labels[0] if labels else classes.get(OTHER, "")
    return label, "" if label else "its findings are not in the mapping"


def _names(text: str) -> list[str]:
    return [name for part in text.split("|") if (name := part.strip().lower())]


def join_findings(table: pd.DataFrame, columns: list[str], value: str) -> pd.Series:
    """Return the names of the columns that have a value (as a number), joined by ``|``, for each row.

    Args:
        table: A publisher's table as text.
        columns: One column per finding.
        value: Such as ``1``; ``1.0`` is the same.
    """
    hits = {name: table[name].str.strip().str.removesuffix(".0").eq(value).to_numpy() for name in columns}
    rows: Any = zip(*hits.values(), strict=True)
    return pd.Series(["|".join(name for name, hit in zip(hits, row, strict=True) if hit) for row in rows], table.index)
