"""A trained run, ready to answer: its configuration, classes and weights, on the device at hand.

A run folder may come from anyone. Its checkpoint is read as tensors only, and its configuration may name this
project's code only, unless the user vouches for it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from covid_xray.commands.build import build_schedule, make
from covid_xray.errors import UserError
from covid_xray.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from covid_xray.training.module import XrayClassifier

_GROUPS = ("schedule", "augment", "data", "model")


@dataclass(frozen=True, eq=False)
class Run:
    """What a finished, or at least begun, run left behind.

    Attributes:
        folder: Its files.
        cfg: The configuration that it began with.
        checkpoint: ``best`` or ``last``.
        splits: Its ``splits.csv``: path, label, patient_id, source and split of every image.
        checkpoint_sha256: SHA-256 of the checkpoint.
        module: The classifier in evaluation mode, on the device.
        image_size: Side of the last phase's images, in pixels.
        base_size: Side that training resized every image to before anything else: the largest phase's.
        batch_size: The last phase's.
        device: Where it computes.
        precision: Lightning's name of the precision that it computes in.
    """

    folder: RunFolder
    cfg: DictConfig
    checkpoint: str
    splits: "pd.DataFrame"
    checkpoint_sha256: str
    module: "XrayClassifier"
    image_size: int
    base_size: int
    batch_size: int
    device: "torch.device"
    precision: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of every class, in the order of the logits."""
        return tuple(self.module.class_names)


def check_run(run: str, checkpoint: str | None, trust: bool = False) -> tuple[RunFolder, DictConfig, str]:
    """Look for everything that an evaluation needs of a run; quick, before torch is imported.

    Args:
        run: The run folder.
        checkpoint: ``best``, ``last``, or None for the one that the run itself was tested with.
        trust: Whether the configuration may name code outside this project.

    Raises:
        UserError: If the folder is none of a run, the checkpoint is missing or a setting is wrong.
    """
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise UserError(f"run={run} is no folder")
    for file in (folder.config, folder.splits):
        if not file.is_file():
            raise UserError(f"run={run} is no run folder: {file.name} is missing")
    cfg = _read_config(folder.config)
    _refuse_foreign_code(cfg, folder.config, trust)
    name = checkpoint or OmegaConf.select(cfg, "checkpoint.select") or "best"
    if name not in ("best", "last"):
        raise UserError(f"checkpoint must be best or last, not {name!r}")
    file = folder.best if name == "best" else folder.last
    if not file.is_file():
        raise UserError(f"{file} does not exist: the run has no {name} checkpoint (yet)")
    return folder, cfg, name


def load_run(run: str, checkpoint: str | None, accelerator: str = "auto", trust: bool = False) -> Run:
    """Load a run's network with its weights, in evaluation mode.

    Args:
        run: The run folder.
        checkpoint: ``best``, ``last``, or None for the one that the run itself was tested with.
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        trust: Whether the configuration may name code outside this project.

    Raises:
        UserError: As `check_run`, and if the checkpoint is damaged, holds more than tensors, or does not fit.
    """
    folder, cfg, name = check_run(run, checkpoint, trust)
    schedule = build_schedule(cfg)
    from covid_xray.hardware import best_precision
    from covid_xray.runs.provenance import file_hash
    from covid_xray.training.module import XrayClassifier

    splits = read_splits(folder)
    classes = sorted(splits["label"].unique())
    bare = OmegaConf.merge(cfg, {"model": {"weights": None}})
    assert isinstance(bare, DictConfig)
    module = XrayClassifier(make(bare, "model", num_classes=len(classes)), schedule, classes)
    file = folder.best if name == "best" else folder.last
    _load_weights(module, file)
    device = _device(accelerator)
    precision = str(OmegaConf.select(cfg, "trainer.precision") or "auto")
    if precision == "auto":
        precision = best_precision(device.type)
    phase = list(schedule.phases.values())[-1]
    module = module.to(device).eval().requires_grad_(False)
    return Run(
        folder,
        cfg,
        name,
        splits,
        file_hash(file),
        module,
        phase.image_size,
        schedule.max_image_size,
        phase.batch_size,
        device,
        precision,
    )


def read_splits(folder: RunFolder) -> "pd.DataFrame":
    """Which image was in which split, all columns as text.

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


def check_name(name: str) -> str:
    """Refuse names that are no name of a folder.

    Raises:
        UserError: If it is one.
    """
    if name in ("", ".", "..") or {"/", "\\"} & set(name) or not name.isprintable():
        raise UserError(f"name must be the name of a folder, not {name!r}")
    return name


def _read_config(file: Path) -> DictConfig:
    try:
        cfg = OmegaConf.load(file)
    except Exception as error:  # YAML and OmegaConf raise classes of their own
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(cfg, DictConfig) or (missing := [name for name in _GROUPS if name not in cfg]):
        lacks = f" it has no {missing[0]}" if isinstance(cfg, DictConfig) else ""
        raise UserError(f"{file} is no configuration of a run:{lacks or ' it holds no settings'}")
    return cfg


def _refuse_foreign_code(cfg: DictConfig, file: Path, trust: bool) -> None:
    from hydra.utils import get_object

    for group in _GROUPS:
        for target in _targets(OmegaConf.to_container(cfg[group], resolve=True)):
            if trust or target.startswith("albumentations."):
                continue
            # A path such as covid_xray.networks.weights.torch.hub.load begins well, but ends elsewhere.
            inside = target.startswith("covid_xray.")
            try:
                inside = inside and get_object(target).__module__.startswith("covid_xray.")
            except Exception as error:  # whatever an import may raise
                raise UserError(f"{file}: {target} cannot be imported ({str(error).splitlines()[0]})") from None
            if not inside:
                raise UserError(
                    f"{file} names code outside this project ({target}); set trust=true if you know that it is harmless"
                )


def _targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    if isinstance(node, list):
        return [target for value in node for target in _targets(value)]
    return []


def _load_weights(module: "XrayClassifier", file: Path) -> None:
    import warnings

    from covid_xray.networks.weights import read_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch thinks of a pickle that it then refuses
            state = read_state_dict(file)
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[-1].split())
        raise UserError(f"{file} does not fit the run's model and classes ({reason[:200]})") from None


def _device(accelerator: str) -> "torch.device":
    import torch

    from covid_xray.hardware import accelerator as best

    names = {"auto": best(), "cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
    if accelerator not in names:
        raise UserError(f"accelerator must be auto, cpu, gpu or mps, not {accelerator!r}")
    device = torch.device(names[accelerator])
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not here[device.type]:
        raise UserError(f"accelerator={accelerator}: this machine has none")
    return device
