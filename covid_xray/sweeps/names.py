"""Names of a sweep's run folders: short, valid on every file system, and the same each time for the same job."""

import hashlib
import re
from collections.abc import Iterable

PHASES = "schedule.phases."  # left out of names: the names of phases are clear without it
_MAX_LENGTH = 150  # most file systems allow 255 bytes; temporary files append a suffix


def job_overrides(lines: Iterable[str]) -> dict[str, str]:
    """Value by setting of override lines such as ``seed=1`` or ``+callbacks.x.y=2``; empty for a removed setting."""
    return {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in lines)}


def run_name(lines: Iterable[str], left_out: Iterable[str] = ()) -> str:
    """Name a run folder by the overrides of its job, in any order.

    Args:
        lines: The job's overrides, such as ``schedule.phases.unfrozen_small.max_lr=[1e-6,4e-4]``.
        left_out: Settings that the name leaves out, with all that is within them, such as those that change no result.

    Returns:
        Such as ``seed=1,unfrozen_small.max_lr=1e-6_4e-4``; ``default`` if no setting is left. If characters had to be
        replaced or cut, the name ends with a checksum, which keeps different jobs apart. A name that is too long
        begins with the shortest settings, because long ones, such as paths, seldom vary.
    """
    hidden = tuple(left_out)
    items = sorted(f"{key}={value}" for key, value in job_overrides(lines).items() if not _within(key, hidden))
    items = [item.removeprefix(PHASES) for item in items]
    full = readable = ",".join(items)
    if len(full) > _MAX_LENGTH:
        readable = ",".join(sorted(items, key=len))
    readable = re.sub(r"\[([^][]*)\]", lambda found: re.sub(r",\s*", "_", found[1]), readable)
    name = re.sub(r"[^\w.=+,-]+", "_", readable).strip("_.")
    if len(name) > _MAX_LENGTH or name != readable:
        name = f"{name[:_MAX_LENGTH].rstrip('_.,')}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    return name or "default"


def _within(key: str, settings: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in settings)


def better(metric: str) -> str:
    """Direction in which a metric improves: ``minimize`` for losses, ``maximize`` for all others."""
    return "minimize" if metric.rsplit("/", 1)[-1] == "loss" else "maximize"
