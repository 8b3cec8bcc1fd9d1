"""Imports run one way, so that a newcomer can read the package from its leaves to its commands."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "covid_xray"
# Who may be imported by whom, from the ground up; a package may also import itself.
LAYERS = {
    "errors": set(),
    "files": set(),
    "hardware": set(),
    "schedule": {"errors"},
    "optim": {"schedule", "errors"},
    "model": {"errors"},
    "data": {"schedule", "files", "errors"},
    "evaluation": {"errors"},
    "module": {"schedule", "optim", "model", "data", "evaluation", "errors"},
    "callbacks": {"schedule", "optim", "data", "evaluation", "module", "errors"},
    "commands": {
        *("schedule", "optim", "model", "data", "evaluation", "module", "callbacks", "hardware", "files", "errors")
    },
    "cli": {"errors"},
}
LIGHTNING = {"data/datamodule.py", "module.py", "callbacks", "commands"}
FILES = [path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    room = relative.split("/")[0].removesuffix(".py")
    modules = imported(path)
    own = {name.split(".")[1] for name in modules if name.startswith("covid_xray.")}
    assert own <= LAYERS[room] | {room}
    roots = {name.split(".")[0] for name in modules}
    if "lightning" in roots:
        assert any(relative == place or relative.startswith(f"{place}/") for place in LIGHTNING)
    if roots & {"hydra", "omegaconf"}:
        assert room in ("commands", "cli")
    if "albumentations" in roots:
        assert relative == "data/augmentation.py"
