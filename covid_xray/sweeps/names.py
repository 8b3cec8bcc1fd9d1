"""The name of a sweep's run folder: short, the same whenever the same job comes again, and good for any file system."""

import contextlib
import hashlib
import re
from collections.abc import Iterable

from omegaconf import OmegaConf

_PREFIX = "schedule.phases."  # phases have telling names of their own
_LONGEST = 150  # most file systems take 255 bytes; draft files beside add a little


def job_overrides(lines: Iterable[str]) -> dict[str, str]:
    """Value by setting of override lines such as ``seed=1`` or ``+callbacks.x.y=2``; a removed setting has none."""
    return {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in lines)}


def run_name(lines: Iterable[str], left_out: Iterable[str] = ()) -> str:
    """Name a run folder by the overrides of its job, whatever their order.

    Args:
        lines: The job's overrides, such as ``schedule.phases.unfrozen_small.max_lr=[1e-6,4e-4]``.
        left_out: Settings that are not to be told, such as those that change no result.

    Returns:
        Such as ``seed=1,unfrozen_small.max_lr=1e-6_4e-4``; ``default`` where nothing is left to tell. Where characters
        had to go, a checksum at the end keeps different jobs apart; where the end has to go, the longest settings, such
        as paths, come last, for they seldom vary.
    """
    hidden = set(left_out)
    items = sorted(f"{key}={value}" for key, value in job_overrides(lines).items() if key not in hidden)
    items = [item.removeprefix(_PREFIX) for item in items]
    told = listed = ",".join(items)
    if len(told) > _LONGEST:
        listed = ",".join(sorted(items, key=len))
    listed = re.sub(r"\[([^][]*)\]", lambda found: re.sub(r",\s*", "_", found[1]), listed)
    name = re.sub(r"[^\w.=+,-]+", "_", listed).strip("_.")
    if len(name) > _LONGEST or name != listed:
        name = f"{name[:_LONGEST].rstrip('_.,')}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    return name or "default"


def setting_text(key: str, value: str) -> str:
    """A setting for a narrow table: without the prefix that all phases share, and with four digits."""
    with contextlib.suppress(ValueError):
        value = f"{float(value):.4g}" if len(value) > 8 else value
    return f"{key.removeprefix(_PREFIX)}={value}"


def better(metric: str) -> str:
    """Which way a figure gets better: ``minimize`` for losses, ``maximize`` for all others."""
    return "minimize" if metric.rsplit("/", 1)[-1] == "loss" else "maximize"


# Configuration asks for both by name. Where a launcher starts another process, this module is imported there too:
# the Hydra callback that travels with every job lives beside it.
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("better", better, replace=True)
