"""The configuration of a run: reading it, what it may name, and the objects that it describes."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from covid_xray.errors import UserError
from covid_xray.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

Config = dict[str, Any]
_GROUPS = ("schedule", "augment", "data", "model")


def build(config: Mapping[str, Any], group: str, **objects: Any) -> Any:
    """Call the ``_target_`` of a config group with its settings and with objects that YAML cannot hold.

    Args:
        config: The whole configuration, plain types.
        group: The group's name, such as ``model``.
        **objects: Further arguments of the target.

    Raises:
        UserError: If the target cannot be imported, or does not take these settings.
    """
    node = config[group]
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{group} must be a mapping with a _target_, not {node!r}; choose one with {group}=NAME")
    return _call(node, group, objects)


def check_run(
    run: str | Path, checkpoint: str | None = None, trust: bool = False
) -> tuple[RunFolder, Config, str, "pd.DataFrame"]:
    """Check that everything that loading needs is there, and return it.

    Fast: torch is not imported.

    Args:
        run: The run folder.
        checkpoint: ``best``, ``last``, or None for the one that the run itself was tested with.
        trust: Whether the configuration may name code outside this project.

    Raises:
        UserError: If the folder is no run folder, the checkpoint is missing or a setting is wrong.
    """
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise UserError(f"run={run} is no folder")
    for file in (folder.config, folder.splits):
        if not file.is_file():
            raise UserError(f"run={run} is no run folder: {file.name} is missing")
    config = read_config(folder.config)
    refuse_foreign_code(config, folder.config, trust)
    name = checkpoint or select(config, "checkpoint.select") or "best"
    if name not in ("best", "last"):
        raise UserError(f"checkpoint must be best or last, not {name!r}")
    if not folder.checkpoint(name).is_file():
        raise UserError(f"{folder.checkpoint(name)} does not exist: the run has no {name} checkpoint (yet)")
    return folder, config, name, read_splits(folder)


def read_splits(folder: RunFolder) -> "pd.DataFrame":
    """The split of every image, all columns as text.

    Raises:
        UserError: If the file is damaged.
    """
    import pandas as pd

    try:
        table = pd.read_csv(folder.splits, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.splits} cannot be read ({' '.join(str(error).split())})") from None
    if missing := [name for name in ("path", "label", "patient_id", "source", "split") if name not in table]:
        raise UserError(f"{folder.splits} has no column {missing[0]!r}; it is no splits.csv of a run")
    if table["label"].nunique() < 2:
        raise UserError(f"{folder.splits} lists fewer than two classes")
    return table


def read_config(file: Path) -> Config:
    """Read the ``config.yaml`` of a run.

    Raises:
        UserError: If it is damaged, or lacks a group.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except Exception as error:  # YAML and OmegaConf raise classes of their own
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())[:200]})") from None
    missing = [name for name in _GROUPS if not isinstance(config, dict) or name not in config]
    if missing or not isinstance(config, dict):
        raise UserError(f"{file} is no configuration of a run: it has no {missing[0]}")
    return {str(key): value for key, value in config.items()}


def refuse_foreign_code(config: Mapping[str, Any], file: Path, trust: bool) -> None:
    """Refuse a configuration that names code outside this project and albumentations.

    Raises:
        UserError: Naming the code, unless ``trust`` is set.
    """
    for group in _GROUPS:
        for target in _targets(config[group]):
            if trust or target.startswith("albumentations."):
                continue
            # A path such as covid_xray.networks.weights.torch.hub.load begins with the project's name, but leads out.
            inside = target.startswith("covid_xray.")
            try:
                inside = inside and _import(target).__module__.startswith("covid_xray.")
            except Exception as error:  # an import may raise anything
                raise UserError(f"{file}: {target} cannot be imported ({str(error).splitlines()[0]})") from None
            if not inside:
                raise UserError(
                    f"{file} names code outside this project ({target}); set trust=true if you know that it is harmless"
                )


def select(config: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key such as ``split.folds``; None if it is missing."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _call(node: Any, where: str, objects: Mapping[str, Any]) -> Any:
    """Build a node: mappings with a target become objects, other values stay."""
    if isinstance(node, list):
        return [_call(item, f"{where}.{number}", {}) for number, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    settings = {key: _call(value, f"{where}.{key}", {}) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return settings
    try:
        target = _import(str(node["_target_"]))
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: {node['_target_']} cannot be imported ({error})") from None
    try:
        inspect.signature(target).bind(**settings, **objects)
    except TypeError as error:
        raise UserError(f"{where}: {error}; see its settings with --cfg job --package {where}") from None
    try:
        return target(**settings, **objects)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())[:300]}") from None


def _import(target: str) -> Any:
    """The class or function at a dotted path; the path may lead through a class."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if length > 1 and error.name and ".".join(parts[:length]).startswith(error.name):
                continue
            raise
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ImportError("it has no module")


def _targets(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    if isinstance(node, list):
        return [target for value in node for target in _targets(value)]
    return []
