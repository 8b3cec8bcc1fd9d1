"""The audit finds the problems that a test adds to the data, and no others."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from covid_xray.data.audit.associations import associations, cramers_v
from covid_xray.data.audit.fingerprints import fingerprint, fingerprint_files, near_duplicates
from covid_xray.data.audit.near_duplicates import (
    MAX_BITS,
    MIN_CORRELATION,
    RECALL,
    connected_components,
    distance,
    find_near_duplicates,
    limits,
    traits,
)
from covid_xray.data.audit.report import AuditReport, audit_records, copies_among
from covid_xray.data.cache import read_images
from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import read_image
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import CLASSES, draw_phantom
from covid_xray.data.split import assign_splits
from covid_xray.errors import UserError

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared/data/chest-xrays"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real X-rays in {REAL}")


def chest(patient: int, shot: int = 0, size: int = 160) -> GreyImage:
    return draw_phantom(CLASSES[patient % 3], patient, shot, size)


def jpeg(image: GreyImage, quality: int) -> GreyImage:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0))


def resized(image: GreyImage, factor: float) -> GreyImage:
    shape = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(cv2.resize(image, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC))


def bordered(image: GreyImage, width: int, grey: int) -> GreyImage:
    return np.pad(image, width, constant_values=grey)


def brighter(image: GreyImage, gain: float, offset: float) -> GreyImage:
    return np.clip(image.astype(float) * gain + offset, 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[GreyImage], GreyImage]] = {
    "half size": lambda image: resized(image, 0.5),
    "double size": lambda image: resized(image, 2),
    "resized": lambda image: np.asarray(cv2.resize(image, (100, 140), interpolation=cv2.INTER_AREA)),
    "jpeg quality 30": lambda image: jpeg(image, 30),
    "brighter": lambda image: brighter(image, 1, 15),
    "darker": lambda image: brighter(image, 0.85, 0),
    "more contrast": lambda image: brighter(image, 1.15, -15),
    "small, bright and recompressed": lambda image: jpeg(brighter(resized(image, 0.5), 1.1, 8), 50),
}


def dataset(folder: Path, images: dict[str, GreyImage], **columns: list[str]) -> pd.DataFrame:
    """Write images and list them as records; by default, every image is its own patient."""
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image)
    names = list(images)
    table = pd.DataFrame({"path": names, "file": [str(folder / name) for name in names]})
    table = table.assign(label="normal", patient_id=names, source="", split="train")
    return table.assign(**columns)


@pytest.fixture(scope="module")
def chests() -> list[GreyImage]:
    return [chest(patient, shot) for patient in range(40) for shot in range(2)]


def test_clean_data_is_clean(tmp_path: Path, chests: list[GreyImage]) -> None:
    images = {f"{number}.png": image for number, image in enumerate(chests)}
    patients = [str(number // 2) for number in range(len(chests))]
    splits = ["train" if number < 60 else "test" for number in range(len(chests))]
    report = audit_records(dataset(tmp_path, images, patient_id=patients, split=splits))
    assert (report.exact_duplicates, report.near_duplicates, report.images_across_splits) == ([], [], [])
    assert report.leaks() == []
    assert report.unreadable == {}
    report.raise_for_leaks()
    report.raise_for_unreadable()


def test_same_pixels_in_another_format(tmp_path: Path) -> None:
    records = dataset(
        tmp_path, {"a.png": chest(0), "b.bmp": chest(0), "c.png": chest(1)}, split=["train", "val", "train"]
    )
    report = audit_records(records)
    assert report.exact_duplicates == [["a.png", "b.bmp"]]
    assert report.near_duplicates == []
    assert report.images_across_splits == [{"train": ["a.png"], "val": ["b.bmp"]}]
    with pytest.raises(UserError, match=r"a\.png.*b\.bmp.*split\.given=ignore.*allow_leakage"):
        report.raise_for_leaks()


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(change: str, tmp_path: Path, chests: list[GreyImage]) -> None:
    images = {f"{number}.png": image for number, image in enumerate(chests[:20])}
    images["copy.png"] = CHANGES[change](chests[7])
    splits = ["train"] * 20 + ["test"]
    report = audit_records(dataset(tmp_path, images, split=splits))
    assert report.near_duplicates == [["7.png", "copy.png"]]
    assert report.images_across_splits == [{"test": ["copy.png"], "train": ["7.png"]}]
    assert report.exact_duplicates == []


def test_copies_with_a_border_or_another_contrast_are_found(tmp_path: Path) -> None:
    images = {f"{number}.png": chest(number) for number in range(5)}
    images["white border.png"] = bordered(chest(0), 9, 255)
    images["border.png"] = bordered(chest(1), 12, 0)
    images["gamma.png"] = (255 * (chest(2) / 255) ** 1.5).astype(np.uint8)
    found = audit_records(dataset(tmp_path, images)).near_duplicates
    assert found == [["0.png", "white border.png"], ["1.png", "border.png"], ["2.png", "gamma.png"]]


@needs_real
@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_of_real_images_are_found(change: str) -> None:
    files = sorted(REAL.rglob("*.jpg"))[::60]
    images = [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), dtype=np.uint8) for file in files]
    known = [traits(image) for image in [*images, *map(CHANGES[change], images)]]
    pairs = find_near_duplicates(
        np.array([trait.hash for trait in known]), np.array([trait.thumbnail for trait in known])
    )
    assert pairs.tolist() == [[number, number + len(images)] for number in range(len(images))]


def test_patient_in_two_splits(tmp_path: Path) -> None:
    images = {f"{number}.png": chest(number) for number in range(4)}
    records = dataset(tmp_path, images, patient_id=["p", "p", "q", "q"], split=["train", "test", "val", "val"])
    report = audit_records(records)
    assert report.patients_across_splits == {"p": {"test": ["1.png"], "train": ["0.png"]}}
    assert report.leaks() == ["patient p in test (1.png) and train (0.png)"]


def test_copies_of_other_images(tmp_path: Path, chests: list[GreyImage]) -> None:
    """`evaluate` finds test images that are in the training data: the same pixels, or near duplicates."""
    changed = CHANGES["small, bright and recompressed"](chests[3])
    tested = dataset(tmp_path / "a", {"0.bmp": chests[2], "1.png": changed, "2.png": chests[30], "3.png": changed})
    (tmp_path / "a/2.png").write_bytes(b"no image")
    trained = dataset(tmp_path / "b", {f"{number}.png": image for number, image in enumerate(chests[:20])})
    equal, alike = copies_among(*(fingerprint_files(table["file"].tolist()) for table in (tested, trained)))
    assert equal.tolist() == [True, False, False, False]
    assert alike.tolist() == [True, True, False, True]


def test_label_conflict(tmp_path: Path) -> None:
    images = {"a.png": chest(0), "b.png": CHANGES["jpeg quality 30"](chest(0)), "c.png": chest(1)}
    report = audit_records(dataset(tmp_path, images, label=["normal", "pneumonia", "normal"]))
    assert report.label_conflicts == [{"normal": ["a.png"], "pneumonia": ["b.png"]}]
    assert report.leaks() == []


def test_label_conflict_is_a_warning_and_across_splits_a_refusal(tmp_path: Path) -> None:
    def conflicting(split: str) -> AuditReport:
        rows = [("a.png", "normal", "train"), ("b.png", "covid", split), ("c.png", "covid", split)]
        for number, name in enumerate("aac"):
            cv2.imwrite(str(tmp_path / f"{'abc'[number]}.png"), chest(ord(name)))
        table = pd.DataFrame(rows, columns=["path", "label", "split"])
        table["file"] = [str(tmp_path / path) for path in table["path"]]
        return audit_records(table.assign(patient_id=table["path"], source=""))

    (warning,) = [text for text in conflicting("train").warnings() if "labels" in text]
    assert warning.startswith("1 images occur under several labels, the first as covid (b.png) and normal (a.png)")
    with pytest.raises(UserError, match=r"under different labels; remove the copies, correct the labels"):
        conflicting("test").raise_for_leaks()


def test_negative_is_found(chests: list[GreyImage]) -> None:
    images = [*chests[:6], 255 - chests[2]]
    found = [traits(image) for image in images]
    pairs = find_near_duplicates(np.stack([trait.hash for trait in found]), np.stack([t.thumbnail for t in found]))
    assert pairs.tolist() == [[2, 6]]


@needs_real
def test_stated_recall_is_that_of_real_images(tmp_path: Path) -> None:
    """On a tenth of the images that the table was measured on."""
    images = [read_image(file) for file in sorted(REAL.rglob("*.jpg"))[::11]]

    def border(image: GreyImage) -> GreyImage:
        y, x = (max(1, round(side * 0.05)) for side in image.shape)
        return np.asarray(cv2.copyMakeBorder(image, y, y, x, x, cv2.BORDER_CONSTANT, value=0))

    def text(image: GreyImage) -> GreyImage:
        width, height = image.shape[1], image.shape[0]
        place, thick = (width // 20, height // 8), max(2, width // 150)
        return np.asarray(cv2.putText(image.copy(), "AP PORTABLE", place, 0, width / 400, 255, thick))

    changes: dict[str, Callable[[GreyImage], GreyImage]] = {
        "JPEG quality 10": lambda image: jpeg(image, 10),
        "negative": lambda image: 255 - image,
        "gamma 0.5": lambda image: (255 * (image / 255) ** 0.5).astype(np.uint8),
        "burnt-in text": text,
        "CLAHE": lambda image: np.asarray(cv2.createCLAHE(4, (8, 8)).apply(image)),
        "border of 5 %": border,
    }
    for name, change in changes.items():
        files, n = [], len(images)
        for number, image in enumerate((*images, *map(change, images))):
            files.append(str(tmp_path / f"{number}.png"))
            cv2.imwrite(files[-1], image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        pairs = near_duplicates(fingerprint_files(files))
        assert (pairs[:, 1] - pairs[:, 0] == n).sum() / n == pytest.approx(RECALL[name], abs=0.12), name
        assert f"{name} {RECALL[name]:.0%}" in limits()


def test_unreadable_files_are_named_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    records = dataset(tmp_path, {"a.png": chest(0), "b.png": chest(1), "c.png": chest(0)})
    (tmp_path / "b.png").write_bytes(b"no image")
    report = audit_records(records)
    assert list(report.unreadable) == ["b.png"]
    assert "no image" in report.unreadable["b.png"]
    assert report.exact_duplicates == [["a.png", "c.png"]]
    with pytest.raises(UserError, match=r"^1 images cannot be read: b\.png \(.*no image.*\); repair them"):
        report.raise_for_unreadable()
    for path in ("a.png", "c.png"):
        (tmp_path / path).write_bytes(b"no image")
    nothing = audit_records(records)
    assert len(nothing.unreadable) == 3
    assert nothing.associations == []


def test_counts(tmp_path: Path) -> None:
    images = {f"{number}.png": chest(number) for number in range(4)}
    columns = {"patient_id": ["p", "p", "q", "r"], "label": ["a", "a", "a", "b"], "source": ["s", "s", "", "s"]}
    counts = audit_records(dataset(tmp_path, images, **columns)).counts
    assert (counts["images"], counts["patients"]) == (4, 3)
    assert counts["by_class"] == {"a": {"images": 3, "patients": 2}, "b": {"images": 1, "patients": 1}}
    assert counts["by_split"] == {"train": counts["by_class"]}
    assert counts["by_source"]["unknown"] == {"a": {"images": 1, "patients": 1}}


def test_json_has_every_key(tmp_path: Path) -> None:
    report = json.loads(audit_records(dataset(tmp_path, {"ünï.png": chest(0)})).to_json())
    wanted = "unreadable exact_duplicates near_duplicates patients_across_splits images_across_splits label_conflicts"
    assert {*wanted.split(), "counts", "associations"} <= set(report)
    assert report["thresholds"]["most_bits_different"] == MAX_BITS


def test_cache_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = dataset(tmp_path, {f"{number}.png": chest(number) for number in range(3)})
    files, read, cache = records["file"].tolist(), [], tmp_path / "cache"

    def counting(file: str, *arguments: object) -> np.ndarray:
        read.append(Path(file).name)
        return np.asarray(fingerprint(file, *arguments))  # type: ignore[arg-type]

    monkeypatch.setattr("covid_xray.data.audit.fingerprints.fingerprint", counting)
    first = fingerprint_files(files, cache)
    again = fingerprint_files(files[::-1], cache)
    assert read == ["0.png", "1.png", "2.png"]
    pairs: Iterable[Any] = zip(first, again, strict=True)
    for a, b in pairs:
        assert np.array_equal(a, b[::-1])
    cv2.imwrite(files[1], chest(9))
    os.utime(files[1], ns=(1, 1))
    assert fingerprint_files(files, cache).pixels[1] != first.pixels[1]
    assert read[3:] == ["1.png"]
    store = next(cache.glob("*.npz"))
    for damage in (b"", b"no archive", store.read_bytes()[:300]):
        store.write_bytes(damage)
        read.clear()
        assert np.array_equal(fingerprint_files(files, cache).hash[0], first.hash[0])
        assert len(read) == 3
    assert sorted(file.suffix for file in cache.iterdir()) == [".lock", ".npz"]


def test_cache_that_cannot_be_written_is_not_used(tmp_path: Path) -> None:
    records = dataset(tmp_path, {"a.png": chest(0)})
    (tmp_path / "cache").write_text("in the way")
    assert fingerprint_files(records["file"].tolist(), tmp_path / "cache").width[0] == 160


def test_fingerprints_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """More images than `map_files` reads without a progress bar; every ninth file is missing."""
    for number in range(8):
        cv2.imwrite(str(tmp_path / f"{number}.png"), chest(number, size=64))
    files = [str(tmp_path / f"{number % 9}.png") for number in range(240)]
    alone, together = (fingerprint_files(files, workers=workers) for workers in (1, 2))
    pairs: Iterable[Any] = zip(alone, together, strict=True)
    for a, b in pairs:
        assert np.array_equal(a, b)
    assert b"No such file" in alone.reason[8]


def every_pair(hashes: np.ndarray, thumbnails: np.ndarray) -> set[tuple[int, int]]:
    """All near duplicates, by comparing every pair."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(float)
    correlation = np.corrcoef(flat)
    near = (distance(hashes[:, None], hashes[None]) <= MAX_BITS) & (correlation >= MIN_CORRELATION)
    return {(i, j) for i, j in np.argwhere(near).tolist() if i < j}


def test_search_finds_every_pair_within_the_threshold() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (40, 256), dtype=np.uint8)
    copies = []
    for number in range(400):
        copy = bits[number % 40].copy()
        copy[rng.choice(256, int(rng.integers(1, 45)), replace=False)] ^= 1
        copies.append(copy)
    hashes = np.packbits(np.concatenate([bits, copies]), axis=1).view(np.uint64)
    assert len(np.unique(hashes, axis=0)) == len(hashes)
    thumbnails = np.tile(rng.integers(0, 256, (1, 32, 32), dtype=np.uint8), (len(hashes), 1, 1))
    found = {tuple(pair) for pair in find_near_duplicates(hashes, thumbnails).tolist()}
    wanted = every_pair(hashes, thumbnails)
    assert found == wanted
    assert any(distance(hashes[i], hashes[j]) == MAX_BITS for i, j in wanted)


def test_search_finds_the_hardest_pairs() -> None:
    """31 different bits: two in each of 15 bands, one in the other band, at each of the 256 positions in turn."""
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 2**16, (256, 16), dtype=np.uint16)
    copies = bases.copy()
    for number in range(256):
        copies[number] ^= np.array([0b11 << int(shift) for shift in rng.integers(0, 15, 16)], dtype=np.uint16)
        band, bit = divmod(number, 16)
        copies[number, band] = bases[number, band] ^ np.uint16(1 << bit)
    hashes = np.concatenate([bases, copies]).view(np.uint64)
    assert (distance(hashes[:256], hashes[256:]) == MAX_BITS).all()
    thumbnails = np.tile(rng.integers(0, 256, (1, 32, 32), dtype=np.uint8), (512, 1, 1))
    assert find_near_duplicates(hashes, thumbnails).tolist() == [[number, number + 256] for number in range(256)]


def test_same_pixels_in_another_shape_are_another_image(tmp_path: Path) -> None:
    blank = np.full((40, 90), 7, np.uint8)
    report = audit_records(dataset(tmp_path, {"wide.png": blank, "high.png": blank.T}))
    assert report.exact_duplicates == []
    assert report.near_duplicates == [["wide.png", "high.png"]]


def test_equal_hashes_need_similar_thumbnails() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)
    thumbnails[2] = thumbnails[0]
    assert find_near_duplicates(np.zeros((3, 4), np.uint64), thumbnails).tolist() == [[0, 2]]


def test_no_images_and_blank_images() -> None:
    assert find_near_duplicates(np.empty((0, 4), np.uint64), np.empty((0, 32, 32), np.uint8)).shape == (0, 2)
    black, white = (traits(np.full((50, 60), level, np.uint8)) for level in (0, 255))
    assert distance(black.hash, white.hash) <= 1
    thumbnails = np.stack([black.thumbnail, white.thumbnail])
    assert find_near_duplicates(np.stack([black.hash, white.hash]), thumbnails).tolist() == [[0, 1]]


def test_connected_components_join_chains() -> None:
    assert connected_components(np.array([[5, 6], [1, 2], [2, 9], [6, 7], [3, 4]])) == [[1, 2, 9], [3, 4], [5, 6, 7]]


def test_twenty_thousand_hashes_take_seconds() -> None:
    """Comparing all pairs of 20,000 needs 200 million comparisons, which takes longer than the limit."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (20_000, 4), dtype=np.uint64) * np.uint64(2)
    hashes[-1] = hashes[0] ^ np.uint64(7)
    thumbnails = np.tile(rng.integers(0, 256, (1, 32, 32), dtype=np.uint8), (len(hashes), 1, 1))
    start = time.process_time()  # independent of other processes
    assert find_near_duplicates(hashes, thumbnails).tolist() == [[0, 19_999]]
    assert time.process_time() - start < 10


def test_hash_is_that_of_imagehash(chests: list[GreyImage]) -> None:
    """Distances between the hashes correlate with those of imagehash."""
    imagehash = pytest.importorskip("imagehash")
    from PIL import Image

    pictures = [*chests[:12], *map(CHANGES["jpeg quality 30"], chests[:12])]
    theirs = np.array([imagehash.phash(Image.fromarray(image), hash_size=16).hash.ravel() for image in pictures])
    their_distance = (theirs[:, None] != theirs[None]).sum(axis=2)
    ours = np.array([traits(image).hash for image in pictures])
    our_distance = distance(ours[:, None], ours[None])
    assert np.corrcoef(their_distance.ravel(), our_distance.ravel())[0, 1] > 0.9


def test_cramers_v() -> None:
    a = pd.Series(list("aabb") * 50)
    assert cramers_v(a, a) == pytest.approx(1)
    assert cramers_v(a, pd.Series(list("xyxy") * 50)) == 0
    assert cramers_v(a, pd.Series(["x"] * 200)) is None
    shuffled = pd.Series(np.random.default_rng(0).permutation(a))
    strength = cramers_v(a, shuffled)
    assert strength is not None
    assert strength < 0.15
    # Worked by hand: counts 60, 40 / 40, 60: phi² = 0.04, corrected by 1/199; V = sqrt(0.034975 / 0.994975)
    left = pd.Series(["a"] * 100 + ["b"] * 100)
    right = pd.Series(["x"] * 60 + ["y"] * 40 + ["x"] * 40 + ["y"] * 60)
    assert cramers_v(left, right) == pytest.approx(0.187489, abs=1e-5)


def factors(**columns: list[Any]) -> dict[str, dict[str, Any]]:
    n = len(next(iter(columns.values())))
    table = pd.DataFrame({"source": "", "view": "", "file": "a.png", "width": 100, "height": 100}, index=range(n))
    return {str(row["factor"]): row for row in associations(table.assign(**columns))}


def test_warning_of_an_association_is_a_sentence() -> None:
    label = ["covid-19"] * 30 + ["normal"] * 30 + ["pneumonia"] * 30
    found = factors(label=label, source=["cohen"] * 30 + ["nih"] * 60)
    assert found["source"]["warning"] == (
        "every covid-19 image comes from another source than all others: a classifier can use that instead of the lungs"
    )
    assert found["source"]["cramers_v"] == pytest.approx(1, abs=0.02)
    assert found["view"]["cramers_v"] is None
    assert not found["view"]["warning"]
    each_own = factors(label=label, file=["a.PNG"] * 30 + ["b.jpg"] * 30 + ["c.dcm"] * 30)
    assert each_own["file type"]["warning"].startswith("every class has a file type of its own")
    mixed = factors(label=label, view=["AP"] * 25 + ["PA"] * 65)
    assert mixed["view"]["warning"].startswith("label and view go together")


def test_size_and_aspect_ratio_are_separate_factors() -> None:
    rng = np.random.default_rng(0)
    label = ["a"] * 100 + ["b"] * 100
    width = [1024] * 100 + rng.integers(600, 900, 100).tolist()
    found = factors(label=label, width=width, height=width)
    assert found["size"]["cramers_v"] > 0.9
    assert found["aspect"]["cramers_v"] is None
    found = factors(label=label, width=rng.integers(600, 900, 200).tolist(), height=[700] * 200)
    assert found["size"]["cramers_v"] < 0.3
    assert not found["size"]["warning"]


@needs_real
def test_real_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = read_manifest(REAL / "manifest.csv")
    images = read_images(records["file"].tolist(), tmp_path, workers=2)
    report = audit_records(assign_splits(records, by="image"), images)
    assert ["normal/00002658_001.jpg", "normal/00002658_002.jpg"] in report.exact_duplicates
    twins = [
        f"covid-19/{name}.jpg"
        for name in ("E63574A7-4188-4C8D-8D17-9D67A18A1AFA", "F4341CE7-73C9-45C6-99C8-8567A5484B63")
    ]
    assert report.near_duplicates == [twins]
    assert report.unreadable == {}
    assert "every covid-19 image comes from another source than all others" in report.warnings()[0]
    assert len(report.patients_across_splits) > 50
    grouped_records = assign_splits(records, by="patient", given="ignore", images=images)
    # With the cache, no image is read again.
    monkeypatch.setattr("covid_xray.data.audit.fingerprints.decode_image", None)
    grouped: AuditReport = audit_records(grouped_records, audit_cache=tmp_path)
    assert grouped.leaks() == []


def test_command(covid_xray: Callable[..., subprocess.CompletedProcess[str]], workplace: Path) -> None:
    folder = workplace / "planted"
    images = {}
    for patient in range(30):
        images[f"{CLASSES[patient % 3]}/{patient}.png"] = chest(patient, size=96)
    images["normal/copy.png"] = CHANGES["jpeg quality 30"](images["covid-19/0.png"])
    listed = dataset(folder, images)[["path"]]
    listed = pd.concat([listed, pd.DataFrame({"path": ["normal/broken.png"]})])
    listed.assign(label=listed["path"].str.split("/").str[0], patient_id="one").to_csv(folder / "m.csv", index=False)
    done = covid_xray("audit", "data=folder", f"data.root={folder}", "output=report")
    assert done.returncode == 0, done.stderr
    report = json.loads((workplace / "report/audit.json").read_text())
    assert report["near_duplicates"] == [["covid-19/0.png", "normal/copy.png"]]
    assert report["label_conflicts"]
    assert "near duplicates: covid-19/0.png = normal/copy.png" in done.stdout
    assert list((workplace / "report").glob("events.out.tfevents.*"))
    (folder / "normal/broken.png").write_text("no image")
    leaking = covid_xray("audit", "data=manifest", "split=image", f"data.manifest={folder / 'm.csv'}", "output=leaking")
    assert leaking.returncode == 0, leaking.stderr
    report = json.loads((workplace / "leaking/audit.json").read_text())
    assert list(report["unreadable"]) == ["normal/broken.png"]
    assert report["patients_across_splits"]["one"]
    assert "training refuses this data" in leaking.stdout
    assert not (workplace / "outputs").exists() or not list((workplace / "outputs").glob("audit*"))
    missing = covid_xray("audit", "data=folder", f"data.root={folder}")
    assert missing.returncode == 2
    assert "output" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_audit_needs_no_torch() -> None:
    code = "import sys, covid_xray.data.audit.report; print({'torch', 'lightning', 'hydra'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert answer.stdout.strip() == "set()"
