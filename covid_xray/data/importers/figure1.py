"""Figure 1 COVID-19 chest X-ray data set (Chung et al. 2020).

Layout: ``metadata.csv`` (published in the encoding cp1252) and ``images/`` with ``<patientid>.jpg`` or ``.png``. Read
from it: ``patientid``, ``finding``, ``view``, ``modality``; classes as in `covid_xray.data.importers.cohen`. Images
without a finding are rejected. A letter at the end of ``patientid`` numbers the images of a patient: ``COVID-00003a``
and ``COVID-00003b`` are one patient. Source: github.com/agchung/Figure1-COVID-chestxray-dataset.
"""

import re
from pathlib import Path

import pandas as pd

from covid_xray.data.importers.cohen import read_metadata


def read(source: Path) -> pd.DataFrame:
    """List the images of the metadata."""
    table = read_metadata(source, "figure1-covid-chestxray", "fig1", "patientid")
    return table.assign(path=table["path"] + ".jpg", patient_id=table["patient_id"].map(patient_of))


def patient_of(patient: str) -> str:
    """Return a patient id without the letter that numbers the images."""
    return re.sub(r"(?<=\d)[a-z]$", "", patient)
