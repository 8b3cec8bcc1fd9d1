"""Check this machine: one line per check with what to do; exit code 2 if a training with these settings would fail."""

import json
from dataclasses import asdict

from omegaconf import DictConfig

from covid_xray.commands._build import resolve
from covid_xray.errors import UserError, printable
from covid_xray.runs.doctor import Check, check_machine


def run(cfg: DictConfig) -> None:
    """Run the checks and print each as soon as it is done."""
    if not isinstance(cfg.json, bool):
        raise UserError(f"json must be true or false, not {cfg.json!r}")
    checks = []
    for check in check_machine(resolve(cfg, "model", "schedule", "trainer", "datamodule"), _loaded_plugins()):
        checks.append(check)
        if not cfg.json:
            print(printable(_line(check)), flush=True)
    failed = [check.name for check in checks if check.status == "fail"]
    if cfg.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    if failed:
        raise UserError(f"a training with these settings would fail here, because of: {', '.join(failed)}")


def _line(check: Check) -> str:
    return f"{check.status:<5} {check.name:<14} {check.found}{'; ' if check.remedy else ''}{check.remedy}"


def _loaded_plugins() -> set[str]:
    """The packages whose plugins Hydra could load when it started."""
    from hydra.core.plugins import Plugins

    modules = [plugin.__module__.split(".") for plugin in Plugins.instance().discover()]
    return {parts[1] for parts in modules if parts[0] == "hydra_plugins"}
