"""Every setting that a message advises is accepted by the shell and by Hydra, as printed."""

import ast
import re
import shlex
from collections.abc import Iterator

import pandas as pd
import pytest
from omegaconf import OmegaConf
from tiny_run import InProcess, command

from covid_xray import cli
from covid_xray.data.records import check_class_names
from covid_xray.errors import UserError
from covid_xray.runs.images import external_images

__all__ = ["command"]
# A setting in a sentence, such as "use split.folds=null"; values that are filled in are not complete here.
_SETTING = re.compile(r"(?<![\w./{}=*'-])([a-z][a-z_]+(?:\.[a-z_]+)*)=(?!\.\.\.)([\w.]+)(?=[\s,;:)]|\.?$)")
# Arguments of libraries, and an option of Hydra.
_OTHERS = ("fused=", "head=", "install=", "reload_dataloaders_every_n_epochs=")
_COMMANDS = (
    "train data=folder data.root=x",
    "train data=manifest data.manifest=x",
    "train model=timm",
    "train logger=wandb",
    "train trainer=ddp",
    "evaluate",
    "predict",
    "export",
    "probe",
)


def sentences() -> Iterator[str]:
    """Texts of the package that are printed or raised: all that are no docstring."""
    for file in cli.PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        documentation = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                yield node.value


FOUND = {match[0].rstrip(".") for text in sentences() for match in _SETTING.finditer(text) if " " in text}
ADVICE = sorted(setting for setting in FOUND if not setting.startswith(_OTHERS))


@pytest.mark.parametrize("setting", ADVICE)
def test_advised_setting_is_accepted(setting: str, command: InProcess) -> None:
    errors = []
    for line in _COMMANDS:
        code, _, err = command(f"{line} {setting} --cfg job")
        if code == 0:
            return
        errors.append(err)
    raise AssertionError(errors)


def test_advice_is_found() -> None:
    assert {"split.given=ignore", "allow_leakage=true", "data.same_patients=true", "trust=true"} <= set(ADVICE)


# Names of two classes that differ in spelling only, and of classes that a run does not have.
NAMES = [("Normal", "normal"), ("COVID 19", "covid-19"), ("0", "0.0"), ("a (b)", "a (B)"), ("x=1, y", "x=1,y")]


@pytest.mark.parametrize(("one", "two"), NAMES)
def test_advised_class_maps_are_accepted(one: str, two: str, command: InProcess) -> None:
    labels = pd.DataFrame({"label": [one, two], "path": ["a", "b"]})
    if one != "x=1, y":
        with pytest.raises(UserError) as error:
            check_class_names(labels["label"])
        advised = [word for word in shlex.split(str(error.value).replace(", or", " , or")) if "class_map=" in word]
        assert_accepted(command, "train data=manifest data.manifest=x", advised, {one, two})
    with pytest.raises(UserError) as error:
        external_images(labels, ("sick", "well"), None)
    advised = [word for word in shlex.split(str(error.value).replace(", or", " , or")) if "class_map=" in word]
    assert len(advised) == 2
    for setting in advised:
        assert_accepted(command, "evaluate run=x", [setting], {one, two})


def assert_accepted(command: InProcess, line: str, settings: list[str], names: set[str]) -> None:
    assert len(settings) == 1
    code, out, err = command(f"{line} --cfg job", *settings)
    assert code == 0, err
    config = OmegaConf.create(out)
    class_map = config.class_map if "class_map" in config and config.class_map else config.data.class_map
    assert {str(name) for name in class_map} < names
