"""Crops by a frame, a box and a mask."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covid_xray.data.crop import BoxCrop, Crop, FrameCrop, MaskCrop, crop_records
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.records import check_records
from covid_xray.errors import UserError

SIDES, MARGINS = st.integers(1, 60), st.floats(0, 0.5)


@given(height=SIDES, width=SIDES, shares=st.lists(st.floats(0, 0.49), min_size=4, max_size=4))
def test_frame_leaves_its_share_of_any_image(height: int, width: int, shares: list[float]) -> None:
    first, last, top, bottom = FrameCrop(shares[0], shares[1], shares[2], shares[3]).region(height, width, {})
    assert 0 <= first < last <= width
    assert 0 <= top < bottom <= height
    assert last - first == pytest.approx((1 - shares[0] - shares[1]) * width, abs=2)
    assert bottom - top == pytest.approx((1 - shares[2] - shares[3]) * height, abs=2)


@given(height=SIDES, width=SIDES, margin=MARGINS, data=st.data())
def test_box_grows_by_its_margin_within_the_image(height: int, width: int, margin: float, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    row = {"path": "a.png", "box": f"{left}, {top} {right},{bottom}"}
    assert BoxCrop(margin=0).region(height, width, row) == (left, right, top, bottom)
    first, last, upper, lower = BoxCrop(margin=margin).region(height, width, row)
    assert 0 <= first <= left < right <= last <= width
    assert 0 <= upper <= top < bottom <= lower <= height
    assert first == 0 or left - first == pytest.approx(margin * (right - left), abs=1)
    assert lower == height or lower - bottom == pytest.approx(margin * (bottom - top), abs=1)


@pytest.fixture
def records(tmp_path: Path) -> pd.DataFrame:
    """Two images and their masks, which are half as large."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 60), dtype=np.uint8)
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[5:10, 6:12] = mask[12:15, 20:25] = 255
    (tmp_path / "masks").mkdir()
    for number, image in enumerate(noise):
        write_png(tmp_path / f"{number}.png", image)
        write_png(tmp_path / "masks" / f"{number}.png", mask)
    table = pd.DataFrame({"path": ["0.png", "1.png"], "label": ["a", "b"]})
    table["file"] = [str(tmp_path / path) for path in table["path"]]
    return check_records(table.assign(mask="masks/" + table["path"], box="12 10 50 30"))


@pytest.mark.parametrize("kind", [MaskCrop, BoxCrop])
def test_each_image_is_cropped_once_to_its_box(
    kind: type[MaskCrop | BoxCrop], records: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.attrs["reader"] = {"_target_": "mine"}
    crop = kind(margin=0, folder=str(tmp_path / "c"))
    found = crop_records(records, crop)
    for before, after in zip(records["file"], found["file"], strict=True):
        assert np.array_equal(read_image(after), read_image(before)[10:30, 12:50])
    assert found.drop(columns="file").equals(records.drop(columns="file"))
    assert found.attrs["reader"] == records.attrs["reader"]
    assert found.attrs["crop"] == {
        "_target_": f"covid_xray.data.crop.{kind.__name__}",
        "column": crop.column,
        "margin": 0,
        "folder": str(tmp_path / "c"),
    }

    def refuse(file: str | Path) -> None:
        pytest.fail(f"{file} is decoded although its crop exists")

    with monkeypatch.context() as patch:
        patch.setattr("covid_xray.data.crop.read_image", refuse)
        assert list(crop_records(records, crop)["file"]) == list(found["file"])


def test_a_changed_image_mask_or_setting_is_cropped_again(records: pd.DataFrame, tmp_path: Path) -> None:
    crop = MaskCrop(folder=str(tmp_path / "c"))
    files = [crop_records(records, crop)["file"][0]]
    write_png(Path(records["file"][0]), read_image(records["file"][0])[:, ::-1].copy())
    files.append(crop_records(records, crop)["file"][0])
    write_png(tmp_path / "masks" / "0.png", np.full((20, 30), 255, dtype=np.uint8))
    files.append(crop_records(records, crop)["file"][0])
    files.append(crop_records(records, MaskCrop(margin=0, folder=crop.folder))["file"][0])
    assert len(set(files)) == 4
    assert read_image(files[1]).shape != read_image(files[2]).shape == (40, 60)


def test_a_damaged_image_is_left_to_the_audit(records: pd.DataFrame, tmp_path: Path) -> None:
    Path(records["file"][1]).write_bytes(b"no image")
    found = crop_records(records, FrameCrop(folder=str(tmp_path / "c")))
    assert found["file"][1] == records["file"][1]
    assert read_image(found["file"][0]).shape == (30, 45)


@pytest.mark.parametrize(
    ("crop", "change", "words"),
    [
        (BoxCrop(column="lungs"), {}, "crop.column='lungs' is no column of the data; it has path"),
        (BoxCrop(), {"box": "1 2 3"}, "the box of 0.png must be left, top, right and bottom within its 60 x 40 pixels"),
        (BoxCrop(), {"box": "1 2 70 30"}, "not '1 2 70 30'"),
        (MaskCrop(), {"mask": ""}, "0.png has no mask"),
        (MaskCrop(), {"mask": "none.png"}, "none.png cannot be read"),
    ],
)
def test_mistakes(
    crop: Crop,
    change: dict[str, str],
    words: str,
    records: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as info:
        crop_records(records.assign(**change), crop)
    assert words in str(info.value)


@pytest.mark.parametrize("settings", [{"left": 1}, {"left": 0.5, "right": 0.5}, {"top": -0.1}, {"bottom": "much"}])
def test_frames_that_leave_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"crop\."):
        FrameCrop(**settings)
