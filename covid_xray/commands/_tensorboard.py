"""What a run shows in TensorBoard besides its curves: configuration, hyper-parameters and final figures."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from covid_xray.commands._build import make
from covid_xray.commands._run_folder import RunFolder, flatten


def build_logger(cfg: DictConfig, folder: RunFolder, resume_from: Path | None) -> Any:
    """The configured logger, told where a continued run takes up; false where the run keeps no log."""
    if cfg.logger is None:
        return False
    extra: dict[str, Any] = {}
    if resume_from and cfg.logger["_target_"].endswith("TensorBoardLogger"):
        import torch

        # Steps after the checkpoint were logged before the kill and will be logged again.
        extra["purge_step"] = torch.load(resume_from, map_location="cpu", mmap=True, weights_only=True)["global_step"]
    return make(cfg, "logger", save_dir=str(folder.path), **extra)


def log_configuration(cfg: DictConfig, folder: RunFolder, logger: Any, class_names: list[str]) -> None:
    """Configuration as text, and hyper-parameters with the names of the metrics to come, in TensorBoard."""
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.tensorboard.summary import hparams

    if not isinstance(logger, TensorBoardLogger):
        return
    yaml = folder.config.read_text(encoding="utf-8")
    logger.experiment.add_text("configuration", f"```yaml\n{yaml}```")
    settings = {key: value for key, value in flatten(cfg).items() if key not in ("run_dir", "resume")}
    names = [f"{split}/{name}" for split in ("val", "test") for name in ("loss", "accuracy", "f1_weighted")]
    names += [f"test/recall/{name}" for name in class_names]
    writer = logger.experiment._get_file_writer()
    for summary in hparams(settings, dict.fromkeys(names, 0.0)):  # type: ignore[no-untyped-call]
        writer.add_summary(summary)
