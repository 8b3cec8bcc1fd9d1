"""The first training batch of a phase, as the network receives it."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from covid_xray.errors import UserError
from covid_xray.plots.images import batch_figure

if TYPE_CHECKING:
    from covid_xray.data.datamodule import XrayDataModule


def show_batch(data: "XrayDataModule", n: int = 12, phase: str | None = None) -> Figure:
    """Plot the first training images of a phase: augmented, at the phase's size, in the order of training.

    Args:
        data: The data; set up if it is not yet.
        n: Number of images, at most the batch size.
        phase: Name of the phase; None: the first.

    Raises:
        UserError: If the schedule has no such phase.
    """
    from covid_xray.data.sampling import TrainBatches

    phases = data.schedule.phases
    name = next(iter(phases)) if phase is None else phase
    if name not in phases:
        raise UserError(f"phase={name!r} is not in the schedule; use one of {', '.join(phases)}")
    first = 0
    for other, settings in phases.items():
        if other == name:
            break
        first += settings.epochs
    table = data.subset("train")
    batches = TrainBatches(table["label"].tolist(), data.seed, order=data.sampler)
    batches.begin(first, phases[name].batch_size, phases[name].image_size)
    samples = next(iter(batches))[:n]
    images, labels = data.dataset(table).__getitems__(samples)
    return batch_figure(images[:, 0].numpy(), [data.class_names[label] for label in labels.tolist()])
