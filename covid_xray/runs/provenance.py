"""Provenance of a result: code, data, hardware, libraries."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("covid-xray", "torch", "torchvision", "lightning", "albumentations", "numpy", "scikit-learn", "scipy")


def file_hash(file: str | Path) -> str:
    """SHA-256 of a file's content."""
    with Path(file).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def data_hash(hashes: Iterable[str]) -> str:
    """One SHA-256 for a set of files, independent of their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def commit() -> str:
    """Commit of this code, with a mark if files were changed since; ``unknown`` outside a git checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
        return done.stdout.strip()

    try:
        # A package that is installed inside another checkout must not report that checkout's commit.
        if not git("ls-files", Path(__file__).name):
            return "unknown"
        changed = " with changes" if git("status", "--porcelain", "--untracked-files=no", "--", str(folder)) else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions(names: Sequence[str] = _LIBRARIES) -> str:
    """Installed versions of the libraries that results depend on."""
    found = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def hardware(device: str) -> str:
    """The device that computes."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads" + (" with MPS" if device == "mps" else "")


def now() -> str:
    """Time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
