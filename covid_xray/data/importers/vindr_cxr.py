"""VinDr-CXR (Nguyen et al. 2022): DICOM, or PNG and JPEG files of the same names.

Layout: ``annotations/image_labels_train.csv`` (three radiologists per image) and ``image_labels_test.csv`` (their
consensus), with ``image_id`` and one column per finding, 1 or 0; ``train/<image_id>.dicom`` and ``test/``. A finding of
a training image is present if at least two radiologists mark it, and uncertain if one does: with ``uncertain=reject``
only images are used on which they agree, with ``uncertain=negative`` the majority decides.
`covid_xray.data.importers.findings` makes classes of the findings; by default Pneumonia is ``pneumonia`` and No finding
``normal``. Patients are not published: every image is its own patient. Source: physionet.org/content/vindr-cxr.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import read_table
from covid_xray.errors import UserError

CLASSES = {"Pneumonia": "pneumonia", "No finding": "normal"}
_OTHERS = ("image_id", "rad_id", "row")


def read(source: Path) -> pd.DataFrame:
    """List the images of the label tables."""
    parts = [
        _part(file, split)
        for split in ("train", "test")
        for file in sorted(source.glob(f"**/image_labels_{split}.csv"))
    ]
    if not parts:
        raise UserError(f"source={source} contains no annotations/image_labels_train.csv; give the folder of VinDr-CXR")
    return pd.concat(parts, ignore_index=True)


def _part(file: Path, split: str) -> pd.DataFrame:
    table = read_table(file, ("image_id", "No finding", "Pneumonia"))
    marks = table[[name for name in table if name not in _OTHERS]].apply(pd.to_numeric, errors="coerce").fillna(0)
    votes, readers = marks.groupby(table["image_id"]).sum(), table.groupby("image_id").size()
    needed = readers.clip(upper=2)  # one reader, as in the test set: the consensus
    present, doubtful = votes.ge(needed, axis=0), votes.gt(0) & votes.lt(needed, axis=0)
    return pd.DataFrame(
        {
            "path": f"{split}/" + votes.index + ".dicom",
            "patient_id": "",
            "source": "vindr-cxr",
            "view": "PA",
            "split": split,
            "row": f"{file.name}:" + table.groupby("image_id")["row"].first().reindex(votes.index).to_numpy(),
            "findings": _joined(present),
            "uncertain": _joined(doubtful),
        }
    )


def _joined(hits: pd.DataFrame) -> list[str]:
    return ["|".join(hits.columns[row]) for row in hits.to_numpy()]
