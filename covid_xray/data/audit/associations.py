"""Association of the label with factors that are not medical: source, view, file type, size and aspect ratio."""

from typing import Any

import numpy as np
import pandas as pd

STRONG = 0.3  # a Cramér's V of at least this gives a warning
_PHRASES = {
    "source": "comes from another source",
    "view": "shows another view",
    "file type": "is a file of another type",
    "size": "has another size",
    "aspect": "has another aspect ratio",
}


def cramers_v(a: pd.Series, b: pd.Series) -> float | None:
    """Compute the bias-corrected Cramér's V of two variables, from 0 to 1; None if one is constant.

    Source: Bergsma, "A bias-correction for Cramér's V and Tschuprow's T", J. Korean Stat. Soc. 42 (2013).
    """
    table = pd.crosstab(a, b).to_numpy(dtype=np.float64)
    n, (rows, columns) = table.sum(), table.shape
    if min(rows, columns) < 2 or n < 2:
        return None
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / n
    phi2 = ((table - expected) ** 2 / expected).sum() / n
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    least = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(phi2 / least))) if least > 0 else None


def factors(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Factors of the images that are not medical, by name: one category for each image.

    Args:
        table: Columns ``source``, ``view``, ``file``, ``width``, ``height``. Without ``view``, it is unknown; without
            the last two, there are no factors ``size`` and ``aspect``.
    """
    found = {
        "source": table["source"].replace("", "unknown"),
        "view": table.get("view", pd.Series("", index=table.index)).replace("", "unknown"),
        "file type": table["file"].str.lower().str.extract(r"(\.[a-z0-9]+)$", expand=False).fillna("none"),
    }
    if "width" in table:
        found["size"] = _binned(table["width"].astype(float) * table["height"])
        found["aspect"] = _binned((table["width"] / table["height"]).round(2))
    return found


def associations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Compute the association of the label with every factor, strongest first.

    Args:
        table: Column ``label`` and those of `factors`.

    Returns:
        For each factor: ``factor`` (name), ``cramers_v`` (None if the factor is constant), ``categories`` (number of
        images by label and category) and ``warning`` (a sentence, or empty).
    """
    found = [_association(name, table["label"], values) for name, values in factors(table).items()]
    return sorted(found, key=lambda row: -(row["cramers_v"] or 0))


def _association(factor: str, label: pd.Series, values: pd.Series) -> dict[str, Any]:
    strength = cramers_v(label, values)
    counts = pd.crosstab(label, values)
    categories = {str(name): {str(key): int(count) for key, count in row.items()} for name, row in counts.iterrows()}
    return {
        "factor": factor,
        "cramers_v": None if strength is None else round(strength, 3),
        "categories": categories,
        "warning": _warning(factor, strength, counts),
    }


def _warning(factor: str, strength: float | None, counts: pd.DataFrame) -> str:
    if strength is None or strength < STRONG:
        return ""
    consequence = f"a classifier can use {'that' if factor != 'size' else 'the size'} instead of the lungs"
    present = counts.to_numpy() > 0
    shared = present & (present.sum(axis=0) > 1)
    alone = [str(name) for name, shares in zip(counts.index, shared.any(axis=1), strict=True) if not shares]
    if len(alone) == len(counts) and len(alone) > 1:
        return f"every class has {'an' if factor == 'aspect' else 'a'} {factor} of its own: {consequence}"
    if alone:
        names = " and ".join(alone)
        return f"every {names} image {_PHRASES[factor]} than all others: {consequence}"
    return f"label and {factor} go together (Cramér's V {strength:.2f}): {consequence}"


def _binned(values: pd.Series) -> pd.Series:
    """Keep values of at least 2 % of the images; bin the others into up to eight quantiles."""
    counts = values.value_counts(normalize=True)
    frequent = values.isin(counts[counts >= 0.02].index)
    names = pd.Series("", index=values.index, dtype=object)
    names[frequent] = values[frequent].map("{:g}".format)
    if (rest := values[~frequent]).size:
        bins = pd.qcut(rest, 8, labels=False, duplicates="drop")
        for number, part in rest.groupby(bins):
            names[part.index] = f"{part.min():g} to {part.max():g} (bin {int(number) + 1})"
    return names
