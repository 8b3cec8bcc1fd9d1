"""Experiments, data sets, splits, networks and schedules compose freely."""

from pathlib import Path

import pytest
import yaml
from conftest import Command
from omegaconf import OmegaConf
from tiny_run import InProcess, command

from covid_xray import cli
from covid_xray.data.phantom import draw_phantoms
from covid_xray.runs.config import build

__all__ = ["command"]


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (cli.config_dir() / group).glob("*.yaml"))


OTHER_SCHEDULE = {
    "_target_": "covid_xray.schedule.Schedule",
    "phases": {"warm-up": {"image_size": 40, "batch_size": 8, "epochs": 1, "trains": "all", "max_lr": 1e-3}},
}
NETWORK = '''
from torch import nn


class Mine(nn.Module):
    """A user's own network."""

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.BatchNorm2d(width), nn.ReLU())
        self.top = nn.Linear(width, num_classes)

    def layer_groups(self):
        return {"body": [self.body], "head": [self.top]}

    def features(self, images):
        return self.body(images)

    def head(self, features):
        return self.top(features.mean(dim=(2, 3)))

    def forward(self, images):
        return self.head(self.features(images))
'''


@pytest.fixture(scope="module")
def own_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the project with a user's model and schedule."""
    folder = tmp_path_factory.mktemp("mine")
    for group in ("model", "schedule"):
        (folder / "conf" / group).mkdir(parents=True)
    (folder / "my_network.py").write_text(NETWORK)
    (folder / "conf/model/mine.yaml").write_text("_target_: my_network.Mine\nwidth: 4\n")
    (folder / "conf/schedule/mine.yaml").write_text(yaml.safe_dump(OTHER_SCHEDULE))
    return folder


@pytest.mark.parametrize("experiment", names("experiment"))
@pytest.mark.parametrize("data", ["phantom", "folder data.root=x", "manifest data.manifest=x.csv"])
def test_every_experiment_composes_with_every_data_set(
    experiment: str, data: str, command: InProcess, own_config: Path
) -> None:
    others = f"--config-dir {own_config}/conf model=mine schedule=mine"
    code, out, err = command(f"train experiment={experiment} data={data} split=folds {others} --cfg job")
    assert code == 0, err
    config = OmegaConf.create(out)
    assert config.data._target_.rsplit(".", 1)[1] in ("draw_phantoms", "read_folder", "read_manifest")
    # Nothing of another data set, network, split or schedule is left in the groups.
    options = OmegaConf.load(cli.config_dir() / "data" / f"{data.split()[0]}.yaml")
    assert set(config.data) == set(options)
    assert set(config.model) == {"_target_", "width"}
    assert list(config.schedule.phases) == ["warm-up"]
    assert (config.split.by, config.split.folds) == ("patient", 5)
    build(OmegaConf.to_container(config, resolve=True), "schedule")  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["schedule.sizes=last", "schedule.rates=uniform", "schedule.lr_scale=0.5"])
def test_changes_of_sizes_and_rates_fit_any_schedule(change: str, command: InProcess, own_config: Path) -> None:
    line = f"train experiment=tiny --config-dir {own_config}/conf schedule=mine {change} --cfg job"
    code, out, err = command(line)
    assert code == 0, err
    schedule = build(OmegaConf.to_container(OmegaConf.create(out), resolve=True), "schedule")  # type: ignore[arg-type]
    assert getattr(schedule, change.split("=")[0].split(".")[1]) is not None


@pytest.mark.parametrize("experiment", ["tiny", pytest.param("borders_only", marks=pytest.mark.slow)])
def test_an_experiment_trains_the_users_images_and_network(
    experiment: str, covid_xray: Command, workplace: Path, own_config: Path
) -> None:
    table = draw_phantoms(str(workplace / "phantoms-of-a-user"), 45, 1, 48)
    for file, label in zip(table["file"], table["label"], strict=True):
        target = workplace / "my-xrays" / label / Path(file).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(file)
    settings = (f"--config-dir={own_config}/conf", "model=mine", "schedule=mine", "data=folder", "data.root=my-xrays")
    environment = {"PYTHONPATH": f"{Path(__file__).parents[2]}:{own_config}"}
    arguments = ("train", f"experiment={experiment}", *settings, f"run_dir=own-{experiment}", "logger=none")
    result = covid_xray(*arguments, env=environment)
    assert result.returncode == 0, result.stderr
    config = OmegaConf.load(workplace / f"own-{experiment}" / "config.yaml")
    assert config.model._target_ == "my_network.Mine"
    evaluated = covid_xray("evaluate", f"run=own-{experiment}", "resamples=5", env=environment)
    assert evaluated.returncode == 2
    assert "names code outside this project (my_network.Mine)" in evaluated.stderr
    evaluated = covid_xray("evaluate", f"run=own-{experiment}", "resamples=5", "trust=true", env=environment)
    assert evaluated.returncode == 0, evaluated.stderr
