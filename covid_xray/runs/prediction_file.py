"""The output file of `predict`: grows batch by batch, continues after a kill, gets its name when it is complete."""

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from covid_xray.errors import UserError
from covid_xray.files import lock, original_text, replace_durably, spreadsheet_text, write_atomically, write_failure
from covid_xray.runs.folder import read_json

FORMATS = ("csv", "jsonl")


@dataclass(frozen=True)
class PredictionFile:
    """The output file.

    While it grows, the rows are in ``<output>.part``, and ``<output>.part.json`` holds what they depend on and how many
    bytes of them are complete.

    Attributes:
        output: The finished file.
        kind: ``csv`` or ``jsonl``.
        columns: Names of the columns.
        origin: What the rows depend on; a part with another origin is not continued.
    """

    output: Path
    kind: str
    columns: tuple[str, ...]
    origin: Mapping[str, Any]

    @property
    def part(self) -> Path:
        """The growing file."""
        return self.output.with_name(self.output.name + ".part")

    @property
    def state(self) -> Path:
        """What the growing file depends on."""
        return self.output.with_name(self.output.name + ".part.json")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the output for this process.

        Raises:
            UserError: If another process writes it, or the folder cannot be written.
        """
        file = self.output.with_name(self.output.name + ".part.lock")
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            held = lock(file)
        except OSError as error:
            raise write_failure(self.output, error) from None
        if held is None:
            raise UserError(f"another process writes {self.output}; wait for its end, or use another output")
        with held:
            try:
                yield
            finally:
                file.unlink(missing_ok=True)

    def begin(self) -> int:
        """Start the growing file, or cut off an unfinished row after a kill.

        Returns:
            Number of rows that are done.

        Raises:
            UserError: If the growing file belongs to other settings, or cannot be written.
        """
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            if not (self.part.is_file() and self.state.is_file()):
                header = _csv_line(self.columns) if self.kind == "csv" else ""
                self.part.write_text(header, encoding="utf-8", newline="")
                self._note(len(header.encode()), 0)
                return 0
            state = self._read_state()
            with self.part.open("r+b") as file:
                file.truncate(state["bytes"])
            return int(state["rows"])
        except OSError as error:
            raise write_failure(self.output, error) from None

    def append(self, rows: Sequence[Mapping[str, Any]], done: int) -> None:
        """Add rows; ``done`` counts all rows with these."""
        try:
            with self.part.open("ab") as file:
                file.write("".join(map(self._line, rows)).encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            self._note(size, done)
        except OSError as error:
            raise write_failure(self.output, error) from None

    def finish(self) -> None:
        """Give the file its name."""
        try:
            replace_durably(self.part, self.output)
            self.state.unlink(missing_ok=True)
        except OSError as error:
            raise write_failure(self.output, error) from None

    def rows(self, size: int | None = None) -> Iterator[Mapping[str, Any]]:
        """Rows of the part, or of its first bytes, in order."""
        with self.part.open("rb") as file:
            lines = _lines(file, self.part.stat().st_size if size is None else size)
            yield from csv.DictReader(lines) if self.kind == "csv" else map(json.loads, lines)

    def _line(self, row: Mapping[str, Any]) -> str:
        if self.kind == "csv":
            return _csv_line([_cell(row[name]) for name in self.columns])
        return json.dumps({name: row[name] for name in self.columns}, ensure_ascii=False) + "\n"

    def _note(self, size: int, rows: int) -> None:
        write_atomically(self.state, json.dumps({"bytes": size, "rows": rows, "origin": dict(self.origin)}) + "\n")

    def _read_state(self) -> dict[str, Any]:
        broken = UserError(f"{self.state} is damaged; remove it and {self.part.name} to start again")
        try:
            state = read_json(self.state)
        except UserError:
            raise broken from None
        origin, size = state.get("origin"), state.get("bytes")
        if not isinstance(origin, dict) or type(size) is not int or type(state.get("rows")) is not int:
            raise broken
        if origin != dict(self.origin):
            changed = sorted(key for key in origin.keys() | self.origin if origin.get(key) != self.origin.get(key))
            raise UserError(
                f"{self.part} was begun with other settings ({', '.join(changed)}); remove it, or use another output"
            )
        if size > self.part.stat().st_size:
            raise UserError(f"{self.part} is shorter than it was; remove it and {self.state.name} to start again")
        if not self._holds(size, state["rows"]):
            raise broken
        return state

    def _holds(self, size: int, count: int) -> bool:
        """Whether the first bytes of the part are exactly so many whole rows."""
        try:
            found = [set(row) == set(self.columns) for row in self.rows(size)]
        except (ValueError, TypeError, csv.Error, RecursionError):
            return False
        return len(found) == count and all(found)


def _lines(file: IO[bytes], size: int) -> Iterator[str]:
    """Lines within the first bytes of a file."""
    for line in file:
        size -= len(line)
        if size < 0:
            return
        yield line.decode("utf-8")


def list_images(source: str, left_out: Counter[str] | None = None) -> Iterator[str]:
    """Yield image files one by one: a file itself, those below a folder by name, those of a glob, or those of a list.

    In a folder or glob, a file is an image if its extension or its first bytes are those of an image; hidden files are
    left out. Only the names of one folder at a time are held. A list is a text file with a path per line, or a CSV file
    with a column ``path``; it is read line by line, relative to its own folder, with empty lines and lines that begin
    with # left out.

    A path that a spreadsheet would run as a formula gets ``./`` before it, which names the same file.

    Args:
        source: The image, folder, glob or list.
        left_out: Counts the files that are left out, by the reason.

    Raises:
        UserError: If there is nothing there, or a list cannot be read.
    """
    left_out = Counter() if left_out is None else left_out
    return (path if spreadsheet_text(path) == path else f"./{path}" for path in _list_images(source, left_out))


def _list_images(source: str, left_out: Counter[str]) -> Iterator[str]:
    path = Path(source)
    if path.is_dir():
        yield from _below(path, left_out)
    elif path.is_file() and path.suffix.lower() in (".txt", ".lst", ".list", ".csv"):
        yield from _listed(path)
    elif path.is_file():
        yield str(path)
    elif any(character in source for character in "*?["):
        import glob

        for name in sorted(glob.iglob(_pattern(source), recursive=True)):  # noqa: PTH207 absolute patterns
            if Path(name).is_dir():
                left_out["folders"] += 1
            else:
                yield from _if_image(Path(name), left_out)
    else:
        raise UserError(f"input={source} does not exist; give an image, a folder, a glob, or a .txt or .csv list")


def _pattern(source: str) -> str:
    """The glob, without a meaning of brackets in the names of the folders that it begins with, if these exist."""
    import glob

    parts, known = Path(source).parts, Path()
    for number, part in enumerate(parts):
        if not (known / part).is_dir():
            return str(Path(glob.escape(str(known)), *parts[number:]))
        known /= part
    return source


def _below(folder: Path, left_out: Counter[str], depth: int = 0) -> Iterator[str]:
    from covid_xray.data.folder import HIDDEN, check_depth

    check_depth(folder, depth)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"input: {folder} cannot be listed: {error.strerror or error}") from None
    for entry in entries:
        if not entry.is_dir():
            yield from _if_image(entry, left_out)
        elif HIDDEN.match(entry.name):
            left_out["hidden files and folders"] += 1
        elif entry.is_symlink():  # a link to a parent folder would never end
            left_out["links to folders"] += 1
        else:
            yield from _below(entry, left_out, depth + 1)


def _if_image(file: Path, left_out: Counter[str]) -> Iterator[str]:
    from covid_xray.data.folder import HIDDEN
    from covid_xray.data.images.read import EXTENSIONS, looks_like_image

    if HIDDEN.match(file.name):
        left_out["hidden files and folders"] += 1
    elif file.suffix.lower() in EXTENSIONS or looks_like_image(file):
        yield str(file)
    else:
        left_out["files that are no images"] += 1


def _listed(file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as start:
            encoding = "utf-16" if start.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with file.open(encoding=encoding, newline="") as lines:
            for name in _column(file, lines) if file.suffix.lower() == ".csv" else map(str.strip, lines):
                if name and not name.startswith("#"):
                    path = file.parent / name
                    if "\\" in name and not path.exists():  # a list from Windows
                        path = file.parent / name.replace("\\", "/")
                    yield str(path)
    except OSError as error:
        raise UserError(f"input={file} cannot be read: {error.strerror or error}") from None
    except UnicodeError:
        raise UserError(f"input={file} is not UTF-8 text; a list has one path per line") from None
    except csv.Error as error:
        raise UserError(
            f"input={file} cannot be read as CSV ({error}); save it again, or list the paths in a .txt file"
        ) from None


def _column(file: Path, lines: Iterable[str]) -> Iterator[str]:
    rows = csv.reader(lines)
    header = [name.strip().lower() for name in next(rows, [])]
    if "path" not in header:
        raise UserError(f"input={file} has no column path; name the column of the image files so")
    column = header.index("path")
    yield from (original_text(row[column].strip()) for row in rows if len(row) > column)


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else spreadsheet_text(str(value))
