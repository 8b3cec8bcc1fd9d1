"""The configuration of a run: reading it, what it may name, and the objects that it describes."""

import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covid_xray.errors import UserError
from covid_xray.files import original_text, read_text
from covid_xray.runs.folder import RunFolder, damaged, read_yaml

if TYPE_CHECKING:
    import pandas as pd

Config = dict[str, Any]
# The groups that are built from the configuration of a run, and what the configuration may name there without trust.
# Nothing else that can be imported: a library of this project or its readers would open, write or run other files.
_READERS = ("folder.read_folder", "manifest.read_manifest", "phantom.draw_phantoms")
_MAX_SPLITS = 1 << 28  # bytes
_NETWORKS = ("resnet.TransferResNet", "timm_network.TimmNetwork", "covidnet.CovidNetLike", "darkcovidnet.DarkCovidNet")
_ALLOWED = {
    "schedule": ("covid_xray.schedule.Schedule",),
    "augment": ("covid_xray.data.augmentation.Augmentation",),
    "data": tuple(f"covid_xray.data.{reader}" for reader in _READERS),
    "model": tuple(f"covid_xray.networks.{network}" for network in _NETWORKS),
}
_OPTIONAL = {"crop": tuple(f"covid_xray.data.crop.{name}Crop" for name in ("Frame", "Box", "Mask"))}


def build(
    config: Mapping[str, Any], group: str, offers: Mapping[str, Callable[[], Any]] | None = None, /, **objects: Any
) -> Any:
    """Call the ``_target_`` of a config group with its settings and with objects that YAML cannot hold.

    Args:
        config: The whole configuration, plain types.
        group: The group's name, such as ``model``.
        offers: What makes further arguments, by the name of a parameter by which the target can ask for them.
        **objects: Further arguments of the target.

    Raises:
        UserError: If the target cannot be imported, or does not take these settings.
    """
    node = config[group]
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{group} must be a mapping with a _target_, not {node!r}; choose one with {group}=NAME")
    return _call(node, group, objects, offers)


def check_run(
    run: str | Path, checkpoint: str | None = None, trust: bool = False
) -> tuple[RunFolder, Config, str, "pd.DataFrame"]:
    """Check that everything that loading needs is there, and return it.

    Fast: torch is not imported.

    Args:
        run: The run folder, or a bundle.
        checkpoint: ``best``, ``last``, or None for the one that the run itself was tested with.
        trust: Whether the configuration may name code outside this project, and any place to write at.

    Raises:
        UserError: If the folder is no run folder, the checkpoint is missing or a setting is wrong.
    """
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise UserError(f"run={run} is no folder")
    if not folder.config.is_file():
        raise UserError(f"run={run} is no run folder: {folder.config.name} is missing")
    config = read_config(folder.config)
    refuse_foreign_code(config, folder.config, trust)
    for path in () if trust else (folder.calibration, folder.path / "evaluation", *folder.path.glob("evaluation/*")):
        if path.is_symlink():
            raise UserError(f"{path} is a link, so results would be written elsewhere; remove it, or set trust=true")
    name = checkpoint or select(config, "checkpoint.select") or "best"
    if name not in ("best", "last"):
        raise UserError(f"checkpoint must be best or last, not {name!r}")
    if folder.is_bundle and name != (select(config, "checkpoint.select") or "best"):
        raise UserError(f"checkpoint={name}: {run} is a bundle, which has one set of weights; leave checkpoint out")
    if not folder.checkpoint(name).is_file():
        raise UserError(f"{folder.checkpoint(name)} does not exist: the run has no {name} checkpoint (yet)")
    return folder, config, name, read_splits(folder)


def checkpoint_of(weights: str) -> str:
    """The selected checkpoint of a run folder; other weights are returned unchanged."""
    folder = RunFolder(Path(weights))
    if not folder.config.is_file():
        return weights
    return str(folder.checkpoint(select(read_config(folder.config), "checkpoint.select") or "best"))


def read_splits(folder: RunFolder) -> "pd.DataFrame":
    """The split of every image, all columns as text; an empty table if the folder has none, as a bundle.

    Raises:
        UserError: If the file is damaged.
    """
    import pandas as pd

    from covid_xray.data.records import MAX_CLASSES, check_text

    columns = ["path", "label", "patient_id", "source", "split"]
    if not folder.splits.exists():
        return pd.DataFrame(columns=columns, dtype=str)
    try:
        # Read at once: a file that is larger than memory, or a pipe, is refused before.
        table = pd.read_csv(io.StringIO(read_text(folder.splits, _MAX_SPLITS)), dtype=str, keep_default_na=False)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise damaged(folder.splits, str(error)) from None
    if missing := [name for name in columns if name not in table]:
        raise UserError(f"{folder.splits} has no column {missing[0]!r}; it is no splits.csv of a run")
    if table["label"].nunique() < 2:
        raise UserError(f"{folder.splits} lists fewer than two classes")
    if table["label"].nunique() > MAX_CLASSES:
        raise damaged(folder.splits, f"it lists more than {MAX_CLASSES} classes")
    if not (known := table["split"].isin(["train", "val", "test", "unseen"])).all():
        raise damaged(folder.splits, f"the split {table['split'][~known].iloc[0]!r} is unknown")
    table = table.map(original_text)
    check_text(table)
    return table


def read_config(file: Path) -> Config:
    """Read the ``config.yaml`` of a run.

    Raises:
        UserError: If it is damaged, or lacks a group.
    """
    config = read_yaml(file)
    for name in _ALLOWED:
        node = config.get(name, "")
        if not (isinstance(node, dict) and "_target_" in node) and (name != "data" or node is not None):
            raise UserError(f"{file} is no configuration of a run: {name} must be a mapping with a _target_")
    return config


def refuse_foreign_code(config: Mapping[str, Any], file: Path, trust: bool) -> None:
    """Refuse a configuration that names other code than a run of this project needs; nothing is imported for that.

    Raises:
        UserError: Naming the code, unless ``trust`` is set.
    """
    for group, allowed in () if trust else (_ALLOWED | _OPTIONAL).items():
        for path, target in _targets(config.get(group)):
            nested = group == "augment" and path and set(path[::2]) == {"transforms"}
            if not (_is_transform(target) if nested else not path and target in allowed):
                raise UserError(
                    f"{file} names code outside this project ({target}) as {'.'.join([group, *path])}; it could do "
                    "anything on this computer: set trust=true if you know that it is harmless"
                )


def select(config: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key such as ``split.folds``; None if it is missing."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _call(
    node: Any, where: str, objects: Mapping[str, Any], offers: Mapping[str, Callable[[], Any]] | None = None
) -> Any:
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
        signature = inspect.signature(target)
        asked = {name: make() for name, make in (offers or {}).items() if name in signature.parameters}
        objects = {**objects, **asked}
        signature.bind(**settings, **objects)
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


def _targets(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every ``_target_`` within a node, with the keys and numbers that lead to it."""
    if isinstance(node, Mapping) and "_target_" in node:
        yield path, str(node["_target_"])
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _targets(value, (*path, str(key)))


def _is_transform(target: str) -> bool:
    """Whether a name is that of a transform of this project or of albumentations."""
    if target.startswith("covid_xray."):  # without an import, which takes a second
        return target.removeprefix("covid_xray.data.augmentation.") in ("ResizeWarp", "LogitBrightnessContrast")
    from covid_xray.data.augmentation import is_albumentations

    return is_albumentations(target)
