"""Files for packages, containers, workflows and people: what they name exists, and versions agree."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from test_readme import compose, name_and_overrides

REPOSITORY = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_every_requirement_has_a_lowest_version_that_the_constraints_meet() -> None:
    pins = dict(line.split("==") for line in read("constraints.txt").splitlines() if "==" in line)
    versions = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in map(Requirement, (line for group in groups for line in group)):
        if requirement.name == PROJECT["name"]:
            continue
        assert any(part.operator in (">=", "==") for part in requirement.specifier), requirement
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(versions[name], prereleases=True), requirement


def test_versions_and_licences_agree() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert PROJECT["license"] in read("LICENSE").split("\n")[0]
    for minor in range(11, 14):
        assert f"Programming Language :: Python :: 3.{minor}" in PROJECT["classifiers"]


def test_the_workflow_tests_what_exists_on_every_system_and_python() -> None:
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    for path in workflow["env"]["PORTABLE"].split():
        assert (REPOSITORY / path).exists(), path
    jobs = workflow["jobs"]
    pythons = ["3.11", "3.12", "3.13"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == pythons
    assert jobs["other-systems"]["strategy"]["matrix"] == {
        "system": ["macos-latest", "windows-latest"],
        "python": pythons,
    }
    assert "lowest-direct" in yaml.safe_dump(jobs["lowest-versions"])
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.M)
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    used = [found for step in steps for found in re.findall(r"^make ([a-z-]+)", step)]
    assert used
    assert set(used) <= set(targets)
    commands = [step.removeprefix("covid-xray ") for step in steps if step.startswith("covid-xray ")]
    commands.remove("evaluate run=outputs/tiny")  # it takes a run
    for command in commands:
        assert not compose(*name_and_overrides(command)[:2])[1], command


def test_the_container_copies_what_a_package_needs() -> None:
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", read("Dockerfile"), re.M) for word in line.split()}
    assert {"pyproject.toml", "constraints.txt", "covid_xray", "conf", PROJECT["readme"]} <= copied
    for name in copied:
        assert (REPOSITORY / name).exists()
        assert f"!{name}\n" in read(".dockerignore")


def test_the_commands_of_the_spot_task_compose() -> None:
    task = yaml.safe_load(read("docs/spot.yaml"))
    lines = task["run"].replace("\\\n", " ").splitlines()
    commands = [line.partition("covid-xray ")[2].replace("$HOME", "/home") for line in lines if "covid-xray" in line]
    assert [command.split()[0] for command in commands] == ["doctor", "train"]
    for command in commands:
        assert not compose(*name_and_overrides(command)[:2])[1], command


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "SECURITY.md"])
def test_documents_name_what_exists(document: str) -> None:
    for path in re.findall(r"`((?:tests|covid_xray|experiments|conf|docs)/[\w./]+\.\w+)`", read(document)):
        assert "NAME" in path or (REPOSITORY / path).exists(), path
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.M)
    assert set(re.findall(r"^make ([a-z-]+)", read(document), re.M)) <= set(targets)


def test_addresses_are_marked_as_placeholders_until_there_is_one() -> None:
    addresses = PROJECT["urls"].values()
    placeholder = any("example.org" in address for address in addresses)
    assert placeholder == ("# A placeholder" in read("pyproject.toml"))
