"""The notebooks run, define nothing, and store small figures only."""

import ast
import base64
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from conftest import TESTS, Command, differences
from nbclient import NotebookClient

FOLDER = TESTS.parent / "notebooks"
STEP_BY_STEP = "02_train_step_by_step"
# The quick tests replace the cell tagged `parameters` by these lines.
SMALL = {
    "01_look_at_the_data": "PATIENTS, IMAGES_PER_PATIENT, PIXELS = 40, 2, 64",
    STEP_BY_STEP: "PATIENTS, EPOCHS = 40, (1, 2, 1, 1)",
    "03_read_the_results": 'RECIPE, RUN = "experiment=tiny", "../outputs/results"',
    "04_is_my_data_set_sound": "PATIENTS, IMAGES_PER_PATIENT, PIXELS = 80, 2, 64",
}
# The same parameters of notebook 2 for the command.
SMALL_COMMAND = (
    *("data.patients=40", "schedule.phases.unfrozen_small.epochs=2", "schedule.phases.unfrozen_large.epochs=1"),
)
OTHERS = [name for name in SMALL if name != STEP_BY_STEP]
Cell = Any


def test_every_notebook_is_tested() -> None:
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_notebook_defines_nothing(name: str) -> None:
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code_cells(read(name)):
        found = [node for node in ast.walk(parse(cell.source)) if isinstance(node, forbidden)]
        assert not found, f"move this into the package, where it is tested:\n{cell.source}"


@pytest.mark.parametrize("name", SMALL)
def test_only_small_figures_are_stored(name: str) -> None:
    notebook = read(name)
    for cell in code_cells(notebook):
        assert cell.execution_count is None
        for output in cell.outputs:
            assert set(output.get("data", {})) == {"image/png"}, f"clear this output: {str(output)[:200]}"
    sizes = [len(png) for cell in code_cells(notebook) for png in figures(cell)]
    assert sizes
    assert max(sizes) < 60_000
    assert min(sizes) > 3_000, "a figure is empty"


@pytest.mark.parametrize("name", SMALL)
def test_first_cell_installs_the_package_where_it_is_missing(name: str) -> None:
    cell, *others = code_cells(read(name))
    assert "install" in cell.metadata["tags"]
    assert cell.source == code_cells(read(STEP_BY_STEP))[0].source
    assert not any("install" in line for other in others for line in other.source.splitlines() if "%pip" in line)
    urls = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert re.search(r"%pip install .*git\+(\S+)\"", cell.source)[1] == urls["Homepage"]  # type: ignore[index]


def test_training_step_by_step_is_short() -> None:
    cells = [cell for cell in code_cells(read(STEP_BY_STEP))[1:] if not figures(cell)]
    lines = [line for cell in cells for line in code(cell.source).splitlines() if line.strip()]
    assert len(lines) <= 30, "the code besides the plots must be short"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("03")) for name in OTHERS]
)
def test_notebook_runs_on_little_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, SMALL[name], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_notebook_runs_unchanged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, None, tmp_path, monkeypatch)


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_step_by_step_trains_the_same_weights_as_its_command(
    covid_xray: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    folders = [workplace / "outputs" / name for name in ("step-by-step", "same")]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    run(STEP_BY_STEP, SMALL[STEP_BY_STEP] if small else None, workplace, monkeypatch)
    executable, *arguments = command(read(STEP_BY_STEP))
    assert executable == "covid-xray"
    result = covid_xray(*arguments, *(SMALL_COMMAND if small else ()), timeout=600)
    assert result.returncode == 0, result.stderr
    for name in ("last.ckpt", "best.ckpt"):
        one, two = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in folders)
        assert one["global_step"] == two["global_step"] > 0
        for part in ("state_dict", "optimizer_states"):
            assert differences(one[part], two[part]) == []


def run(name: str, parameters: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute a notebook in ``folder/notebooks``; the same cells must draw figures as in the stored notebook."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = read(name)
    stored = [bool(figures(cell)) for cell in code_cells(notebook)]
    settings = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(settings) == 1
    if parameters is not None:
        assert assigned(settings[0].source) == assigned(parameters)
        settings[0].source = parameters
    (folder / "notebooks").mkdir(exist_ok=True)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder / "notebooks")}}).execute()
    for cell, expected in zip(code_cells(notebook), stored, strict=True):
        sizes = [len(png) for png in figures(cell)]
        assert bool(sizes) == expected, f"this cell must draw a figure if and only if one is stored:\n{cell.source}"
        assert all(size > 3_000 for size in sizes), f"a figure is empty:\n{cell.source}"
        assert "Traceback" not in "".join(output.get("text", "") for output in cell.outputs)


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Cell]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures(cell: Cell) -> list[bytes]:
    """PNG files that a cell has drawn."""
    data = [output.get("data", {}) for output in cell.outputs]
    return [base64.b64decode(item["image/png"]) for item in data if "image/png" in item]


def command(notebook: Any) -> list[str]:
    """Words of the only command in the text of a notebook."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    return shlex.split(block.replace("\\\n", " "))


def code(source: str) -> str:
    """The code of a cell without its magics and shell commands; an indented one becomes ``pass``."""
    lines = (line for line in source.splitlines() if not line.startswith(("%", "!")))
    return "\n".join(re.sub(r"^(\s+)[%!].*", r"\1pass", line) for line in lines)


def parse(source: str) -> ast.Module:
    return ast.parse(code(source))


def assigned(source: str) -> set[str]:
    """Names that a cell assigns."""
    names = ast.walk(parse(source))
    return {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
