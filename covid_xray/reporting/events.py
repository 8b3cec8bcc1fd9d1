"""TensorBoard files outside of training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covid_xray.files import write_failure
from covid_xray.runs.folder import EVENTS


@contextlib.contextmanager
def event_file(folder: Path, suffix: str = "") -> Iterator[Any]:
    """Yield a `torch.utils.tensorboard.SummaryWriter`, whose file replaces the older ones of the same suffix.

    Args:
        folder: Where the file is written.
        suffix: End of its name.

    Raises:
        UserError: If the file cannot be written; then the older ones are still there.
    """
    from torch.utils.tensorboard import SummaryWriter

    def files() -> set[Path]:
        return {file for file in folder.glob(EVENTS) if file.name.endswith(suffix)}

    old = files()
    try:
        with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
            yield writer
            writer.flush()  # raises the error that the writing thread met
    except OSError as error:
        for half in files() - old:
            half.unlink(missing_ok=True)
        raise write_failure(folder, error) from error
    for file in old:
        file.unlink(missing_ok=True)
