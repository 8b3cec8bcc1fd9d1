"""A run folder may come from anyone: its configuration runs no code, reads no secret, takes no memory."""

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from covid_xray.data.augmentation import is_albumentations
from covid_xray.errors import UserError
from covid_xray.runs.config import build, check_run, read_config, refuse_foreign_code
from covid_xray.runs.images import own_records
from covid_xray.runs.load import Run

CONF = Path(__file__).parents[2] / "conf"
PHASE = {"image_size": 32, "batch_size": 2, "epochs": 1, "trains": "all", "max_lr": 1e-3}
OURS = "covid_xray.data.augmentation"
CONFIG: dict[str, Any] = {
    "schedule": {"_target_": "covid_xray.schedule.Schedule", "phases": {"only": PHASE}},
    "augment": {
        "_target_": f"{OURS}.Augmentation",
        "transforms": [
            {"_target_": f"{OURS}.ResizeWarp"},
            {"_target_": "albumentations.OneOf", "transforms": [{"_target_": "albumentations.GaussNoise"}]},
        ],
    },
    "data": {
        "_target_": "covid_xray.data.phantom.draw_phantoms",
        "root": "phantoms",
        "patients": 6,
        "images_per_patient": 1,
        "size": 32,
    },
    "model": {"_target_": "covid_xray.networks.resnet.TransferResNet", "architecture": "resnet18"},
    "optimizer": {"_target_": "torch.optim.AdamW"},
}
NESTED = {"_target_": "covid_xray.schedule.Schedule"}
FOREIGN: dict[str, tuple[str, Any]] = {
    "a module behind albumentations": ("model.hidden", {"_target_": "albumentations.os.system", "command": "true"}),
    "torch.load behind albumentations": ("model.hidden", {"_target_": "albumentations.pytorch.transforms.torch.load"}),
    "the project's own load_run": ("model.hidden", {"_target_": "covid_xray.runs.load.load_run", "trust": True}),
    "a file writer": ("model.hidden", {"_target_": "covid_xray.metrics.predictions.write_predictions"}),
    "an allowed class at another place": ("model.hidden", NESTED),
    "a list within a phase": ("schedule.phases", [[NESTED]]),
    "another class of the project": ("model._target_", "covid_xray.training.module.XrayClassifier"),
    "a network as schedule": ("schedule._target_", "covid_xray.networks.resnet.TransferResNet"),
    "a reader's module": ("data._target_", "covid_xray.data.phantom.make_phantoms"),
    "code as root of the data": ("data.root", {"_target_": "os.getcwd"}),
    "code in place of a transform": ("augment.transforms", [{"_target_": "os.system"}]),
    "code in a transform": ("augment.transforms", [{"_target_": f"{OURS}.ResizeWarp", "p": {"_target_": "os.abort"}}]),
    "a module in place of a transform": ("augment.transforms", [{"_target_": "albumentations.os"}]),
    "a function of albumentations": ("augment.transforms", [{"_target_": "albumentations.load"}]),
    "a transform that opens files": ("augment.transforms", [{"_target_": "albumentations.TextImage"}]),
    "a transform by a long way": ("augment.transforms", [{"_target_": f"{OURS}.A.HorizontalFlip"}]),
}


def changed(key: str, value: Any) -> dict[str, Any]:
    config = deepcopy(CONFIG)
    node, *keys = config, *key.split(".")
    for part in keys[:-1]:
        node = node[part]
    node[keys[-1]] = value
    return config


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_code_is_named_at_no_place(change: tuple[str, Any]) -> None:
    config = changed(*change)
    with pytest.raises(UserError, match=r"config\.yaml names code outside this project .*could do anything"):
        refuse_foreign_code(config, Path("config.yaml"), trust=False)
    refuse_foreign_code(config, Path("config.yaml"), trust=True)


def test_a_run_of_this_project_needs_no_trust() -> None:
    refuse_foreign_code(CONFIG, Path("config.yaml"), trust=False)
    refuse_foreign_code({**CONFIG, "data": None}, Path("config.yaml"), trust=False)
    for group in ("schedule", "augment", "data", "model"):
        for file in (CONF / group).glob("*.yaml"):
            if "_target_" in (node := yaml.safe_load(file.read_text())):
                refuse_foreign_code({**CONFIG, group: node}, file, trust=False)
    build(CONFIG, "augment")
    assert is_albumentations("albumentations.HorizontalFlip")
    assert not is_albumentations("albumentations.core.composition.HorizontalFlip")


def aliases(text: str) -> str:
    rows = [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)]
    return "\n".join([text, "a: &a [x, x, x, x, x, x, x, x, x]", *rows])


TEXTS: dict[str, tuple[Callable[[str], str], str]] = {
    "a secret of the environment": (lambda text: text + "note: ${oc.env:HOME}\n", "an expression or alias"),
    "an expression as a key": (lambda text: text + "${oc.env:HOME}: 1\n", "an expression or alias"),
    "a loop": (lambda text: text.replace("resnet18", "${model.architecture}"), "an expression or alias"),
    "an exponential file": (aliases, "an expression or alias"),
    "100,000 levels": (lambda text: text + f"deep: {'[' * 100_000}", "more than 20 levels"),
    "a megabyte": (lambda text: text + f"note: {'x' * 1_000_000}", "the limit is"),
    "an object of Python": (lambda text: text + "x: !!python/object/apply:os.system [true]\n", "is damaged"),
    "no YAML": (lambda text: "a: [", "is damaged"),
    "empty": (lambda text: "", "is damaged"),
    "zeros": (lambda text: "\0" * 2000, "is damaged"),
    "a list": (lambda text: "[1]", "is damaged"),
    "a group that is a number": (lambda text: yaml.safe_dump(changed("model", 5)), "model must be a mapping"),
    "a group that is missing": (lambda text: text.replace("model:", "network:"), "model must be a mapping"),
}


@pytest.mark.parametrize(("change", "expected"), TEXTS.values(), ids=TEXTS)
def test_a_hostile_file_is_refused(change: Callable[[str], str], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(change(yaml.safe_dump(CONFIG)))
    with pytest.raises(UserError, match=expected):
        read_config(file)


def test_a_file_that_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="is no regular file"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.hidden", 1 << 31, r"model\.hidden must be a whole number from 1 to 65,536"),
        ("schedule.phases.only.image_size", 60_000, "image_size must be at most 8,192"),
        ("data.patients", 10**9, r"data\.patients must be a whole number from 3 to 1000000"),
    ],
)
def test_sizes_are_bounded_before_memory_is_taken(key: str, value: int, expected: str) -> None:
    group = key.split(".")[0]
    with pytest.raises(UserError, match=expected):
        build(changed(key, value), group, **({"num_classes": 2} if group == "model" else {}))


def run_with(key: str, value: Any, trust: bool = False) -> Run:
    """A run of six images, without a network."""
    nothing: Any = None
    splits = pd.DataFrame({"path": range(6)})
    return Run(nothing, changed(key, value), "best", splits, nothing, 32, 32, 2, nothing, "32-true", trust)


def test_a_foreign_run_writes_below_the_current_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("link").symlink_to(tmp_path / "elsewhere")
    for root in (str(tmp_path / "elsewhere"), "../elsewhere", "link/set"):
        run = run_with("data.root", root)
        assert run.writable(root) is None
        with pytest.raises(UserError, match=r"does not exist; to draw the phantoms .* set trust=true"):
            own_records(run)
        assert not (tmp_path / "elsewhere").exists()
    assert len(own_records(run_with("data.root", "../elsewhere", trust=True))) == 6
    assert len(own_records(run_with("data.root", "../elsewhere"))) == 6  # drawn now
    with pytest.raises(UserError, match="set trust=true"):  # more patients than the run has images
        own_records(run_with("data.patients", 3000))
    own = run_with("data.patients", 6)
    assert len(own_records(own)) == 6
    assert own.writable("data/audit") == Path("data/audit")


def test_results_do_not_leave_the_run_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    splits = "path,label,patient_id,source,split,pixels\n1.png,a,1,,train,0\n2.png,b,2,,train,0\n"
    (tmp_path / "splits.csv").write_text(splits)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    check_run(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "test").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link"):
        check_run(tmp_path)
    check_run(tmp_path, trust=True)
