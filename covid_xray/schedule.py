"""The training schedule: phases, discriminative learning rates and one-cycle, as pure functions of the epoch.

Plain Python, without torch. Sources: Howard and Ruder 2018 (discriminative rates, gradual unfreezing),
Smith 2018 (one-cycle), fastai (the cosine form of one-cycle and the meaning of ``slice``).
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from covid_xray.errors import UserError

MaxLR = float | str | Sequence[float]
MAX_SIZE, MAX_INT = 8192, 1 << 31  # more pixels than any detector has; more epochs or images than any data set
_SLICE = re.compile(r"^slice\(([^,()]+)(?:,([^,()]+))?\)$")


@dataclass(frozen=True)
class Phase:
    """A part of the training with fixed settings.

    Attributes:
        image_size: Side of the square images, in pixels.
        batch_size: Images per optimiser step, over all devices together.
        epochs: Number of passes over the training images.
        trains: ``"all"``, the name of one layer group, or a list of names; the other groups are frozen.
        max_lr: Peak of the one-cycle: a number (all groups), a pair (geometric spread from the first to the last
            group), one value per group, ``"slice(lr)"`` (a tenth of it for all groups but the last) or
            ``"slice(a, b)"``.
        train_bn: Whether BatchNorm layers of frozen groups go on training. If false, BatchNorm outside the last
            group is in evaluation mode with fixed scale and shift, in every group.
        accumulate: Equal parts of a batch that are computed one after the other, so that less memory is needed. The
            gradient is that of the mean over the whole batch. Training BatchNorm normalises each part by itself.
        cached_features: Compute the features of every image once, and train the last group on them. The images of the
            phase are not augmented, only the last group trains, and ``train_bn`` is false.
    """

    image_size: int
    batch_size: int
    epochs: int
    trains: str | Sequence[str]
    max_lr: MaxLR
    train_bn: bool = True
    accumulate: int = 1
    cached_features: bool = False

    def __post_init__(self) -> None:
        """Check every value, so that a mistake is found before data is loaded."""
        _check_int("image_size", self.image_size, 32, "ResNets halve the image five times", MAX_SIZE)
        _check_int("batch_size", self.batch_size, 2, "BatchNorm needs two images")
        _check_int("epochs", self.epochs, 1, "leave the phase out to skip it")
        _check_int("accumulate", self.accumulate, 1, "1 computes the whole batch at once")
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise UserError(
                f"accumulate={self.accumulate} must divide batch_size={self.batch_size} into equal parts of at least 2 "
                f"images"
            )
        if not isinstance(self.train_bn, bool):
            raise UserError(f"train_bn must be true or false, not {self.train_bn!r}")
        if not isinstance(self.cached_features, bool):
            raise UserError(f"cached_features must be true or false, not {self.cached_features!r}")
        if self.cached_features and (self.train_bn or self.accumulate > 1):
            raise UserError(
                "cached_features needs train_bn to be false, because BatchNorm that trains changes the features, and "
                "accumulate to be 1"
            )
        names = [self.trains] if isinstance(self.trains, str) else self.trains
        if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"trains must be 'all', a layer group or a list of layer groups, not {self.trains!r}")
        _parse_max_lr(self.max_lr)

    def trained_groups(self, groups: Sequence[str]) -> tuple[str, ...]:
        """Names of the layer groups that train, in the order of ``groups``.

        Raises:
            UserError: If a name is not a layer group of the model.
        """
        if self.trains == "all":
            return tuple(groups)
        wanted = [self.trains] if isinstance(self.trains, str) else list(self.trains)
        if unknown := [name for name in wanted if name not in groups]:
            raise UserError(f"trains: {unknown[0]!r} is no layer group of this model; use 'all' or {', '.join(groups)}")
        return tuple(name for name in groups if name in wanted)

    def group_max_lrs(self, n_groups: int) -> tuple[float, ...]:
        """Peak learning rate of each of ``n_groups`` layer groups, from the first (nearest the image) to the last.

        Raises:
            UserError: If ``max_lr`` is a list that is neither a pair nor one value per group.
        """
        kind, values = _parse_max_lr(self.max_lr)
        if kind == "same":
            return values * n_groups
        if kind == "tenth":
            return (values[0] / 10,) * (n_groups - 1) + values
        if len(values) == n_groups:
            return values
        if len(values) == 2:
            return geometric_spread(values[0], values[1], n_groups)
        raise UserError(f"max_lr has {len(values)} values; give 1, 2 (spread) or {n_groups} (one per layer group)")


@dataclass(frozen=True)
class Position:
    """Position of an epoch in the schedule: the phase, its name and number, and the epoch within it (from 0)."""

    name: str
    index: int
    phase: Phase
    epoch_in_phase: int


@dataclass(frozen=True)
class Schedule:
    """Phases in the order of training, and the shape of the one-cycle that each of them has.

    Attributes:
        phases: Phase by name; plain mappings are turned into `Phase`.
        pct_start: Share of a phase's steps in which the rate rises.
        div: The rate starts at ``max_lr / div``.
        div_final: The rate ends at ``max_lr / (div * div_final)``.
        beta1: Adam's first beta at the start, the peak and the end of the cycle.
        lr_scale: Factor of every ``max_lr``.
        rates: ``discriminative`` (as the phases say) or ``uniform`` (all layer groups at the last group's rate).
        sizes: ``progressive`` (as the phases say), ``first`` or ``last`` (the first or last phase's image size in every
            phase).
    """

    phases: Mapping[str, Phase]
    pct_start: float = 0.3
    div: float = 25.0
    div_final: float = 1e4
    beta1: Sequence[float] = (0.95, 0.85, 0.95)
    lr_scale: float = 1.0
    rates: str = "discriminative"
    sizes: str = "progressive"

    def __post_init__(self) -> None:
        """Turn mappings into phases; name the phase in every error."""
        if not isinstance(self.phases, Mapping) or not self.phases:
            raise UserError("schedule.phases must name at least one phase")
        phases = {name: _phase(name, value) for name, value in self.phases.items()}
        for key, choices in (("rates", ("discriminative", "uniform")), ("sizes", ("progressive", "first", "last"))):
            if getattr(self, key) not in choices:
                raise UserError(f"schedule.{key} must be one of {', '.join(choices)}, not {getattr(self, key)!r}")
        if self.sizes != "progressive":
            size = list(phases.values())[0 if self.sizes == "first" else -1].image_size
            phases = {name: replace(phase, image_size=size) for name, phase in phases.items()}
        object.__setattr__(self, "phases", phases)
        if not _is_number(self.lr_scale) or self.lr_scale <= 0:
            raise UserError(f"schedule.lr_scale must be a number above 0, not {self.lr_scale!r}")
        if not _is_number(self.pct_start) or not 0 < self.pct_start < 1:
            raise UserError(f"schedule.pct_start must lie between 0 and 1, not {self.pct_start!r}")
        for key in ("div", "div_final"):
            if not _is_number(getattr(self, key)) or getattr(self, key) < 1:
                raise UserError(f"schedule.{key} must be a number of at least 1, not {getattr(self, key)!r}")
        betas: Any = self.beta1
        if isinstance(betas, str) or len(betas) != 3 or not all(_is_number(b) and 0 <= b < 1 for b in betas):
            raise UserError(f"schedule.beta1 must be three numbers from 0 to below 1, not {betas!r}")

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases.values())

    @property
    def max_image_size(self) -> int:
        """The largest side, in pixels, that any phase needs."""
        return max(phase.image_size for phase in self.phases.values())

    def at(self, epoch: int) -> Position:
        """Position of an epoch, counted from 0 over the whole run; epochs after the end belong to the last phase."""
        first = 0
        for index, (name, phase) in enumerate(self.phases.items()):
            if epoch < first + phase.epochs or index == len(self.phases) - 1:
                return Position(name, index, phase, epoch - first)
            first += phase.epochs
        raise AssertionError("a schedule has at least one phase")

    def progress(self, epoch: int, batch: int, batches: int) -> float:
        """Share of its phase that is done when batch ``batch`` of ``batches`` of an epoch begins, in [0, 1)."""
        position = self.at(epoch)
        return (position.epoch_in_phase * batches + batch) / (position.phase.epochs * batches)

    def learning_rates(self, epoch: int, progress: float, n_groups: int) -> tuple[float, ...]:
        """Learning rate of every layer group at a moment of the phase that ``epoch`` belongs to."""
        factor = one_cycle(progress, self.pct_start, 1 / self.div, 1.0, 1 / (self.div * self.div_final))
        return tuple(factor * lr for lr in self.max_lrs(self.at(epoch).phase, n_groups))

    def max_lrs(self, phase: Phase, n_groups: int) -> tuple[float, ...]:
        """Peak learning rate of each layer group in a phase, after ``rates`` and ``lr_scale``."""
        peaks = phase.group_max_lrs(n_groups)
        if self.rates == "uniform":
            peaks = peaks[-1:] * n_groups
        # A factor of 1 must not change a bit.
        return peaks if self.lr_scale == 1 else tuple(self.lr_scale * lr for lr in peaks)

    def momentum(self, progress: float) -> float:
        """Adam's first beta at a moment of a phase."""
        return one_cycle(progress, self.pct_start, *self.beta1)

    def check(self, groups: Sequence[str], world_size: int = 1) -> None:
        """Check each phase against the model's layer groups and the number of devices.

        Raises:
            UserError: Naming the phase, if its groups, rates or batch size do not fit.
        """
        for name, phase in self.phases.items():
            try:
                trained = phase.trained_groups(groups)
                if phase.cached_features and trained != tuple(groups[-1:]):
                    raise UserError(f"cached_features needs trains to be {groups[-1]}: all other layers must be frozen")
                phase.group_max_lrs(len(groups))
            except UserError as error:
                raise UserError(f"schedule.phases.{name}.{error}") from None
            parts = world_size * phase.accumulate
            if phase.batch_size % parts or phase.batch_size // parts < 2:
                each = f", each with accumulate={phase.accumulate}" if phase.accumulate > 1 else ""
                raise UserError(
                    f"schedule.phases.{name}.batch_size={phase.batch_size} is the batch of all {world_size} processes "
                    f"together{each}: make it a multiple of {parts}, with at least 2 images each"
                )


def one_cycle(progress: float, pct_start: float, start: float, peak: float, end: float) -> float:
    """Value of a cosine one-cycle: from ``start`` to ``peak`` over the first ``pct_start``, then to ``end``.

    Args:
        progress: Share of the cycle that is done, in [0, 1].
        pct_start: Share of the cycle before the peak, in (0, 1).
        start: Value at 0.
        peak: Value at ``pct_start``.
        end: Value at 1.

    Source: Smith 2018, in the form of fastai's ``fit_one_cycle`` (cosine in both directions).
    """
    if progress < pct_start:
        return _cosine(start, peak, progress / pct_start)
    return _cosine(peak, end, (progress - pct_start) / (1 - pct_start))


def geometric_spread(first: float, last: float, n: int) -> tuple[float, ...]:
    """Spread ``n`` values from ``first`` to ``last`` with a constant ratio (fastai's ``slice(first, last)``)."""
    if n == 1:
        return (last,)
    ratio = (last / first) ** (1 / (n - 1))
    return tuple(first * ratio**i for i in range(n))


def _cosine(start: float, end: float, share: float) -> float:
    return start + (1 + math.cos(math.pi * (1 - share))) * (end - start) / 2


def _parse_max_lr(value: Any) -> tuple[str, tuple[float, ...]]:
    """Split ``max_lr`` into how it spreads (``same``, ``tenth`` or ``list``) and its numbers."""
    kind, values = "list", value
    if isinstance(value, str):
        if not (match := _SLICE.match(value.replace(" ", ""))):
            raise UserError(f"max_lr must be a number, a list of numbers, 'slice(lr)' or 'slice(a, b)', not {value!r}")
        kind = "list" if match[2] else "tenth"
        values = [_to_float(text) for text in match.groups() if text]
    elif not isinstance(value, Sequence):
        kind, values = "same", [value]
    if not values or not all(_is_number(v) and v > 0 for v in values):
        raise UserError(f"max_lr must be made of numbers above 0, not {value!r}")
    return kind, tuple(float(v) for v in values)


def _phase(name: str, value: Any) -> Phase:
    where = f"schedule.phases.{name}"
    if isinstance(value, Phase):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a mapping with {', '.join(f.name for f in fields(Phase))}, not {value!r}")
    known = {f.name: f for f in fields(Phase)}
    if unknown := [key for key in value if key not in known]:
        raise UserError(f"{where}.{unknown[0]} is unknown; a phase has {', '.join(known)}")
    if missing := [key for key, field in known.items() if key not in value and field.default is MISSING]:
        raise UserError(f"{where}.{missing[0]} is missing")
    try:
        return Phase(**value)
    except UserError as error:
        raise UserError(f"{where}.{error}") from None


def _check_int(name: str, value: Any, least: int, why: str, most: int = MAX_INT) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least} ({why}), not {value!r}")
    if value > most:
        raise UserError(f"{name} must be at most {most:,}, not {value:,}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
