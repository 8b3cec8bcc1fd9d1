"""The documentation builds without warnings and without a network, and has every public name, command and importer."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TESTS

import covid_xray as cx
from covid_xray import cli
from covid_xray.data.importers import importers

REPOSITORY = TESTS.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    pages = tmp_path_factory.mktemp("site")
    (options,) = re.findall(r"^docs:.*\n\t\$\(BIN\)/sphinx-build (.*) build/docs$", _makefile(), re.M)
    command = [sys.executable, "-m", "sphinx", *options.split(), str(pages)]
    # A proxy that does not exist: a page that fetches something fails.
    environment = {
        "PATH": "",
        "HOME": str(pages),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return pages


@pytest.mark.parametrize(("group", "page"), [("experiment", "recipes"), ("sweep", "sweeps")])
def test_every_experiment_and_sweep_is_explained(group: str, page: str) -> None:
    text = (REPOSITORY / f"docs/{page}.md").read_text(encoding="utf-8")
    names = [file.stem for file in (REPOSITORY / "conf" / group).glob("*.yaml")]
    assert [name for name in names if f"`{group}={name}`" not in text] == []


@pytest.mark.slow
def test_every_name_command_and_importer_is_on_the_site(site: Path) -> None:
    api, start, data = (_text(site / f"docs/{page}.html") for page in ("api/index", "start", "datasets"))
    names = [name for name in cx.__all__ if name != "__version__"]
    assert [name for name in names if f"cx.{name}" not in api] == []
    assert [text for text in cli.commands().values() if text.replace("``", "") not in start] == []
    assert [name for name in importers() if f"{name}\u00b6" not in data and f"\n{name}" not in data] == []
    fit = _text(site / "docs/api/runs.html")
    assert "The callbacks and Trainer settings that the schedule and exact resume need are set here." in fit


@pytest.mark.slow
def test_formulas_and_pictures_need_no_network(site: Path) -> None:
    evaluation = (site / "docs/evaluation.html").read_text(encoding="utf-8")
    assert evaluation.count("<math") > 20
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"https?://[^\"]*\.(?:js|css|png)", text), page


def _makefile() -> str:
    return (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def _text(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))
