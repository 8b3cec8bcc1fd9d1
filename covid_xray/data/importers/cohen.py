"""covid-chestxray-dataset (Cohen et al. 2020).

Layout: ``metadata.csv`` and ``images/``. Read from it: ``patientid``, ``finding``, ``view``, ``modality``,
``folder``, ``filename``; kept as columns: ``finding``, ``offset`` (days), ``sex``, ``age``, ``location``. CT images are
rejected. COVID-19 of any kind becomes ``covid-19``, other pneumonia ``pneumonia``, ``No Finding`` ``normal``. Other
findings keep their names. Lateral views are kept; ``view`` names them.
Source: github.com/ieee8023/covid-chestxray-dataset.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import one_file, read_table

_PNEUMONIA = (
    *("pneumonia", "sars", "mers", "streptococcus", "pneumocystis", "klebsiella", "chlamydophila", "legionella"),
    *("e.coli", "influenza", "lipoid", "varicella", "mycoplasma", "staphylococcus", "herpes", "aspergillosis"),
    "nocardia",
)
_UNKNOWN = ("", "todo", "unknown", "nan")


def read(source: Path) -> pd.DataFrame:
    """List the images of the metadata."""
    return read_metadata(source, "covid-chestxray-dataset", "cohen", "filename")


def read_metadata(source: Path, name: str, prefix: str, image: str) -> pd.DataFrame:
    """List the images of a ``metadata.csv`` with the columns of this collection, which others use too.

    Args:
        source: Folder of the collection.
        name: Name of the collection.
        prefix: Of its patients.
        image: Column with the file names.
    """
    metadata = read_table(one_file(source, "metadata.csv"), ("finding", "view", image))
    metadata.columns = metadata.columns.str.lower()
    for column in ("patientid", "modality", "folder", "offset", "sex", "age", "location"):
        if column not in metadata:
            metadata[column] = ""
    folder = metadata["folder"].str.strip().replace("", "images")
    is_ct = metadata["modality"].str.upper().eq("CT") | metadata["view"].str.contains(r"CT|Axial|Coronal", regex=True)
    label = metadata["finding"].map(label_of)
    reason = pd.Series("", index=metadata.index).mask(label == "", "its finding is not known")
    patient = metadata["patientid"].str.strip()
    return pd.DataFrame(
        {
            "path": folder + "/" + metadata[image].str.strip(),
            "label": label,
            "patient_id": (f"{prefix}-" + patient).where(patient != "", ""),
            "source": name,
            "view": metadata["view"].str.strip(),
            "row": metadata["row"],
            "reason": reason.mask(is_ct, "it is a CT, not an X-ray"),
            **{name: metadata[name].str.strip() for name in ("finding", "offset", "sex", "age", "location")},
        }
    )


def label_of(finding: str) -> str:
    """Return the class of a finding in the old (``COVID-19, ARDS``) or new (``Pneumonia/Viral/COVID-19``) notation."""
    name = finding.strip().lower()
    if name in _UNKNOWN:
        return ""
    if "covid-19" in name:
        return "covid-19"
    if name == "no finding":
        return "normal"
    if any(cause in name for cause in _PNEUMONIA):
        return "pneumonia"
    return name.split("/")[-1].replace(" ", "-")
