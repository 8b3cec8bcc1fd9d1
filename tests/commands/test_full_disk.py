"""A disk that is full when an evaluation or audit is written: one sentence, and no half file."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter
from tiny_run import InProcess, command, copy_run, mistake, tiny_run

__all__ = ["command", "tiny_run"]
EVALUATE = "evaluate run={run} saliency=false resamples=2"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of any file that this process writes, as a full disk does; in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check(result: tuple[int, str, str], run: Path) -> None:
    mistake(result, "cannot be written: ")
    assert " MB free)" in result[2]
    assert str(run) in result[2] or run.name in result[2]
    assert not list(run.rglob("*.tmp"))


# Bytes that still fit, and the files of the evaluation that are then complete.
SIZES = {1000: set(), 10_000: {"predictions.csv"}, 100_000: {"predictions.csv", "metrics.csv"}}


@pytest.mark.parametrize("size", SIZES)
def test_evaluation(size: int, command: InProcess, tiny_run: Path) -> None:
    run = copy_run(tiny_run, f"full-{size}")
    with largest_file(size):
        result = command(EVALUATE.format(run=run))
    check(result, run)
    folder = run / "evaluation/test"
    found = {file.name for file in folder.iterdir()}
    assert "metrics.json" not in found
    assert "report.html" not in found
    assert found >= SIZES[size]


def test_events_of_an_evaluation(command: InProcess, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_run(tiny_run, "full-events")
    assert command(EVALUATE.format(run=run))[0] == 0
    before = {file.name: file.read_bytes() for file in run.glob("events*")}
    real, written = RecordWriter.write, 0

    def write(self: Any, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    check(command(EVALUATE.format(run=run)), run)
    assert {file.name: file.read_bytes() for file in run.glob("events*")} == before


def test_audit(command: InProcess, tiny_run: Path, workplace: Path) -> None:
    with largest_file(1000):
        result = command("audit data=phantom_tiny output=full-audit audit_cache=null")
    check(result, workplace / "full-audit")
    assert not list((workplace / "full-audit").iterdir())
