"""COVIDx, the collection of COVID-Net (Wang, Lin and Wong 2020), with its published lists.

Layout: ``train/``, ``test/`` and optionally ``val/`` with the images; next to them or in ``labels/`` one list each,
named ``train*.txt``, ``test*.txt``, ``val*.txt``. A line is ``patient file class [source]``, with three classes
(``normal``, ``pneumonia``, ``COVID-19``) or two (``positive``, ``negative``). Older lists have no source. The split is
kept.

The oldest lists (COVIDx 1, March 2020) have four classes. Later lists call ``bacteria`` and ``viral`` ``pneumonia``.
So does this importer; the column ``pathogen`` keeps the distinction. The normal and pneumonia images of these lists
come from Kermany's collection. They get the patients of `covid_xray.data.importers.kermany`, because the lists give a
normal child and one with pneumonia the same number if both numbers have four digits.

Source: github.com/lindawangg/COVID-Net, and "COVIDx CXR" on Kaggle.
"""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from covid_xray.data.importers import kermany
from covid_xray.errors import UserError

_PATHOGENS = {"bacteria": "bacteria", "viral": "virus"}
_LABELS = {name: name for name in ("normal", "pneumonia", "covid-19", "positive", "negative")}
_LABELS |= dict.fromkeys(_PATHOGENS, "pneumonia")
_LINE = re.compile(
    rf"^(?P<patient>\S+) (?P<file>.+) (?P<label>{'|'.join(_LABELS)})(?: (?P<source>\S+))?$", re.IGNORECASE
)
_COLUMNS = ["path", "label", "patient_id", "source", "view", "split", "row", "reason", "pathogen"]


def read(source: Path) -> pd.DataFrame:
    """List the images of the lists. Other lines are rejected with their line number."""
    rows = []
    for split in ("train", "val", "test"):
        if (file := _list(source, split)) is not None:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            rows += [
                _row(line.strip(), split, f"{file.name}:{number}")
                for number, line in enumerate(lines, 1)
                if line.strip()
            ]
    if not rows:
        raise UserError(f"source={source} contains no train*.txt, val*.txt or test*.txt with COVIDx lines")
    table = pd.DataFrame(rows, columns=_COLUMNS).fillna("")
    return table if table["pathogen"].any() else table.drop(columns="pathogen")


def _list(source: Path, split: str) -> Path | None:
    found = sorted({*source.glob(f"{split}*.txt"), *source.glob(f"labels/{split}*.txt")})
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"source={source} contains several {split} lists ({names}); keep one of them")
    return found[0] if found else None


def _row(line: str, split: str, number: str) -> dict[str, str]:
    match = _LINE.match(line)
    if match is None:
        return {"path": line, "split": split, "row": number, "reason": "it is not a line of patient, file and class"}
    label, child = match["label"].lower(), kermany.patient_of(PurePosixPath(match["file"]).stem)
    origin = "kermany" if child else (match["source"] or "").lower()
    return {
        "path": f"{split}/{match['file']}",
        "label": _LABELS[label],
        # The prefix "cohen" gives images of covid-chestxray-dataset the same patients as the importer `cohen`.
        "patient_id": child or f"{origin or 'covidx'}-{match['patient']}",
        "source": origin,
        "split": split,
        "row": number,
        "pathogen": _PATHOGENS.get(label, ""),
    }
