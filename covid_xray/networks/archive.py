"""Zip files, as torch saves tensors in, before anything of them is unpacked."""

import zipfile
from pathlib import Path


def bomb(path: Path) -> str:
    """Why a zip file could take much more memory than its size; empty if it could not. torch does not compress."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    return f"it is compressed, with {size:,} bytes of content" if size > 2 * path.stat().st_size else ""


def archive_fault(path: Path) -> str:
    """Why a checkpoint of this project cannot be read; empty if its content has the checksums that it was written with.

    torch does not compare the checksums, and other programs may write none.

    Raises:
        OSError: If the file cannot be read.
    """
    if reason := bomb(path):
        return reason
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return f"wrong checksum of {part}" if part else ""
