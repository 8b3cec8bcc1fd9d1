"""The report: one HTML file without scripts and external files, for screens in light and dark mode and for print."""

import base64
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from covid_xray.files import write_atomically, write_failure
from covid_xray.plots.classification import figure_png
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
        """Width in CSS pixels: with 84 pixels per inch, 10 point text of a figure looks like the text of the page."""
        return round(84 * float(self.figure.get_figwidth()))


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the report: paragraphs, then warnings, pictures and tables."""

    title: str
    paragraphs: Sequence[str] = ()
    warnings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """Content of a report.

    Attributes:
        title: Headline.
        subtitle: Model and test data, in one line.
        key_metrics: Up to six values at the head of the page, by name.
        warnings: What the reader must know first.
        sections: The parts, in order.
        provenance: Commit, configuration, hashes, hardware and versions, by name.
    """

    title: str
    subtitle: str = ""
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
