"""CheXpert (Irvin et al. 2019).

Layout: ``train.csv``, ``valid.csv`` and perhaps ``test.csv`` (``test_labels.csv``), with ``Path``, ``Sex``, ``Age``,
``Frontal/Lateral``, ``AP/PA`` and one column per finding: 1 present, 0 absent, -1 uncertain, empty not mentioned.
Paths begin with the name of the download (``CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg``); the
source may be that folder or the one above. `covid_xray.data.importers.findings` makes classes of the findings; by
default Pneumonia is ``pneumonia`` and No Finding ``normal``.
Source: stanfordmlgroup.github.io/competitions/chexpert.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import read_table
from covid_xray.data.importers.findings import join_findings
from covid_xray.errors import UserError

CLASSES = {"Pneumonia": "pneumonia", "No Finding": "normal"}
FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
_TABLES = {"train.csv": "train", "valid.csv": "val", "test.csv": "test", "test_labels.csv": "test"}


def read(source: Path) -> pd.DataFrame:
    """List the images of the tables."""
    parts = [_part(file, split) for name, split in _TABLES.items() for file in sorted(source.glob(f"**/{name}"))]
    if not parts:
        raise UserError(f"source={source} contains no train.csv, valid.csv or test.csv; give the folder of CheXpert")
    return pd.concat(parts, ignore_index=True).fillna("")


def _part(file: Path, split: str) -> pd.DataFrame:
    table = read_table(file, ("Path", "No Finding", "Pneumonia"))
    findings = [name for name in FINDINGS if name in table]
    path = table["Path"].str.strip()
    none = pd.Series("", index=table.index)
    side, view = (table[name].str.strip() if name in table else none for name in ("Frontal/Lateral", "AP/PA"))
    return pd.DataFrame(
        {
            "path": path,
            "patient_id": "chexpert-" + path.str.extract(r"(patient\d+)", expand=False).fillna(""),
            "source": "chexpert",
            "view": view.where(side != "Lateral", "L"),
            "split": split,
            "row": f"{file.name}:" + table["row"],
            "findings": join_findings(table, findings, "1"),
            "uncertain": join_findings(table, findings, "-1"),
            **{new: table[old].str.strip() for old, new in (("Sex", "sex"), ("Age", "age")) if old in table},
        }
    )
