"""``curves.csv``: every scalar that a run logs, with any logger. A row is a step, the name of a metric, and a value."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from covid_xray.errors import UserError
from covid_xray.files import read_bytes, write_atomically, write_failure

Point = tuple[int, str, float]  # step, metric, value
_HEADER = ("step", "metric", "value")
_MAX_BYTES = 1 << 29


def read_points(file: Path) -> list[Point]:
    """Read all values, in the order in which they were logged.

    The last row is left out if it is not complete: a kill or a full disk stopped its writing.

    Raises:
        UserError: If the file is missing or damaged.
    """
    content = read_bytes(file, _MAX_BYTES)
    complete = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    table = csv.reader(io.StringIO(complete, newline=""))
    points = []
    for number, row in enumerate(table, start=1):
        try:
            step, metric, value = row
            if number > 1:
                points.append((int(step), metric, float(value)))
            elif tuple(row) != _HEADER:
                raise ValueError
        except ValueError:
            raise UserError(
                f"{file} is damaged (row {number} is not {', '.join(_HEADER)}); restore or remove it"
            ) from None
    return points


def write_points(file: Path, points: Iterable[Point]) -> None:
    """Write a file with these values only."""
    write_atomically(file, _rows([_HEADER]) + _rows(points))


def append_points(file: Path, points: Iterable[Point]) -> None:
    """Append values, and wait until they are on the disk.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        with file.open("a", encoding="utf-8", newline="") as opened:
            opened.write(_rows(points))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise write_failure(file, error) from error


def by_step(points: Iterable[Point]) -> dict[int, dict[str, float]]:
    """Value by metric, by step in ascending order."""
    found: dict[int, dict[str, float]] = {}
    for step, metric, value in points:
        found.setdefault(step, {})[metric] = value
    return dict(sorted(found.items()))


def _rows(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)  # a float as its shortest exact text
    return text.getvalue()
