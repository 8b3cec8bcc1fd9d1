"""Any ``<class>/`` or ``train|val|test/<class>/`` tree; every image is its own patient.

Use ``patient_regex`` to find patients in the file names.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.manifest import read_folder


def read(source: Path) -> pd.DataFrame:
    """List the images by class folder."""
    table = read_folder(source)
    return table.drop(columns="file").assign(source=source.resolve().name, view="")
