"""The report: one HTML file without scripts and external files, for screens in light and dark mode and for print."""

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from covid_xray.files import write_atomically, write_failure
from covid_xray.plots.classification import figure_png
from covid_xray.plots.figure import HALF_WIDTH
from covid_xray.reporting.tables import Table

NOT_FOR_DIAGNOSIS = "For research and teaching. Not a medical device, not for diagnosis."
_ENVIRONMENT = Environment(
    loader=PackageLoader("covid_xray.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure in the report.

    Attributes:
        figure: The figure; add nothing to it after its first use.
        caption: What it shows; also the text for screen readers.
        chart: Whether dark mode may invert its colours; false for X-rays.
    """

    figure: Figure
    caption: str
    chart: bool = True

    @cached_property
    def png(self) -> bytes:
        """The figure as content of a PNG file."""
        return figure_png(self.figure, 144)

    @property
    def base64(self) -> str:
        """The PNG file as text."""
        return base64.b64encode(self.png).decode("ascii")

    @property
    def width(self) -> int:
        """Width in CSS pixels: with 101 pixels per inch, 10 point text of a figure looks like the text of a table."""
        return round(101 * float(self.figure.get_figwidth()))

    @property
    def is_wide(self) -> bool:
        """Whether it is as wide as the page; two others share a row."""
        return float(self.figure.get_figwidth()) > HALF_WIDTH


@dataclass(frozen=True, eq=False)
class Photo:
    """An X-ray in the report.

    Attributes:
        image: Grey (h, w) or colour (h, w, 3), uint8; None if the file cannot be read.
        caption: Lines of text below it; also the text for screen readers.
    """

    image: npt.NDArray[np.uint8] | None
    caption: str

    @cached_property
    def base64(self) -> str:
        """The image as a JPEG file in text."""
        from PIL import Image

        assert self.image is not None
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "JPEG", quality=90)
        return base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True, eq=False)
class PhotoGroup:
    """X-rays that belong together, side by side.

    Attributes:
        title: What they have in common.
        photos: The X-rays.
        warns: Whether they are framed as a warning.
        are_pairs: Whether each is an X-ray beside its heat map, twice as wide.
    """

    title: str
    photos: Sequence[Photo]
    warns: bool = False
    are_pairs: bool = False


@dataclass(frozen=True)
class Mark:
    """A finding that decides how to read all others.

    Attributes:
        name: Its name, such as ``Verdict``.
        text: The finding.
        warns: Whether it warns; None if nothing is known.
    """

    name: str
    text: str
    warns: bool | None


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the report: paragraphs, then warnings, pictures, photos and tables."""

    title: str
    paragraphs: Sequence[str] = ()
    warnings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    photos: Sequence[PhotoGroup] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """Content of a report.

    Attributes:
        title: Headline.
        subtitle: Model and test data, in one line.
        marks: The findings at the head of the page.
        key_metrics: Up to nine values below them, by name; text in parentheses becomes a line of its own.
        warnings: What the reader must know before the parts.
        sections: The parts, in order.
        provenance: Commit, configuration, hashes, hardware and versions, by name.
    """

    title: str
    subtitle: str = ""
    marks: Sequence[Mark] = ()
    key_metrics: Mapping[str, str] | None = None
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    provenance: Mapping[str, str] | None = None


def render_report(report: Report) -> str:
    """The report as one HTML document, with styles and pictures inside."""
    if report.provenance:
        table = Table(("what", "value"), tuple(report.provenance.items()))
        report = replace(report, sections=[*report.sections, Section("Provenance", tables=[table])])
    return _ENVIRONMENT.get_template("report.html.j2").render(report=report, notice=NOT_FOR_DIAGNOSIS)


def write_report(folder: Path, report: Report, pictures: Mapping[str, Picture]) -> None:
    """Write ``report.html`` and every picture as a PNG file with its name."""
    for name, picture in pictures.items():
        write_atomically(folder / f"{name}.png", picture.png)
    write_atomically(folder / "report.html", render_report(report))


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Create a folder and write files into it.

    Raises:
        UserError: If the folder or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise write_failure(folder, error) from None
