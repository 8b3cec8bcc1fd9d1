"""A room imports only from the rooms below it; each library has its place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "covid_xray"
# From the ground up.
ROOMS = (
    *("errors", "imports", "files", "hardware", "schedule", "metrics", "data", "plots", "networks", "training"),
    *("probes", "runs", "sweeps", "reporting", "commands", "cli"),
)
# Where a library may be imported.
PLACES = {
    "albumentations": ("data/augmentation.py",),
    "hydra": ("commands/", "cli.py"),
    "jinja2": ("reporting/",),
    "lightning": ("data/datamodule.py", "training/", "runs/fit.py", "commands/_build.py"),
    "omegaconf": ("runs/", "commands/", "cli.py"),
    "pydicom": ("data/images/dicom.py",),
}
# The rooms that need no torch.
NUMPY_ONLY = ("errors", "imports", "files", "schedule", "metrics")
FILES = [
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name not in ("__init__.py", "__main__.py")
]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any place in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # `from covid_xray.runs import inference` imports covid_xray.runs.inference.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix().split("/")[0].removesuffix(".py")


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    relative, room = path.relative_to(PACKAGE).as_posix(), room_of(path)
    modules = imported(path)
    below = set(ROOMS[: ROOMS.index(room) + 1])
    if room == "cli":
        below = {"cli", "errors"}  # commands are imported by name, so that help and mistakes answer at once
    inside = {name.split(".")[1] for name in modules if name.startswith("covid_xray.")}
    assert inside <= below
    libraries = {name.split(".")[0] for name in modules}
    for library, places in PLACES.items():
        if library in libraries:
            assert any(relative == place or relative.startswith(place) for place in places), library
    if room in NUMPY_ONLY:
        assert not libraries & {"torch", "torchvision", "lightning", "torchmetrics"}


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {
        f"covid_xray.{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}": path for path in FILES
    }
    # Only imports at the top of a file can make a circle.
    graph = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        modules = {node.module for node in ast.walk(top) if isinstance(node, ast.ImportFrom)}
        graph[name] = {module for module in modules if module in names}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_package_imports_without_its_libraries_and_no_step_needs_hydra() -> None:
    code = (
        "import covid_xray, covid_xray as cx, gc, sys\n"
        "assert not {'torch', 'pandas', 'numpy', 'hydra'} & set(sys.modules)\n"
        # What `train` imports, and its usual augmentation: neither of these, which take half a second.
        "cx.fit, cx.Augmentation([covid_xray.data.augmentation.ResizeWarp()])\n"
        "assert not {'albumentations', 'sklearn', 'jinja2', 'timm', 'onnx', 'optuna', 'pydicom'} & set(sys.modules)\n"
        "assert not {'scipy.signal', 'scipy.stats'} & set(sys.modules)\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"
        "assert cx.__version__ and set(cx.__all__) <= set(dir(cx))\n"
        "missing = [name for name in cx.__all__ if getattr(cx, name, None) is None]; assert not missing, missing\n"
        "assert 'hydra' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "0"),
        (["train", "experiment=tiny", "schedule.phases.unfrozen_small.epochs=0"], "2 hydra"),
        (["predict", "run=nothing", "input=nothing", "output=new.csv"], "2 hydra pandas"),
    ],
)
def test_help_and_mistakes_import_no_large_library(arguments: list[str], expected: str, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom covid_xray.cli import main\n"
        "code = 0\ntry:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "large = {'torch', 'lightning', 'scipy', 'pandas', 'matplotlib', 'cv2', 'rich', 'hydra'} & set(sys.modules)\n"
        "print(code, *sorted(large))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == expected, result.stderr
