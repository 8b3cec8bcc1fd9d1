"""The report: one HTML file that needs nothing else, on the screen by day and night and on paper."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure

from covid_xray.plots.classification import figure_png
from covid_xray.reporting.tables import Table

NOT_FOR_DIAGNOSIS = "For research and teaching. Not a medical device, not for diagnosis."

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1c1e;--soft:#5b6168;--paper:#fff;--card:#f5f6f7;--line:#d9dcdf;
--warn:#8a4b00;--warnbg:#fff4e0}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#a2a9b0;--paper:#15181b;--card:#1f2327;--line:#373d43;
--warn:#ffc46b;--warnbg:#33260f}
img.chart{filter:invert(1) hue-rotate(180deg);mix-blend-mode:screen}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:64rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}
p{margin:.5rem 0;max-width:48rem}
.soft,figcaption,caption,.note{color:var(--soft);font-size:.9rem}
nav{margin:1rem 0;font-size:.9rem}nav a{color:inherit;margin-right:1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1.2rem 0;padding:0}
.tile{background:var(--card);border-radius:.5rem;padding:.8rem 1rem}
.tile dt{color:var(--soft);font-size:.85rem}.tile dd{margin:0;font-weight:600}
.warning{background:var(--warnbg);color:var(--warn);border-left:4px solid currentColor;border-radius:.25rem;
padding:.6rem .9rem;margin:.5rem 0;max-width:none}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:.4rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--line)}
thead th{border-bottom:2px solid var(--line)}tbody th{font-weight:500}
td{overflow-wrap:break-word}
.pictures{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:flex-start}
figure{margin:1rem 0;flex:0 1 auto;max-width:100%}
img{max-width:100%;height:auto;display:block}
@media print{:root{--ink:#000;--soft:#444;--paper:#fff;--card:#f5f6f7;--line:#bbb;--warn:#6b3a00;--warnbg:#fff}
body{max-width:none;padding:0;font-size:10.5pt}img.chart{filter:none;mix-blend-mode:normal}nav{display:none}
figure,tr,.tile,.warning{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible}table{font-size:8.5pt}
@page{margin:15mm}}
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure in the report.

    Attributes:
        figure: A matplotlib figure, or the content of a PNG file.
        caption: What it shows; also its text for those who cannot see it.
        chart: Whether it may be drawn light on dark at night; false for X-rays.
        dpi: Dots per inch of a matplotlib figure.
    """

    figure: Figure | bytes
    caption: str
    chart: bool = True
    dpi: int = 144


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the report: words, then warnings, pictures and tables."""

    title: str
    paragraphs: Sequence[str] = ()
    warnings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that the report shows.

    Attributes:
        title: Headline.
        subtitle: What was tested on what, in one line.
        key_figures: Four to six numbers for the head of the page, by name.
        warnings: What the reader must know first.
        sections: The parts, in order.
        provenance: Where it all comes from: commit, configuration, hashes, hardware, versions.
    """

    title: str
    subtitle: str = ""
    key_figures: Mapping[str, str] | None = None
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    provenance: Mapping[str, str] | None = None


def render_report(report: Report) -> str:
    """The report as one HTML document: styles and pictures inside, no script, nothing from a network."""
    sections = list(report.sections)
    if report.provenance:
        table = Table(("what", "value"), tuple((key, str(value)) for key, value in report.provenance.items()))
        sections.append(Section("Provenance", tables=[table]))
    links = "".join(f'<a href="#part{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    tiles = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value in (report.key_figures or {}).items()
    )
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="soft">{escape(report.subtitle)}</p>' if report.subtitle else "",
        f'<p class="soft">{NOT_FOR_DIAGNOSIS}</p>',
        f'<dl class="tiles">{tiles}</dl>' if tiles else "",
        _warnings(report.warnings),
        f"<nav>{links}</nav>" if len(sections) > 1 else "",
        *(_section(section, f"part{i}") for i, section in enumerate(sections)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        # Even a mistake in this file cannot make the report load anything.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section, anchor: str) -> str:
    parts = [f'<section id="{anchor}">', f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(words)}</p>" for words in section.paragraphs]
    parts.append(_warnings(section.warnings))
    if section.pictures:
        parts.append(f'<div class="pictures">{"".join(_picture(picture) for picture in section.pictures)}</div>')
    parts += [_table(table) for table in section.tables]
    return "\n".join(part for part in [*parts, "</section>"] if part)


def _warnings(warnings: Sequence[str]) -> str:
    return "\n".join(f'<p class="warning" role="note">{escape(words)}</p>' for words in warnings)


def _picture(picture: Picture) -> str:
    content = picture.figure if isinstance(picture.figure, bytes) else figure_png(picture.figure, picture.dpi)
    data = base64.b64encode(content).decode("ascii")
    # 84 CSS pixels to the inch: 10 point print reads like the text around it, at whatever resolution.
    pixels = int.from_bytes(content[16:20], "big")
    width = pixels if isinstance(picture.figure, bytes) else round(84 * picture.figure.get_figwidth())
    kind = "chart" if picture.chart else "photo"
    caption = escape(picture.caption)
    return (
        f'<figure><img class="{kind}" width="{width}" alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'
    )
