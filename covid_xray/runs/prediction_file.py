"""The output file of `predict`: grows batch by batch, continues after a kill, gets its name when it is complete."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covid_xray.errors import UserError
from covid_xray.files import spreadsheet_text, write_atomically

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
            raise UserError(f"output={self.output} cannot be written: {error.strerror or error}") from None

    def append(self, rows: Sequence[Mapping[str, Any]], done: int) -> None:
        """Add rows; ``done`` counts all rows with these."""
        try:
            with self.part.open("ab") as file:
                file.write("".join(map(self._line, rows)).encode("utf-8", "backslashreplace"))
                size = file.tell()
            self._note(size, done)
        except OSError as error:
            raise UserError(f"output={self.output} cannot be written: {error.strerror or error}") from None

    def finish(self) -> None:
        """Give the file its name."""
        self.part.replace(self.output)
        self.state.unlink(missing_ok=True)

    def paths(self) -> Iterator[str]:
        """Paths of the rows of the part, in order."""
        with self.part.open(encoding="utf-8", newline="") as file:
            if self.kind == "csv":
                yield from (row["path"] for row in csv.DictReader(file))
            else:
                yield from (json.loads(line)["path"] for line in file)

    def _line(self, row: Mapping[str, Any]) -> str:
        if self.kind == "csv":
            return _csv_line([_cell(row[name]) for name in self.columns])
        return json.dumps({name: row[name] for name in self.columns}, ensure_ascii=False) + "\n"

    def _note(self, size: int, rows: int) -> None:
        write_atomically(self.state, json.dumps({"bytes": size, "rows": rows, "origin": dict(self.origin)}) + "\n")

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            origin, size = dict(state["origin"]), int(state["bytes"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.state} is damaged; remove it and {self.part.name} to start again") from None
        if origin != dict(self.origin):
            changed = sorted(key for key in origin.keys() | self.origin if origin.get(key) != self.origin.get(key))
            raise UserError(
                f"{self.part} was begun with other settings ({', '.join(changed)}); remove it, or use another output"
            )
        if size > self.part.stat().st_size:
            raise UserError(f"{self.part} is shorter than it was; remove it and {self.state.name} to start again")
        return dict(state)


def list_images(source: str) -> Iterator[str]:
    """Yield image files one by one: a file itself, those below a folder by name, those of a glob, or those of a list.

    Only the names of one folder at a time are held; a list is read line by line, relative to its own folder, with
    empty lines and lines that begin with # left out.

    Raises:
        UserError: If there is nothing there.
    """
    from covid_xray.data.images.read import EXTENSIONS

    path = Path(source)
    if path.is_dir():
        yield from _below(path, EXTENSIONS)
    elif path.is_file() and path.suffix.lower() in (".txt", ".lst", ".list"):
        yield from _listed(path)
    elif path.is_file():
        yield str(path)
    elif any(character in source for character in "*?["):
        import glob

        yield from sorted(glob.iglob(source, recursive=True))  # noqa: PTH207 absolute patterns
    else:
        raise UserError(f"input={source} does not exist; give an image, a folder, a glob or a .txt list")


def _below(folder: Path, extensions: Sequence[str]) -> Iterator[str]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"input: {folder} cannot be listed: {error.strerror or error}") from None
    for entry in entries:
        # A link to a parent folder would never end.
        if entry.is_dir() and not entry.is_symlink():
            yield from _below(entry, extensions)
        elif entry.suffix.lower() in extensions:
            yield str(entry)


def _listed(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for line in lines:
                if (name := line.strip()) and not name.startswith("#"):
                    yield str(file.parent / name)
    except UnicodeError:
        raise UserError(f"input={file} is not UTF-8 text; a list has one path per line") from None


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else spreadsheet_text(str(value))
