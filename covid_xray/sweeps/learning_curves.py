"""Learning curves by epoch, read from a run's TensorBoard files."""

from collections.abc import Sequence
from pathlib import Path

from covid_xray.runs.folder import EVENTS

Curve = dict[int, float]  # value by epoch, counted from 1


def read_curves(folder: Path, tags: Sequence[str]) -> dict[str, Curve]:
    """Read values that were logged once per epoch.

    Only the requested scalars are kept in memory, not the images. As in TensorBoard, values are left out that a killed
    session logged after the checkpoint from which the run continued.

    Args:
        folder: A run folder; without TensorBoard files, the curves are empty.
        tags: Such as ``val/loss``.

    Returns:
        Curve by tag.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    found: dict[str, dict[int, float]] = {tag: {} for tag in ("epoch", *tags)}  # value by step
    for file in sorted(folder.glob(EVENTS)):
        for content in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(content)
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                found = {
                    tag: {step: value for step, value in values.items() if step < event.step}
                    for tag, values in found.items()
                }
            for value in event.summary.value:
                if value.tag in found:
                    found[value.tag][event.step] = value.simple_value
    epochs = found.pop("epoch")
    return {
        tag: {int(epochs[step]) + 1: value for step, value in sorted(values.items()) if step in epochs}
        for tag, values in found.items()
    }
