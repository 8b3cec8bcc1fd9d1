"""Actualmed COVID-19 chest X-ray data set (Chung et al. 2020).

Layout: ``metadata.csv`` and ``images/``. Read from it: ``patientid``, ``finding``, ``view``, ``modality``,
``imagename``; classes as in `covid_xray.data.importers.cohen`. Inconclusive images have no finding and are rejected.
Source: github.com/agchung/Actualmed-COVID-chestxray-dataset.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers.cohen import read_metadata


def read(source: Path) -> pd.DataFrame:
    """List the images of the metadata."""
    return read_metadata(source, "actualmed-covid-chestxray", "actmed", "imagename")
