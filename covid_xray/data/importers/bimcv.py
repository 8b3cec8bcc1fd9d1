"""BIMCV-COVID19+ and BIMCV-COVID19- (de la Iglesia Vayá et al. 2020), in the layout MIDS of their publisher.

Layout: ``sub-<patient>/ses-<session>/mod-rx/sub-..._vp-<view>_<cr|dx>.png``, below a folder whose name says which part
it is: with ``posi`` the positive one (``covid-19``), with ``neg`` the negative one (``no-covid-19``). These are the
results of the patient's tests, not of the day of the image. Images in ``mod-ct`` are rejected.
Source: bimcv.cipf.es/bimcv-projects/bimcv-covid19.
"""

import re
from pathlib import Path

import pandas as pd

from covid_xray.data.importers import image_files
from covid_xray.errors import UserError

_PATIENT = re.compile(r"(?:^|/)sub-([^/_]+)")
_VIEW = re.compile(r"_vp-([a-z]+)")
_VIEWS = {"lateral": "L", "ll": "L"}


def read(source: Path) -> pd.DataFrame:
    """List the images of all sessions."""
    rows = []
    for file in image_files(source):
        path = file.relative_to(source).as_posix()
        patient, view = _PATIENT.search(path), _VIEW.search(file.name)
        label = _label(path) or _label(source.resolve().name)
        is_ct = "/mod-ct/" in f"/{path}" or file.stem.endswith("_ct")
        reason = "" if patient else "its path names no patient (sub-...)"
        rows.append(
            (
                path,
                label,
                f"bimcv-{patient[1]}" if patient else "",
                "bimcv-covid19",
                _VIEWS.get(view[1], view[1].upper()) if view else "",
                "it is a CT, not an X-ray" if is_ct else reason,
            )
        )
    if not any(row[1] and row[2] for row in rows):
        raise UserError(
            f"source={source} contains no images sub-*/ses-*/mod-rx/ below a folder with posi or neg in its name; "
            f"give the folder that does"
        )
    return pd.DataFrame(rows, columns=["path", "label", "patient_id", "source", "view", "reason"])


def _label(path: str) -> str:
    folders = path.lower()
    return "covid-19" if "posi" in folders else "no-covid-19" if "neg" in folders else ""
