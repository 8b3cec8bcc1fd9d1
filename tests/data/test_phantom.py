import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import covid_xray as cx
from covid_xray.data.images.read import read_image
from covid_xray.data.phantom import CLASSES, PhantomSet, draw_lungs, draw_phantom, find_phantoms
from covid_xray.data.phantom_marks import KINDS, SOURCES, draw_mark
from covid_xray.errors import UserError
from covid_xray.probes.shortcuts import blacken_centre


@pytest.mark.parametrize(
    ("settings", "sha256"),
    [
        (("normal", 0, 0, 64), "95d56098eb5761b05e3c4964cc49a0c0fe32631e4b1041602de46e386da2c871"),
        (("pneumonia", 1, 0, 64), "ad5877c1dbea6185182dfb8a12bd5c9e85e05e2fea9912850a7476a6e699294c"),
        (("covid-19", 2, 1, 64), "71b7292e135174829991409465293748acd0b0386a43bed6cc9b0fed1fd6303c"),
        (("covid-19", 4_000_029, 0, 96), "bf9cade9d68025361372c74066d670b7996e7e6e6a4f82d4e300e4aa519b93a9"),
    ],
)
def test_without_dials_phantoms_are_those_of_before(settings: tuple[str, int, int, int], sha256: str) -> None:
    assert hashlib.sha256(draw_phantom(*settings).tobytes()).hexdigest() == sha256


def test_a_set_without_dials_is_that_of_before(tmp_path: Path) -> None:
    table = cx.draw_phantoms(tmp_path, 9, 2, 48, 1)
    manifest = next(tmp_path.glob("*/manifest.csv"))
    assert manifest.parent.name == "v3-9x2-48px-seed1"
    assert manifest.read_text().splitlines()[:2] == [
        "path,label,patient_id,source",
        "covid-19/patient00000_0.png,covid-19,phantom-00000,phantom",
    ]
    for path, file in zip(table["path"], table["file"], strict=True):
        patient, image = int(path[-11:-6]), int(path[-5])
        assert np.array_equal(read_image(file), draw_phantom(path.partition("/")[0], 1_000_003 + patient, image, 48))


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_a_higher_probability_only_moves_marks_to_the_class(low: float, high: float, patient: int) -> None:
    low, high = sorted((low, high))
    weak, strong = (PhantomSet(3, 1, 32, shortcut=value).source(patient) for value in (low, high))
    assert strong in (weak, patient % 3)
    assert PhantomSet(3, 1, 32, shortcut=1).source(patient) == patient % 3


def test_marks_are_tied_with_the_stated_probability() -> None:
    for tied in (0.0, 0.5, 0.9):
        of_class = np.mean(
            [PhantomSet(3, 1, 32, shortcut=tied).source(patient) == patient % 3 for patient in range(3000)]
        )
        assert of_class == pytest.approx(tied + (1 - tied) / 3, abs=0.03)


def test_the_test_split_of_the_set_has_its_own_probability(tmp_path: Path) -> None:
    table = cx.draw_phantoms(tmp_path, 150, 1, 32, shortcut=1, test_shortcut=0.0)
    of_class = table["label"].map(dict(zip(CLASSES, SOURCES, strict=True))) == table["source"]
    in_test = table["split"] == "test"
    assert table["label"][in_test].value_counts().to_dict() == dict.fromkeys(CLASSES, 10)
    assert of_class[~in_test].all()
    assert of_class[in_test].mean() < 0.7
    split = cx.assign_splits(table)
    assert ((split["split"] == "test") == in_test).all()
    reader = dict(table.attrs["reader"])
    assert reader.pop("_target_") == "covid_xray.data.phantom.draw_phantoms"
    pd.testing.assert_frame_equal(find_phantoms(**reader), table)


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_has_a_mark_that_differs(kind: str) -> None:
    grey = draw_phantom("normal", 0, 0, 64)
    marked = [draw_mark(grey, kind, source, np.random.default_rng(0)) for source in range(3)]
    assert grey.shape == (64, 64)
    assert len({image.tobytes() for image in marked}) == 3
    if kind in ("marker", "frame"):  # the other kinds change the lungs too
        outside = blacken_centre(grey[None])[0] == blacken_centre(np.full_like(grey, 1)[None])[0]
        assert outside.any()
        assert all((image != grey).any() for image in marked)
        assert all(np.array_equal(image[8:-8, 8:-8], grey[8:-8, 8:-8]) for image in marked)


def test_disease_is_as_visible_as_the_setting_says() -> None:
    def brightness(label: str, visibility: float) -> float:
        seeds = range(20)
        lungs = [draw_lungs(seed, 0, 48) for seed in seeds]
        drawn = [draw_phantom(label, seed, 0, 48, visibility) for seed in seeds]
        return float(np.mean([grey[lung].mean() for grey, lung in zip(drawn, lungs, strict=True)]))

    clear = brightness("normal", 1)
    assert brightness("normal", 0) == clear
    for label in ("pneumonia", "covid-19"):
        hidden, half, full = (brightness(label, visibility) for visibility in (0, 0.5, 1))
        assert hidden == pytest.approx(clear, abs=0.5)
        assert clear + 2 < half < full - 2


def test_lungs_are_where_the_image_is_dark() -> None:
    lungs = draw_lungs(3, 0, 128)
    grey = draw_phantom("normal", 3, 0, 128)
    assert 0.1 < lungs.mean() < 0.5
    assert grey[lungs].mean() < 0.6 * grey[~lungs].mean()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shortcut": 1.5}, r"data\.shortcut must be a number from 0 to 1, or null for no mark, not 1\.5"),
        ({"shortcut": True}, r"data\.shortcut must be"),
        ({"disease": None}, r"data\.disease must be a number from 0 to 1, not None"),
        ({"disease": float("nan")}, r"data\.disease must be"),
        ({"shortcut": 0.5, "test_shortcut": "x"}, r"data\.test_shortcut must be"),
        ({"test_shortcut": 0.5}, r"needs data\.shortcut"),
        ({"shortcut": 0.5, "shortcut_kind": "../x"}, r"data\.shortcut_kind must be one of marker"),
        ({"size": 16}, r"data\.size must be a whole number from 32"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], text: str, tmp_path: Path) -> None:
    arguments: dict[str, object] = {"root": tmp_path, "patients": 3, "images_per_patient": 1, "size": 32}
    with pytest.raises(UserError, match=text):
        cx.draw_phantoms(**(arguments | settings))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
