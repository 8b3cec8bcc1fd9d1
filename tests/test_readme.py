"""What the documentation says to type works: every command composes; the README's are run as they stand."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pexpect
import pytest
from conftest import TESTS
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from covid_xray import cli
from covid_xray.data.phantom import make_phantoms

REPOSITORY = TESTS.parent
README = REPOSITORY / "README.md"
DOCUMENTS = [README, *sorted(REPOSITORY.glob("docs/*.md")), *sorted(REPOSITORY.glob("experiments/*/README.md"))]
NOT_RUN = {
    "make demo": "installs into .venv, then trains for minutes; it is `covid-xray train experiment=demo`",
    "make test": "runs the tests, of which this is one",
    "tensorboard --logdir outputs": "serves until it is stopped",
}
# The README's commands on one's own images train the article's recipe on ImageNet weights: these make that tiny.
SHRINK = [
    "model=resnet18",
    "model.weights=null",
    *(f"schedule.phases.{name}_small={{image_size:32,batch_size:8,epochs:1}}" for name in ("frozen", "unfrozen")),
    *(f"schedule.phases.{name}_large={{image_size:40,batch_size:8,epochs:1}}" for name in ("frozen", "unfrozen")),
]
# A setting that exists only beside another: `trainer.num_nodes` belongs to trainer=ddp.
BESIDES: tuple[list[str], ...] = ([], ["trainer=ddp"], ["data=folder"], ["data=manifest"], ["hydra/launcher=joblib"])


def command_lines(document: Path) -> list[str]:
    """Lines of a document's ``sh`` blocks, without comments; a line that ends in a backslash goes on in the next."""
    blocks = re.findall(r"^```(?:sh|bash|shell)\n(.*?)^```", document.read_text(encoding="utf-8"), re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [found for line in lines if (found := re.sub(r"(^|\s)#.*", "", line).strip())]


def name_and_overrides(line: str) -> tuple[str, list[str], bool]:
    """A command's name, its overrides, and whether it sweeps."""
    words = shlex.split(line)
    flags = {"-m", "--multirun", "--cfg", "job"}
    return words[0], [word for word in words[1:] if word not in flags], bool({"-m", "--multirun"} & set(words))


def mistake(name: str, overrides: list[str]) -> str:
    """What the executable says of these overrides when asked for ``--cfg job``; empty if it shows the configuration."""
    GlobalHydra.instance().clear()
    shown, said = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown), redirect_stderr(said):
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        patch.setattr(sys, "argv", ["covid-xray", name, *overrides, "--cfg", "job"])
        try:
            cli.main()
        except SystemExit:
            return said.getvalue()
    assert ": " in shown.getvalue()
    return ""


LINES = [
    pytest.param(found[1], id=f"{document.relative_to(REPOSITORY)}: {found[1]}")
    for document in DOCUMENTS
    for line in command_lines(document)
    if (
        found := re.search(r"(?:covid-xray|-m covid_xray) ([a-z][^;]*)", line)
    )  # after `srun`, `torchrun` or `until`, too
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_composes(line: str) -> None:
    name, overrides, sweeps = name_and_overrides(line)
    assert name in cli.commands()
    jobs = [overrides]
    if sweeps:
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)[0]
        assert len(jobs) > 1 or any(word.startswith("sweep=") for word in overrides), "this sweep is of one job"
    for job in jobs:
        assert not mistake(name, list(job))


def inline_settings() -> list[str]:
    """Settings in the README's running text and tables, such as ``trainer=ddp``."""
    text = re.sub(r"^```.*?^```", "", README.read_text(encoding="utf-8"), flags=re.S | re.M)
    spans = re.findall(r"`([^`]+)`", text)
    return sorted({span for span in spans if re.fullmatch(r"('?[\w./]+=\S+\s*)+", span)} - {"key=value"})


@pytest.mark.parametrize("span", inline_settings())
def test_every_setting_in_the_text_exists(span: str) -> None:
    words = shlex.split(span)
    tries = [*(("train", [*beside, *words]) for beside in BESIDES), *((name, words) for name in cli.commands())]
    said: list[str] = []
    for name, overrides in tries:
        said.append(mistake(name, overrides))
        if not said[-1]:
            return
    pytest.fail(f"no command knows it: {said}")


def test_reasons_not_to_run_are_of_commands_that_are_there() -> None:
    assert NOT_RUN.keys() <= set(command_lines(README))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for line in NOT_RUN:
        assert not line.startswith("make ") or re.search(rf"^{line.removeprefix('make ')}:", makefile, re.M)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http", "#")):
            assert (document.parent / target.partition("#")[0]).exists(), target


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
    # The function that bash calls at the tab key, as it was registered.
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
    # Whoever owns the folders of zsh's own functions: not what is tested.
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
    make_phantoms(tmp_path, patients=45, images_per_patient=1, size=64, seed=1).parent.rename(tmp_path / "my-xrays")
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
    for made in (
        "prepared/manifest.csv",
        "outputs/audit/audit.json",
        "outputs/mine/metrics.json",
        "outputs/find-lr/find_lr.png",
    ):
        assert (tmp_path / made).is_file(), made
