"""The documentation works: every command composes, every setting exists, all Python runs; the README's commands run."""

import functools
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest import TESTS, Command
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_imports import ROOMS

import covid_xray as cx
from covid_xray import cli
from covid_xray.data.phantom import PhantomSet, make_phantoms
from covid_xray.runs.folder import NON_RESULT_KEYS, flatten
from covid_xray.schedule import Schedule

REPOSITORY = TESTS.parent
README = REPOSITORY / "README.md"
PAGES = sorted(REPOSITORY.glob("docs/**/*.md"))
OTHERS = [*REPOSITORY.glob("experiments/*/README.md"), *REPOSITORY.glob("notebooks/*.ipynb")]
DOCUMENTS = [README, *PAGES, *sorted(OTHERS)]
NOT_RUN = {
    "make demo": "installs into .venv, then trains for minutes; it is `covid-xray train experiment=demo`",
    "make test": "runs the tests, of which this is one",
}
# These make a training tiny. The README trains the article's recipe with ImageNet weights on the user's images.
SHRINK = [
    "model.architecture=resnet18",
    "weights=null",
    *(f"schedule.phases.{name}_small={{image_size:32,batch_size:8,epochs:1}}" for name in ("frozen", "unfrozen")),
    *(f"schedule.phases.{name}_large={{image_size:40,batch_size:8,epochs:1}}" for name in ("frozen", "unfrozen")),
]
# Some settings exist only together with another one: `trainer.num_nodes` needs trainer=ddp.
BESIDES: tuple[list[str], ...] = (
    ["trainer=ddp"],
    ["data=folder"],
    ["data=manifest"],
    ["model=timm", "model.architecture=convnext_tiny"],
    ["hydra/launcher=joblib"],
)
RECORDS = sorted(REPOSITORY.glob("experiments/*/config.yaml"))


def text_of(document: Path) -> str:
    """The Markdown of a document or a notebook."""
    text = document.read_text(encoding="utf-8")
    if document.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def blocks(document: Path, language: str) -> list[str]:
    """Code blocks of a document."""
    return re.findall(rf"^```(?:{language})\n(.*?)^```", text_of(document), re.S | re.M)


def command_lines(document: Path) -> list[str]:
    """Lines of the shell blocks of a document, without comments; a backslash at the end joins two lines."""
    lines = "\n".join(blocks(document, "sh|bash|shell")).replace("\\\n", " ").splitlines()
    return [found for line in lines if (found := re.sub(r"(^|\s)#.*", "", line).strip())]


def name_and_overrides(line: str) -> tuple[str, list[str], bool]:
    """A command's name, its overrides, and whether it sweeps."""
    words = shlex.split(line)
    flags = {"-m", "--multirun", "--cfg", "job"}
    return words[0], [word for word in words[1:] if word not in flags], bool({"-m", "--multirun"} & set(words))


def jobs_of(line: str) -> list[list[str]]:
    """Overrides of every job of a command."""
    _, overrides, sweeps = name_and_overrides(line)
    if not sweeps:
        return [overrides]
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


def compose(name: str, overrides: list[str]) -> tuple[str, str]:
    """The configuration that the executable shows with ``--cfg job``, and its message if it refuses the overrides."""
    return compose_once(Path.cwd(), name, *overrides)


@functools.cache
def compose_once(folder: Path, name: str, *overrides: str) -> tuple[str, str]:
    """Documents have many commands in common."""
    GlobalHydra.instance().clear()
    shown, message = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown), redirect_stderr(message):
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        patch.setattr(sys, "argv", ["covid-xray", name, *overrides, "--cfg", "job"])
        try:
            cli.main()
        except SystemExit:
            return "", message.getvalue()
    assert ": " in shown.getvalue()
    return shown.getvalue(), ""


LINES = [
    pytest.param(found[1], id=f"{document.relative_to(REPOSITORY)}: {found[1]}")
    for document in DOCUMENTS
    for line in command_lines(document)
    # Also after `srun`, `torchrun` or `until`.
    if (found := re.search(r"(?:covid-xray|-m covid_xray) ([a-z][^;]*)", line))
]


@pytest.fixture(scope="module")
def own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in a folder with the configuration that the README writes, and the examples of the documentation."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "docs").symlink_to(REPOSITORY / "docs")
    (line,) = [line for line in command_lines(README) if line.startswith("mkdir ")]
    subprocess.run(["bash", "-c", line], cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.mark.parametrize("line", LINES)
def test_every_command_composes(line: str, own_configuration: None) -> None:
    name, overrides, sweeps = name_and_overrides(line)
    assert name in cli.commands()
    jobs = jobs_of(line)
    if sweeps:
        assert len(jobs) > 1 or any(word.startswith("sweep=") for word in overrides), "this sweep has only one job"
    for job in jobs:
        _, message = compose(name, job)
        assert not message


def inline_settings() -> list[str]:
    """Settings in the text and tables of README and pages, such as ``trainer=ddp``; ``...`` stands for any value."""
    spans: set[str] = set()
    for document in (README, *PAGES):
        text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.S | re.M)
        spans |= set(re.findall(r"`([^`]+)`", text))
    return sorted({span for span in spans if re.fullmatch(r"('?[\w./]+=(?!\.\.\.)\S+\s*)+", span)} - {"key=value"})


@pytest.mark.parametrize("span", inline_settings())
def test_every_setting_in_the_text_exists(span: str) -> None:
    words = shlex.split(span)
    # First the commands whose own file has the setting.
    own = re.compile(rf"^{re.split('[.=]', words[0])[0]}:", re.M)
    texts = {name: cli._config_file(name).read_text(encoding="utf-8") for name in ("train", *cli.commands())}
    tries = [(name, words) for name in sorted(texts, key=lambda name: not own.search(texts[name]))]
    tries += [("train", [*beside, *words]) for beside in BESIDES]
    messages: list[str] = []
    for name, overrides in tries:
        messages.append(compose(name, overrides)[1])
        if not messages[-1]:
            return
    pytest.fail(f"no command has this setting: {messages}")


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.parent.name)
def test_the_command_of_a_study_gives_its_recorded_configuration(record: Path) -> None:
    recorded = settings(record.read_text(encoding="utf-8"))
    lines = [line for line in command_lines(record.with_name("README.md")) if line.startswith("covid-xray train ")]
    jobs = [job for line in lines for job in jobs_of(line.removeprefix("covid-xray "))]
    different = []
    for job in [*jobs, *([*job, "schedule.sizes=first"] for job in jobs if "sweep=sizes" in job)]:
        composed = settings(compose("train", job)[0])
        different.append([key for key in recorded if key not in composed or composed[key] != recorded[key]])
        if not different[-1]:
            return
    pytest.fail(f"no job of the commands has these recorded settings: {min(different, key=len)}")


def settings(yaml: str) -> dict[str, Any]:
    """Settings by flat name; those of the schedule as they act, because it can be written in several ways."""
    config: Any = OmegaConf.to_container(OmegaConf.create(yaml))
    schedule = Schedule(**{key: value for key, value in config["schedule"].items() if key != "_target_"})
    flat: dict[str, Any] = flatten({key: value for key, value in config.items() if key not in ("name", "schedule")})
    flat = {key: value for key, value in flat.items() if not key.startswith(NON_RESULT_KEYS)}
    for name, phase in schedule.phases.items():
        rates = tuple(float(f"{rate:.6g}") for rate in schedule.max_lrs(phase, 3))
        flat[f"schedule.{name}"] = replace(phase, max_lr=rates)
    return flat | {key: getattr(schedule, key) for key in ("pct_start", "div", "div_final", "beta1")}


def test_reasons_not_to_run_belong_to_commands() -> None:
    assert NOT_RUN.keys() <= set(command_lines(README))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for line in NOT_RUN:
        assert not line.startswith("make ") or re.search(rf"^{line.removeprefix('make ')}:", makefile, re.M)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if not target.startswith(("http", "#")):
            assert (document.parent / target.partition("#")[0]).exists(), target


def test_the_tree_names_every_room_of_the_package() -> None:
    (tree,) = re.findall(r"^## Where things are\n\n```\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)
    (inside,) = re.findall(r"^covid_xray/.*?\n((?:  .*\n)+)", tree, re.M)
    package = REPOSITORY / "covid_xray"
    rooms = [f"{room}/" if (package / room).is_dir() else f"{room}.py" for room in ROOMS]
    assert re.findall(r"^  (\S+)", inside, re.M) == rooms
    assert sorted(rooms) == sorted(entries(package))
    in_data = [name for line in re.findall(r"^    .*", inside, re.M) for name in re.findall(r"[a-z_]+(?:\.py|/)", line)]
    assert sorted(in_data) == sorted(entries(package / "data"))


@pytest.mark.parametrize("code", blocks(README, "python"))
def test_the_python_code_of_the_readme_runs(code: str, tmp_path: Path, covid_xray: Command) -> None:
    result = covid_xray(code=code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r"^[01]\.\d+ \([01]\.\d+ to [01]\.\d+\)$", result.stdout, re.M), "the metric with its interval"
    assert "prediction" in result.stdout
    assert (tmp_path / "outputs/python/metrics.json").is_file()


@pytest.fixture(scope="module")
def place_of_the_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages take for granted: images in ``my-xrays`` and a run in ``outputs/mine``."""
    folder = tmp_path_factory.mktemp("pages")
    drawn = cx.draw_phantoms(str(folder / "drawn"), patients=45, images_per_patient=1, size=64)
    Path(drawn["file"][0]).parents[1].rename(folder / "my-xrays")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        records = cx.assign_splits(cx.read_folder("my-xrays"))
        phase = cx.Phase(image_size=32, batch_size=8, epochs=1, trains="all", max_lr=1e-3)
        data = cx.XrayDataModule(records, cx.Schedule({"only": phase}), num_workers=0)
        cx.fit(cx.create_network("resnet18", data.num_classes), data, "outputs/mine", logger=None)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda path: path.stem)
def test_the_python_code_of_a_page_runs(page: Path, place_of_the_pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place_of_the_pages)
    exec(compile("\n".join(blocks(page, "python")), str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_block_of_a_page_is_untested(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^```(\S*).*?^```$", text, re.S | re.M)
    assert set(fences) <= {"sh", "python", "text", *(fence for fence in fences if fence.startswith("{"))}
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for line in command_lines(page):
        assert not line.startswith("make ") or re.search(rf"^{line.split()[1]}:", makefile, re.M), line


def entries(folder: Path) -> list[str]:
    """Names of the modules and folders of a package, as the tree writes them."""
    modules = [path.name for path in folder.glob("[a-z]*.py")]
    return modules + [f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").is_file()]


def environment() -> dict[str, str]:
    """With ``covid-xray`` of this environment first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}


COMPLETIONS = [
    ("covid-xray tr", ["train"]),
    ("covid-xray train exper", ["experiment="]),
    ("covid-xray train experiment=ti", ["experiment=tiny"]),
]


@pytest.mark.parametrize(("line", "expected"), COMPLETIONS)
def test_completion_as_the_readme_installs_it(line: str, expected: list[str]) -> None:
    install = next(found for found in command_lines(README) if found.startswith("eval"))
    # Calls the registered function as bash does when the tab key is pressed.
    script = f"""
    {install}
    registered=$(complete -p covid-xray); function=${{registered##*-F }}; function=${{function%% *}}
    COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    "$function" covid-xray "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.split() == expected, result.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_completion_in_zsh() -> None:
    install = next(found for found in command_lines(README) if found.startswith("eval"))
    before = re.search(r"`(autoload [^`]+)`", README.read_text(encoding="utf-8"))
    assert before is not None
    shell = pexpect.spawn("zsh", ["-f", "-i"], env={**environment(), "TERM": "dumb"}, encoding="utf-8", timeout=60)
    # -u: the owner of zsh's function folders does not matter here.
    for line in (before[1].replace("&& compinit", "&& compinit -u"), install, "echo rea''dy"):
        shell.sendline(line)
    shell.expect_exact("\nready")
    for line, (found,) in COMPLETIONS:
        shell.send(f"{line}\t")
        shell.expect_exact(f"{line.rpartition(' ')[0]} {found}")
        shell.sendcontrol("u")  # clears the line
    shell.close(force=True)


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    make_phantoms(tmp_path, PhantomSet(45, 1, 64, 1)).parent.rename(tmp_path / "my-xrays")
    for line in command_lines(README):
        if line in NOT_RUN:
            continue
        own_images = "data=" in line and line.startswith("covid-xray train ")
        command = shlex.join([*shlex.split(line), *SHRINK]) if own_images else line
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert result.returncode == 0, f"{line}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        assert "Traceback" not in result.stderr, line
    for file in (
        "prepared/manifest.csv",
        "outputs/audit/audit.json",
        "outputs/mine/metrics.json",
        "outputs/find-lr/find_lr.png",
    ):
        assert (tmp_path / file).is_file(), file
