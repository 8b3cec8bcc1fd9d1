"""RICORD 1c, chest X-rays of patients with COVID-19 (Tsai et al. 2021): DICOM, or the PNG files that COVID-Net makes.

Layout: any folders, in which the name of a folder or file contains ``MIDRC-RICORD-1C-<patient>``, such as
``MIDRC-RICORD-1C/MIDRC-RICORD-1C-419639-000082/<study>/<series>/1-1.dcm``. All patients had a positive test, so every
image is ``covid-19``: add another collection as the second class. The view is read from the DICOM file. Images of
RICORD 1a and 1b are CT and rejected. Source: wiki.cancerimagingarchive.net, collection MIDRC-RICORD-1C.
"""

import re
from pathlib import Path

import pandas as pd

from covid_xray.data.images.dicom import read_view
from covid_xray.data.importers import image_files
from covid_xray.errors import UserError

_PATIENT = re.compile(r"MIDRC-RICORD-1([ABC])-(\d+-\d+)", re.IGNORECASE)


def read(source: Path) -> pd.DataFrame:
    """List the images of all patients."""
    rows = []
    for file in image_files(source):
        path = file.relative_to(source).as_posix()
        found = _PATIENT.search(path) or _PATIENT.search(source.resolve().name)
        reason = "" if found else "its path names no patient of RICORD"
        is_ct = found is not None and found[1].upper() != "C"
        view = read_view(file) if file.suffix.lower() in (".dcm", ".dicom") else ""
        patient = f"ricord-{found[2]}" if found else ""
        rows.append((path, "covid-19", patient, "ricord-1c", view, "it is a CT, not an X-ray" if is_ct else reason))
    if not any(row[2] for row in rows):
        raise UserError(f"source={source} contains no images of MIDRC-RICORD-1C; give the folder that does")
    return pd.DataFrame(rows, columns=["path", "label", "patient_id", "source", "view", "reason"])
