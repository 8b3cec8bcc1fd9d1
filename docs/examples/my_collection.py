"""My collection (its authors, year).

Layout: ``index.csv`` (columns ``image``, ``diagnosis``, ``person`` and ``projection``) and the folder ``scans/``.
Source: the address where it can be downloaded. Licence: its name.
"""

from pathlib import Path

import pandas as pd

from covid_xray.data.importers import one_file, read_table

_LABELS = {"COVID": "covid-19", "healthy": "normal"}


def read(source: Path) -> pd.DataFrame:
    """List the images of the table. A row whose label is empty is reported in ``rejected.csv``."""
    table = read_table(one_file(source, "index.csv"), ("image", "diagnosis", "person", "projection"))
    return pd.DataFrame(
        {
            "path": "scans/" + table["image"],
            "label": table["diagnosis"].map(_LABELS).fillna(""),
            "patient_id": "my-collection-" + table["person"],
            "source": "my-collection",
            "view": table["projection"],
            "row": table["row"],
        }
    )
