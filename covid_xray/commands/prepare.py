"""Turn a downloaded collection into a checked manifest to train on."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from covid_xray.errors import UserError, override, printable

if TYPE_CHECKING:
    from covid_xray.data.prepare import Prepared


def run(cfg: DictConfig) -> None:
    """Read the collection, check every image, write the manifest, and print the accepted and rejected images."""
    from covid_xray.data.prepare import prepare

    views = OmegaConf.to_container(cfg.views) if OmegaConf.is_list(cfg.views) else cfg.views
    if views is not None and not isinstance(views, list):
        raise UserError(f"views must be a list such as [PA, AP], or null, not {views!r}")
    findings = OmegaConf.to_container(cfg.findings) if OmegaConf.is_dict(cfg.findings) else cfg.findings
    if findings is not None and not (isinstance(findings, dict) and all(map(_is_name, findings.values()))):
        raise UserError(f"findings must map findings to classes, as {{Pneumonia: pneumonia}}, not {findings!r}")
    prepared = prepare(
        dataset=str(cfg.dataset),
        source=Path(str(cfg.source)),
        output=Path(str(cfg.output)),
        splits=cfg.splits,
        views=views,
        patient_regex=cfg.patient_regex,
        min_size=cfg.min_size,
        max_rejected=cfg.max_rejected,
        workers=cfg.num_workers,
        lists_only=cfg.lists_only,
        findings=None if findings is None else {str(name): str(label) for name, label in findings.items()},
        uncertain=str(cfg.uncertain),
        audit_cache=None if cfg.audit_cache is None else Path(str(cfg.audit_cache)),
        cache=None if cfg.cache in (None, False) else Path(str(cfg.cache)),
        image_size=cfg.image_size,
    )
    _show(prepared, cfg.lists_only)


def _is_name(label: object) -> bool:
    return isinstance(label, str | int | float) and not isinstance(label, bool) and bool(str(label).strip())


def _show(prepared: "Prepared", lists_only: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    accepted, rejected = prepared.accepted, prepared.rejected
    splits = [name for name in ("train", "val", "test") if "split" in accepted and (accepted["split"] == name).any()]
    table = Table(title=f"{len(accepted)} images, {accepted['patient_id'].nunique()} patients", title_justify="left")
    for column in ("class", "images", "patients", *splits):
        table.add_column(column, justify="left" if column == "class" else "right")
    for label, rows in accepted.groupby("label"):
        counts = [len(rows), rows["patient_id"].nunique(), *((rows["split"] == name).sum() for name in splits)]
        table.add_row(str(label), *map(str, counts))
    console.print(table)
    for reason, count in rejected["reason"].value_counts().items():
        console.print(f"Rejected: {count} x {printable(str(reason))}")
    console.print(f"Rejected in total: {len(rejected)} of {len(accepted) + len(rejected)}, listed in rejected.csv")
    console.print(f"Manifest: {prepared.manifest}")
    manifest = override("data.manifest", str(prepared.manifest))
    if lists_only:
        console.print(f"Audit:    covid-xray audit data=manifest {manifest} data.images=false output=outputs/audit")
    else:
        console.print(f"Train:    covid-xray train data=manifest {manifest}")
