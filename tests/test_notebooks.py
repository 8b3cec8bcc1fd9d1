"""The notebooks run, define nothing, and are stored without results that would go stale or grow the repository."""

import ast
import base64
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from conftest import TESTS, Command, differences
from nbclient import NotebookClient

FOLDER = TESTS.parent / "notebooks"
# What the quick tests put in the place of the cell tagged `parameters`.
SMALL = {
    "01_look_at_the_data": "PATIENTS, IMAGES_PER_PATIENT, PIXELS = 40, 2, 64",
    "02_train_step_by_step": "PATIENTS, WARM_UP, EPOCHS = 40, 1, 2",
    "03_read_the_results": 'RECIPE, RUN = "experiment=tiny", "../outputs/results"',
}
# Notebook 2 as overrides of the command: whatever `experiment=demo` has otherwise.
SAME = (
    *("experiment=demo", "model=resnet18", "data.patients=40", "data.root=data/phantoms", "run_dir=outputs/same"),
    *("schedule.phases.frozen_small.max_lr='slice(1e-3)'", "schedule.phases.frozen_large.max_lr='slice(3e-4)'"),
    *("schedule.phases.unfrozen_small.epochs=2", "schedule.phases.unfrozen_small.max_lr=[5e-4,1e-3]"),
    *("schedule.phases.unfrozen_large.epochs=1", "schedule.phases.unfrozen_large.max_lr=[2e-4,6e-4]"),
)
Cell = Any


def test_every_notebook_is_tested() -> None:
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_notebook_defines_nothing(name: str) -> None:
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code_cells(read(name)):
        found = [node for node in ast.walk(parse(cell.source)) if isinstance(node, forbidden)]
        assert not found, f"this belongs into the package, where it is tested:\n{cell.source}"


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
    assert min(sizes) > 3_000, "a figure with nothing on it"


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_on_little_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, SMALL[name], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, None, tmp_path, monkeypatch)


@pytest.mark.slow
def test_step_by_step_trains_the_same_weights_as_the_command(
    covid_xray: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("02_train_step_by_step", SMALL["02_train_step_by_step"], workplace, monkeypatch)
    result = covid_xray("train", *SAME, timeout=600)
    assert result.returncode == 0, result.stderr
    one, two = (
        torch.load(workplace / f"outputs/{folder}/checkpoints/last.ckpt", weights_only=True)
        for folder in ("step-by-step", "same")
    )
    assert one["global_step"] == two["global_step"] > 0
    assert differences(one["state_dict"], two["state_dict"]) == []


def run(name: str, parameters: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute a notebook in ``folder/notebooks``; it must draw a figure wherever the stored one has one."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = read(name)
    drawn_before = [bool(figures(cell)) for cell in code_cells(notebook)]
    settings = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(settings) == 1
    if parameters is not None:
        assert assigned(settings[0].source) == assigned(parameters)
        settings[0].source = parameters
    (folder / "notebooks").mkdir(exist_ok=True)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder / "notebooks")}}).execute()
    for cell, expected in zip(code_cells(notebook), drawn_before, strict=True):
        sizes = [len(png) for png in figures(cell)]
        assert bool(sizes) == expected, f"figures drawn are not those stored:\n{cell.source}"
        assert all(size > 3_000 for size in sizes), f"a figure with nothing on it:\n{cell.source}"
        assert "Traceback" not in "".join(output.get("text", "") for output in cell.outputs)


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Cell]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures(cell: Cell) -> list[bytes]:
    """PNG files that a cell has drawn."""
    data = [output.get("data", {}) for output in cell.outputs]
    return [base64.b64decode(item["image/png"]) for item in data if "image/png" in item]


def parse(source: str) -> ast.Module:
    """A cell's code without its magics and shell commands."""
    return ast.parse("\n".join(line for line in source.splitlines() if not line.startswith(("%", "!"))))


def assigned(source: str) -> set[str]:
    """Names that a cell assigns."""
    names = ast.walk(parse(source))
    return {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
