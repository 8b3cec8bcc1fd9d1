"""Show a data set on one page: its classes, sources and splits, suspected duplicates, rejected files."""

from omegaconf import DictConfig

from covid_xray.commands._build import build_records, resolve, split_records


def run(cfg: DictConfig) -> None:
    """Read, split and audit the images; write the page."""
    config = resolve(cfg, "data", "split")
    from covid_xray.data.cache import read_images
    from covid_xray.reporting.contact_sheet import check_settings, duplicate_groups, write_contact_sheet

    # Before the images are read, which takes long.
    page = check_settings(str(config["output"]), config["shown"], config["duplicates"])
    records = build_records(config)
    images = read_images(records["file"].tolist(), config["audit_cache"])
    records = split_records(config, records, images)
    settings = {key: config[key] for key in ("shown", "duplicates", "seed")}
    report = write_contact_sheet(records, page, images, **settings)
    print(
        f"{len(records):,} images; {len(report.leaks()):,} leaks between splits, {len(duplicate_groups(report)):,} "
        f"groups of suspected duplicates, {len(report.unreadable):,} unreadable images\nContact sheet: {page}"
    )
