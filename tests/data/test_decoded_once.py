"""How often the images of a new collection are decoded, from its first contact to the training."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covid_xray.data.audit.report import audit_records
from covid_xray.data.cache import read_images
from covid_xray.data.images import read
from covid_xray.data.images.read import read_image, write_png
from covid_xray.data.images.resize import resize
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import CLASSES, draw_phantom
from covid_xray.data.prepare import prepare


@pytest.mark.parametrize(("cache", "decoded"), [(False, 2), (True, 1)])
def test_prepare_audit_and_cache(cache: bool, decoded: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "xrays"
    for number in range(9):
        (source / CLASSES[number % 3]).mkdir(parents=True, exist_ok=True)
        write_png(source / CLASSES[number % 3] / f"{number}.png", draw_phantom(CLASSES[number % 3], number, 0, 64))
    write_png(source / CLASSES[0] / "small.png", np.full((8, 8), 7, np.uint8))
    counts: Counter[str] = Counter()
    decode = read._read_with_opencv
    monkeypatch.setattr(
        read,
        "_read_with_opencv",
        lambda data, path, header: counts.update([Path(path).name]) or decode(data, path, header),
    )
    known, store = tmp_path / "audit", tmp_path / "cache"
    settings: dict[str, Any] = {"cache": store, "image_size": 48} if cache else {}
    prepared = prepare("folder", source, tmp_path / "out", max_rejected=1.0, audit_cache=known, **settings)
    assert len(prepared.accepted) == 9
    assert not {"pixels", "file"} & set(prepared.accepted)
    records = read_manifest(prepared.manifest)
    audit_records(records, read_images(records["file"].tolist(), known))
    assert set(counts.values()) == {1}
    images = read_images(records["file"].tolist(), known, store, 48)  # as a training does
    assert {name: count for name, count in counts.items() if name != "small.png"} == {
        f"{n}.png": decoded for n in range(9)
    }
    assert images.stored is not None
    for row, file in enumerate(records["file"]):
        assert np.array_equal(images.stored[row], resize(read_image(file), 48))
    again = prepare("folder", source, tmp_path / "again", max_rejected=1.0, audit_cache=known)
    assert again.accepted.drop(columns="path").equals(prepared.accepted.drop(columns="path"))
