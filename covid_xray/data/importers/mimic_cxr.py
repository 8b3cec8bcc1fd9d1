"""MIMIC-CXR-JPG (Johnson et al. 2019), version 2.

Layout: ``mimic-cxr-2.0.0-metadata.csv``, ``-chexpert.csv`` and, if there, ``-split.csv`` (each also as ``.csv.gz``),
and ``files/p10/p10000032/s50414267/<dicom_id>.jpg``. The findings are those of CheXpert's labeller for the study: 1
present, 0 absent, -1 uncertain, empty not mentioned. `covid_xray.data.importers.findings` makes classes of them; by
default Pneumonia is ``pneumonia`` and No Finding ``normal``. Source: physionet.org/content/mimic-cxr-jpg.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import one_file, read_table
from covid_xray.data.importers.chexpert import CLASSES, FINDINGS
from covid_xray.data.importers.findings import join_findings

__all__ = ["CLASSES", "read"]
_VIEWS = {"LATERAL": "L", "LL": "L"}


def read(source: Path) -> pd.DataFrame:
    """List the images of the metadata."""
    studies = read_table(_file(source, "chexpert"), ("subject_id", "study_id", "No Finding", "Pneumonia"))
    names = [name for name in FINDINGS if name in studies]
    studies = studies.assign(findings=join_findings(studies, names, "1"), uncertain=join_findings(studies, names, "-1"))
    studies = studies.drop_duplicates("study_id").set_index("study_id")
    images = read_table(_file(source, "metadata"), ("dicom_id", "subject_id", "study_id", "ViewPosition"))
    patient, study, view = (images[name].str.strip() for name in ("subject_id", "study_id", "ViewPosition"))
    return pd.DataFrame(
        {
            "path": "files/p" + patient.str[:2] + "/p" + patient + "/s" + study + "/" + images["dicom_id"] + ".jpg",
            "patient_id": "mimic-" + patient,
            "source": "mimic-cxr",
            "view": view.replace(_VIEWS),
            "split": _splits(source).reindex(images["dicom_id"]).fillna("").to_numpy(),
            "row": images["row"],
            "reason": study.isin(studies.index).map({True: "", False: "its study has no findings"}),
            **{name: studies[name].reindex(study).fillna("").to_numpy() for name in ("findings", "uncertain")},
        }
    )


def _file(source: Path, part: str) -> Path:
    return one_file(source, f"mimic-cxr-2.0.0-{part}.csv", f"mimic-cxr-2.0.0-{part}.csv.gz")


def _splits(source: Path) -> pd.Series:
    if not any(source.glob("mimic-cxr-2.0.0-split.csv*")):
        return pd.Series(dtype=str)
    table = read_table(_file(source, "split"), ("dicom_id", "split")).drop_duplicates("dicom_id")
    return table.set_index("dicom_id")["split"].replace({"validate": "val"})
