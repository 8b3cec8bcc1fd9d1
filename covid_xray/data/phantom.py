"""Chest phantoms: synthetic X-rays for demos and tests without patient data. Each class imitates a clinical pattern.

- ``normal``: clear lungs with vessels, ribs and a heart of varied size.
- ``pneumonia``: one or two focal opacities, or a lobe filled up to its fissure, on one side.
- ``covid-19``: several faint ground-glass patches on both sides, near the outer and lower margins of the lungs.

Two settings make phantoms with a known shortcut: ``shortcut`` ties a mark of the source to the class, and ``disease``
sets how visible the true findings are.

Phantoms do not simulate X-ray physics. Metrics on phantoms show that the program works, and nothing about medicine.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from covid_xray.data.images.grey import GreyImage
from covid_xray.data.images.read import write_png
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom_marks import KINDS, SOURCES, draw_mark
from covid_xray.errors import UserError
from covid_xray.files import write_failure

CLASSES = ("covid-19", "normal", "pneumonia")
Plane = NDArray[np.float32]
_VERSION = 3


@dataclass(frozen=True)
class PhantomSet:
    """Settings of a set of phantoms; those of `draw_phantoms`.

    Raises:
        UserError: If a setting is out of range.
    """

    patients: int
    images_per_patient: int
    size: int
    phantom_seed: int = 0
    shortcut: float | None = None
    shortcut_kind: str = "marker"
    test_shortcut: float | None = None
    disease: float = 1.0

    def __post_init__(self) -> None:
        """Check every setting."""
        for key, least, most in (
            ("patients", 3, 10**6),
            ("images_per_patient", 1, 1000),
            ("size", 32, 4096),
            ("phantom_seed", 0, 2**31),
        ):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UserError(f"data.{key} must be a whole number from {least} to {most}, not {value!r}")
        for key, or_null in (("shortcut", ", or null for no mark"), ("test_shortcut", ", or null"), ("disease", "")):
            value = getattr(self, key)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
            if not is_number and not (value is None and or_null):
                raise UserError(f"data.{key} must be a number from 0 to 1{or_null}, not {value!r}")
        if self.shortcut_kind not in KINDS:
            raise UserError(f"data.shortcut_kind must be one of {', '.join(KINDS)}, not {self.shortcut_kind!r}")
        if self.shortcut is None and self.test_shortcut is not None:
            raise UserError(
                f"data.test_shortcut={self.test_shortcut} needs data.shortcut, which is null: set data.shortcut=0 for "
                "training marks that are independent of the class"
            )

    def manifest(self, root: str | Path) -> Path:
        """Path of the manifest of the set below ``root``, drawn or not."""
        name = f"v{_VERSION}-{self.patients}x{self.images_per_patient}-{self.size}px-seed{self.phantom_seed}"
        if self.disease != 1:
            name += f"-disease{float(self.disease)}"
        if self.shortcut is not None:
            name += f"-{self.shortcut_kind}{float(self.shortcut)}"
        if self.test_shortcut is not None:
            name += f"-test{float(self.test_shortcut)}"
        return Path(root) / name / "manifest.csv"

    def is_test(self, patient: int) -> bool:
        """Whether the set itself puts a patient into the test split: a fifth of each class with ``test_shortcut``."""
        return self.test_shortcut is not None and patient // len(CLASSES) % 5 == 0

    def source(self, patient: int) -> int | None:
        """Number of the source of a patient; None without marks."""
        tied = self.test_shortcut if self.is_test(patient) else self.shortcut
        if tied is None:
            return None
        # The same draws for any probability: a higher one changes the mark of some patients and keeps the others.
        rng = np.random.default_rng((4, self.patient_seed(patient)))
        is_tied, other = rng.random() < tied, int(rng.integers(len(SOURCES)))
        return patient % len(CLASSES) if is_tied else other

    def patient_seed(self, patient: int) -> int:
        """Seed of the anatomy and disease of a patient."""
        return self.phantom_seed * 1_000_003 + patient

    def draw(self, patient: int, image: int) -> GreyImage:
        """Draw one image of a patient, with the mark of its source."""
        seed = self.patient_seed(patient)
        grey = draw_phantom(CLASSES[patient % len(CLASSES)], seed, image, self.size, self.disease)
        source = self.source(patient)
        if source is None:
            return grey
        return draw_mark(grey, self.shortcut_kind, source, np.random.default_rng((5, seed, image)))


def draw_phantom(label: str, patient_seed: int, image_seed: int, size: int = 256, visibility: float = 1.0) -> GreyImage:
    """Draw one chest as a grey image (size, size), uint8.

    Args:
        label: One of `CLASSES`.
        patient_seed: Seed of anatomy and disease; the same in all images of a patient.
        image_seed: Seed of pose, exposure and noise.
        size: Side of the image in pixels.
        visibility: Factor of the density of the findings, from 0 (none visible) to 1.
    """
    anatomy, shot = _generators(patient_seed, image_seed)
    x, y = _posed_grid(shot, size)
    left, right = _lung(anatomy, x, y, -1), _lung(anatomy, x, y, 1)
    lungs = np.maximum(left, right)
    density = 0.28 + 0.34 * _bump(x, y, 0, 0.3, 1.0, 1.5) - 0.38 * lungs
    density += _ribs(anatomy, x, y) * (0.4 + 0.6 * lungs)
    density += 0.16 * _bump(x, y, 0.0, 0.0, 0.11, 1.6) + _heart(anatomy, x, y) + _vessels(anatomy, x, y) * lungs
    disease = {"normal": _no_disease, "pneumonia": _pneumonia, "covid-19": _covid}[label]
    density += visibility * disease(anatomy, x, y, left, right)
    density += 0.03 * _texture(anatomy, size, 24) + 0.03 * _texture(shot, size, 10)
    return _expose(shot, density, size)


def draw_lungs(patient_seed: int, image_seed: int, size: int = 256) -> NDArray[np.bool_]:
    """Mask (size, size) of the lungs of the image that `draw_phantom` draws with the same seeds."""
    anatomy, shot = _generators(patient_seed, image_seed)
    x, y = _posed_grid(shot, size)
    return np.maximum(_lung(anatomy, x, y, -1), _lung(anatomy, x, y, 1)) > 0.5


def draw_phantoms(
    root: str | Path,
    patients: int,
    images_per_patient: int,
    size: int,
    phantom_seed: int = 0,
    shortcut: float | None = None,
    shortcut_kind: str = "marker",
    test_shortcut: float | None = None,
    disease: float = 1.0,
) -> pd.DataFrame:
    """Draw a set of phantoms with `make_phantoms` and read it into records.

    With a shortcut, every patient has one of three sources (column ``source``), and all images of the patient show the
    mark of this source. With probability p the source is that of the patient's class; otherwise it is drawn uniformly
    from all three. So p = 0 makes source and class independent, p = 1 makes them identical, and a mark is that of the
    class with probability p + (1 - p) / 3. Marks are drawn over the finished image: the other pixels of a marker or a
    frame are those of the same set without marks.

    Args:
        root: Folder of all sets.
        patients: Number of patients. They are distributed evenly over the three classes.
        images_per_patient: Maximum number of images per patient; the minimum is 1.
        size: Side of the images in pixels.
        phantom_seed: Seed of the set.
        shortcut: Probability p; None for no marks.
        shortcut_kind: See `covid_xray.data.phantom_marks.draw_mark`.
        test_shortcut: Probability p of the test images, if it is another one. The set then has a test split of its
            own (column ``split``), a fifth of the patients of each class. None: as ``shortcut``, and no split.
        disease: Factor of the density of the findings, from 0 (not visible, all classes look normal) to 1.

    Raises:
        UserError: If a setting is out of range.
    """
    settings = PhantomSet(
        patients, images_per_patient, size, phantom_seed, shortcut, shortcut_kind, test_shortcut, disease
    )
    table = read_manifest(make_phantoms(root, settings))
    table.attrs["reader"] = {
        "_target_": "covid_xray.data.phantom.draw_phantoms",
        "root": str(root),
        **asdict(settings),
    }
    return table


def find_phantoms(root: str | Path, **settings: Any) -> pd.DataFrame:
    """Read a set of phantoms as `draw_phantoms` with the same arguments, but draw nothing.

    Raises:
        UserError: If the set was not drawn before.
    """
    return read_manifest(PhantomSet(**settings).manifest(root))


def make_phantoms(root: str | Path, settings: PhantomSet) -> Path:
    """Draw a set of phantoms, or find the set with the same settings that was drawn before.

    Args:
        root: Folder of all sets; each set has its own subfolder.
        settings: Settings of the set.

    Returns:
        Path of the manifest of the set.
    """
    manifest = settings.manifest(root)
    if manifest.is_file():
        return manifest
    target = manifest.parent
    draft = Path(f"{target}.{os.getpid()}.draft")  # another process may draw the same set at the same time
    try:
        draft.mkdir(parents=True, exist_ok=True)
        rows = []
        for patient in track(range(settings.patients), description="drawing phantoms", transient=True):
            label, source = CLASSES[patient % len(CLASSES)], settings.source(patient)
            rng = np.random.default_rng((3, settings.patient_seed(patient)))
            for image in range(1 + int(rng.integers(settings.images_per_patient))):
                name = f"{label}/patient{patient:05d}_{image}.png"
                (draft / label).mkdir(exist_ok=True)
                write_png(draft / name, settings.draw(patient, image))
                source_name = "phantom" if source is None else SOURCES[source]
                split = "test" if settings.is_test(patient) else ""
                rows.append((name, label, f"phantom-{patient:05d}", source_name, split))
        table = pd.DataFrame(rows, columns=["path", "label", "patient_id", "source", "split"])
        if settings.test_shortcut is None:
            table = table.drop(columns="split")
        table.to_csv(draft / "manifest.csv", index=False)
        (draft / "settings.json").write_text(json.dumps(asdict(settings)) + "\n")
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise write_failure(target, error) from error
        raise
    try:
        draft.rename(target)
    except OSError:
        if not manifest.is_file():
            raise
        shutil.rmtree(draft)  # another process was faster
    return manifest


def _generators(patient_seed: int, image_seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Generators of the anatomy with its disease, and of the pose, exposure and noise."""
    return np.random.default_rng((1, patient_seed)), np.random.default_rng((2, patient_seed, image_seed))


def _posed_grid(rng: np.random.Generator, size: int) -> tuple[Plane, Plane]:
    """Coordinates of each pixel in the frame of the chest, from about -1 to 1, for a random pose."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle, scale = np.deg2rad(rng.normal(0, 3)), rng.uniform(0.88, 1.15)
    dx, dy = rng.normal(0, 0.06, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    return ((cos * x - sin * y) / scale + dx).astype(np.float32), ((sin * x + cos * y) / scale + dy).astype(np.float32)


def _bump(x: Plane, y: Plane, cx: float, cy: float, sx: float, sy: float) -> Plane:
    return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)


def _edge(distance: Plane, softness: float) -> Plane:
    return np.asarray(1 / (1 + np.exp(np.clip(distance / softness, -30, 30))), dtype=np.float32)


def _lung(rng: np.random.Generator, x: Plane, y: Plane, side: int) -> Plane:
    """Soft mask of one lung; ``side`` is -1 for the left of the image, 1 for the right."""
    cx, half = side * rng.uniform(0.40, 0.46), rng.uniform(0.29, 0.35)
    top, bottom = rng.uniform(-0.80, -0.70), rng.uniform(0.45, 0.62)
    middle, height = (top + bottom) / 2, (bottom - top) / 2
    narrowing = 1 - 0.35 * np.clip((middle - y) / height, 0, 1)
    dome = bottom - 0.16 * np.exp(-(((x - cx * 0.9) / 0.2) ** 2))
    inside = ((np.abs(x - cx) / (half * narrowing)) ** 2.6 + (np.abs(y - middle) / height) ** 3.2) ** (1 / 2.8) - 1
    return _edge(inside, 0.05) * _edge(y - dome, 0.02)


def _ribs(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    spacing, slope, strength = rng.uniform(0.15, 0.19), rng.uniform(0.25, 0.5), rng.uniform(0.04, 0.09)
    arc = (y - slope * x**2) / spacing + rng.uniform(0, 1)
    ribs = strength * np.exp(-((np.mod(arc, 1) - 0.5) ** 2) / 0.03) * (np.abs(x) > 0.08)
    collar_bone = 0.12 * np.exp(-(((y + 0.72 - 0.25 * np.abs(x)) / 0.035) ** 2))
    return np.asarray(ribs + collar_bone, dtype=np.float32)


def _heart(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    radius = rng.uniform(0.22, 0.32)
    distance = np.sqrt(((x - 0.13) / radius) ** 2 + ((y - 0.28) / (radius * 1.1)) ** 2) - 1
    return np.asarray(0.26 * _edge(distance, 0.08), dtype=np.float32)


def _vessels(rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Vessels that fade from the hilum outwards, and small shadows without clinical meaning."""
    total = np.zeros_like(x)
    for side in (-1, 1):
        for angle in rng.uniform(-1.3, 1.3, 7):
            along = (x * side - 0.12) * np.cos(angle) + (y + 0.02) * np.sin(angle)
            across = -(x * side - 0.12) * np.sin(angle) + (y + 0.02) * np.cos(angle)
            width = 0.012 + 0.012 * np.clip(1 - along, 0, 1)
            total += 0.13 * np.exp(-((across / width) ** 2)) * np.exp(-np.clip(along, 0, 2) / 0.22) * (along > 0)
    for _ in range(rng.integers(0, 3)):  # such as nipples and old scars
        total += 0.1 * _bump(x, y, rng.uniform(-0.55, 0.55), rng.uniform(-0.5, 0.5), 0.03, 0.03)
    return total


def _no_disease(rng: np.random.Generator, x: Plane, y: Plane, left: Plane, right: Plane) -> Plane:
    return np.zeros_like(x)


def _pneumonia(rng: np.random.Generator, x: Plane, y: Plane, left: Plane, right: Plane) -> Plane:
    side = int(rng.choice([-1, 1]))
    lung = left if side < 0 else right
    strength = rng.uniform(0.28, 0.5)
    if rng.random() < 0.4:  # lobar: filled below or above an oblique fissure
        fissure = y - rng.uniform(-0.15, 0.2) - rng.uniform(-0.25, 0.25) * x
        lobe = _edge(-fissure if rng.random() < 0.65 else fissure, 0.025)
        return np.asarray(strength * lobe * lung, dtype=np.float32)
    opacity = np.zeros_like(x)
    for _ in range(rng.integers(1, 3)):
        cx, cy, radius = side * rng.uniform(0.22, 0.5), rng.uniform(-0.45, 0.4), rng.uniform(0.09, 0.2)
        opacity = np.maximum(opacity, _patch(rng, x, y, cx, cy, radius, 0.12))
    return np.asarray(strength * opacity * lung, dtype=np.float32)


def _covid(rng: np.random.Generator, x: Plane, y: Plane, left: Plane, right: Plane) -> Plane:
    opacity = np.zeros_like(x)
    for side in (-1, 1):
        for _ in range(rng.integers(1, 4)):
            cx, cy = side * rng.uniform(0.5, 0.72), rng.uniform(-0.3, 0.5)
            patch = _patch(rng, x, y, cx, cy, rng.uniform(0.1, 0.22), 0.3)
            opacity = np.maximum(opacity, rng.uniform(0.2, 0.38) * patch)
    return np.asarray(opacity * np.maximum(left, right), dtype=np.float32)


def _patch(rng: np.random.Generator, x: Plane, y: Plane, cx: float, cy: float, radius: float, softness: float) -> Plane:
    """Round opacity with an irregular margin; ``softness`` is the width of the margin as a fraction of the radius."""
    angle = np.arctan2(y - cy, x - cx)
    margin = 1 + sum(rng.uniform(0, 0.18) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 5))
    distance = np.sqrt((x - cx) ** 2 + (0.8 * (y - cy)) ** 2) / (radius * margin) - 1
    return _edge(np.asarray(distance, dtype=np.float32), softness)


def _texture(rng: np.random.Generator, size: int, cells: int) -> Plane:
    """Smooth random field of about unit variance, with structures of 1/``cells`` of the image side."""
    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _expose(rng: np.random.Generator, density: NDArray[np.floating], size: int) -> GreyImage:
    """Simulate the detector: blur, exposure, contrast, noise, and a side marker in a corner."""
    image = cv2.GaussianBlur(density, (0, 0), size / 256 * rng.uniform(0.5, 1.4))
    image = np.clip((image - rng.uniform(0.0, 0.1)) * rng.uniform(0.85, 1.2), 0.001, 1.2) ** rng.uniform(0.75, 1.35)
    image = image + rng.normal(0, rng.uniform(0.01, 0.04), image.shape)
    grey = np.asarray(np.clip(image, 0, 1) * 255, dtype=np.uint8)
    if rng.random() < 0.5:
        corner = (int(size * rng.choice([0.05, 0.85])), int(size * 0.12))
        cv2.putText(grey, str(rng.choice(["L", "R"])), corner, cv2.FONT_HERSHEY_SIMPLEX, size / 400, 255, 1)
    return grey
