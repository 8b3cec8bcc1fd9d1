"""Look for duplicates, leaks, label conflicts and give-aways in a data set, before training on it."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from covid_xray.commands.build import build_data, build_schedule
from covid_xray.errors import UserError
from covid_xray.files import write_atomically

if TYPE_CHECKING:
    from covid_xray.data.audit.report import AuditReport


def run(cfg: DictConfig) -> None:
    """Audit the data with its splits; write ``audit.json`` and TensorBoard, print the findings."""
    output = Path(cfg.output)
    schedule = build_schedule(cfg)
    from covid_xray.data.audit.report import RefusedDataError
    from covid_xray.reporting.audit import show

    try:
        report = build_data(cfg, schedule).audit
    except RefusedDataError as refused:  # what training refuses is what an audit shows
        report = refused.report
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "audit.json", report.to_json())
        _write_tensorboard(report, output)
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror or error}") from None
    show(report)
    print(f"Report: {output / 'audit.json'}\nFigures: tensorboard --logdir {output}")


def _write_tensorboard(report: "AuditReport", output: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from covid_xray.reporting.audit import figure, markdown

    for old in output.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(output)) as writer:
        writer.add_text("audit", markdown(report))
        writer.add_figure("audit/associations", figure(report))
