"""The script that measures the first contact with a collection runs, on small sizes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from conftest import TESTS


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, whose module ``bench`` is not the one of experiments/speed."""
    monkeypatch.syspath_prepend(str(TESTS.parent / "experiments/data_speed"))
    other = sys.modules.pop("bench", None)
    import first_contact  # type: ignore[import-not-found]

    yield first_contact
    del sys.modules["bench"], sys.modules["first_contact"]
    if other is not None:
        sys.modules["bench"] = other


def test_every_way_of_every_format(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "SIDE", 64)
    monkeypatch.setattr(script, "STORED", 48)
    rows = pd.DataFrame(script.formats(images=3, rounds=1))
    assert rows.groupby("format").size().to_dict() == {"png": 6, "jpg": 6, "dcm": 6}
    assert (rows[rows["way"] == script.FLOOR]["times_the_floor"] == 1).all()
    assert (rows[rows["way"].str.startswith("prepare")]["times_the_floor"] > 1).all()


def test_a_collection_is_decoded_once(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.fingerprints, "decode_image", script.fingerprints.decode_image)
    script.draw_small(tmp_path / "xrays", 30)
    first, again = (script.whole(str(tmp_path / "xrays"), str(tmp_path / "out")) for _ in range(2))
    assert first["decoded_for_prepare_and_audit"] == 30
    assert again["decoded_for_prepare_and_audit"] == 0
    assert len(pd.read_csv(tmp_path / "out/out/manifest.csv")) == 30


def test_all_planted_pairs_are_found(script: ModuleType) -> None:
    row = script.search(3000)
    assert (row["planted_pairs"], row["found"], row["others"]) == (30, 30, 0)


@pytest.mark.slow
def test_a_killed_collection_continues(script: ModuleType) -> None:
    rows = script.collection(40)
    assert [row["session"] for row in rows][1:] == ["killed after its first save", "continued", "all known"]
    assert rows[0]["decoded_for_prepare_and_audit"] == 40
    assert rows[-1]["decoded_for_prepare_and_audit"] == 0
    assert all(row["same_manifest"] for row in rows)
