"""Look for duplicates, leaks, label conflicts and associations in a data set, before training on it."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from covid_xray.commands._build import build_records, resolve, split_records
from covid_xray.files import write_atomically, write_failure

if TYPE_CHECKING:
    from covid_xray.data.audit.report import AuditReport


def run(cfg: DictConfig) -> None:
    """Audit the data with its splits; write ``audit.json`` and TensorBoard, print the findings."""
    config = resolve(cfg, "data", "split")
    from covid_xray.data.audit.report import audit_records
    from covid_xray.data.cache import read_images
    from covid_xray.reporting.audit import show

    records = build_records(config, need_images=False)
    read = config["data"].get("images", True)
    images = read_images(records["file"].tolist(), config["audit_cache"]) if read else None
    records = split_records(config, records, images)
    report, output = audit_records(records, images, read=read), Path(cfg.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "audit.json", report.to_json())
        _write_tensorboard(report, output)
    except OSError as error:
        raise write_failure(output, error) from None
    show(report)
    print(f"Report: {output / 'audit.json'}\nFigures: tensorboard --logdir {output}")


def _write_tensorboard(report: "AuditReport", output: Path) -> None:
    from covid_xray.plots.audit import audit_figure
    from covid_xray.reporting.events import event_file

    with event_file(output) as writer:
        writer.add_text("audit", report.to_markdown())
        writer.add_figure("audit/associations", audit_figure(report))
