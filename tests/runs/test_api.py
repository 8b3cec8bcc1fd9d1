"""The package from Python: no Hydra, no command."""

import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import differences
from lightning import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn

import covid_xray as cx
from covid_xray.networks.layer_groups import LayerGroups
from covid_xray.runs.folder import RunFolder
from covid_xray.runs.load import Run
from covid_xray.training.callbacks.checkpoint import TrainingStopped
from covid_xray.training.callbacks.freezing import PhaseFreezing

SCHEDULE = cx.Schedule(
    {
        "probe": cx.Phase(32, 8, 1, "head", 1e-3),
        "tune": cx.Phase(40, 8, 1, "all", [1e-4, 1e-3]),
    }
)


class Small(nn.Module):
    """A user's own network."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.BatchNorm2d(width), nn.ReLU())
        self.top = nn.Linear(width, num_classes)

    def layer_groups(self) -> LayerGroups:
        return {"stem": [self.stem], "top": [self.top]}

    def features(self, images: Tensor) -> Tensor:
        maps: Tensor = self.stem(images)
        return maps

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.top(features.mean(dim=(2, 3)))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


SMALL_SCHEDULE = cx.Schedule({"only": cx.Phase(32, 8, 1, "top", 1e-2), "all": cx.Phase(32, 8, 1, "all", 1e-3)})


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("phantoms")
    return cx.assign_splits(cx.draw_phantoms(str(root), patients=45, images_per_patient=2, size=48))


def make_data(records: pd.DataFrame, schedule: cx.Schedule = SCHEDULE) -> cx.XrayDataModule:
    return cx.XrayDataModule(records, schedule, num_workers=0)


@pytest.fixture(scope="module")
def run(records: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Run:
    cx.audit_records(records).raise_for_leaks()
    data = make_data(records)
    network = cx.create_network("resnet18", data.num_classes, hidden=16)
    return cx.fit(network, data, tmp_path_factory.mktemp("runs") / "mine", logger=None, callbacks=[])


def test_a_run_is_loaded_again_and_evaluated(run: Run) -> None:
    again = cx.load_run(run.folder.path)
    assert differences(again.module.state_dict(), run.module.state_dict()) == []
    assert again.metrics["test/accuracy"] == run.metrics["test/accuracy"]
    result = cx.evaluate_run(again, resamples=20)
    found = result.metrics["accuracy"]
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(run.metrics["test/accuracy"])
    folder = cx.write_evaluation(result, "test")
    assert (folder / "report.html").is_file()
    comparison = cx.compare_runs([run.folder.path, _twin(run, folder)], resamples=20)[0]
    assert comparison.differences["accuracy"].value == 0


def _twin(run: Run, evaluation: Path) -> Path:
    twin = run.folder.path.with_name("twin")
    target = RunFolder(twin).evaluation("test")
    target.mkdir(parents=True)
    (target / "predictions.csv").write_bytes((evaluation / "predictions.csv").read_bytes())
    return twin


def test_predictions_of_paths_and_arrays_agree(run: Run, records: pd.DataFrame, tmp_path: Path) -> None:
    from covid_xray.data.images.read import read_image

    files = records["file"].tolist()[:3]
    arrays = [read_image(file) for file in files]
    (tmp_path / "broken.png").write_text("no image")
    paths = run.predict([*files, str(tmp_path / "broken.png")])
    values = run.predict(arrays)
    columns = ["confidence", "ood_score", *(f"p_{name}" for name in run.class_names)]
    np.testing.assert_array_equal(paths[columns].to_numpy()[:3].astype(float), values[columns].to_numpy().astype(float))
    assert list(paths["error"])[3] != ""
    assert values["path"].tolist() == ["array 0", "array 1", "array 2"]
    with pytest.raises(cx.UserError, match="image 0 must be uint8"):
        run.predict([np.zeros((3, 3))])


def test_plots_show_the_images_that_they_name(run: Run, records: pd.DataFrame) -> None:
    shown, losses = run.show_results(n=4), run.plot_top_losses(n=3)
    for figure, count in ((shown, 4), (losses, 3)):
        assert isinstance(figure, Figure)
        pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
        assert len(pictures) == count
        assert all(picture is not None and np.ptp(picture) > 50 for picture in pictures)
        assert all("predicted" in axis.get_title() for axis in figure.axes if axis.images)
    data = make_data(records)
    titles = [axis.get_title() for axis in cx.show_batch(data, n=4, phase="tune").axes if axis.images]
    assert len(titles) == 4
    assert all(title.endswith("40 px") for title in titles)
    with pytest.raises(cx.UserError, match="phase='x' is not in the schedule"):
        cx.show_batch(data, phase="x")


def test_export_agrees(run: Run, tmp_path: Path) -> None:
    loaded = cx.load_run(run.folder.path, accelerator="cpu")
    difference = loaded.export(tmp_path / "model.safetensors")
    assert difference == 0
    with pytest.raises(cx.UserError, match="format must be"):
        loaded.export(tmp_path / "model.xyz")


def test_own_network_in_a_few_lines(records: pd.DataFrame, tmp_path: Path) -> None:
    data = make_data(records, SMALL_SCHEDULE)
    network = Small(data.num_classes, width=4)
    run = cx.fit(network, data, tmp_path / "own", logger=None, callbacks=[])
    assert run.evaluate(resamples=5, saliency=True).gallery is not None
    with pytest.raises(cx.UserError, match="code outside this project"):
        cx.load_run(tmp_path / "own")
    again = cx.load_run(tmp_path / "own", network=Small(data.num_classes, width=4))
    assert differences(again.module.state_dict(), run.module.state_dict()) == []
    with pytest.raises(cx.UserError, match="does not fit"):
        cx.load_run(tmp_path / "own", network=Small(data.num_classes, width=5))


class StopAt(Callback):
    """Asks the run to stop, as a spot machine does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_a_stopped_fit_continues_bit_for_bit(records: pd.DataFrame, tmp_path: Path) -> None:
    def train(name: str, *callbacks: Callback) -> Run:
        torch.manual_seed(0)
        data = make_data(records, SMALL_SCHEDULE)
        return cx.fit(Small(data.num_classes), data, tmp_path / name, logger=None, callbacks=callbacks)

    whole = train("whole")
    for step in (1, 6):
        with pytest.raises(TrainingStopped):
            train("stopped", StopAt(step))
    stopped = train("stopped")
    assert differences(stopped.module.state_dict(), whole.module.state_dict()) == []
    assert stopped.metrics == whole.metrics


def test_a_needed_callback_cannot_be_lost(records: pd.DataFrame, tmp_path: Path) -> None:
    frozen: list[bool] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, i: int) -> None:
            if trainer.current_epoch == 0:
                network = pl_module.network
                assert isinstance(network, Small)
                frozen.append(next(network.stem.parameters()).requires_grad)
                callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
                assert sum(isinstance(callback, PhaseFreezing) for callback in callbacks) == 1

    data = make_data(records, SMALL_SCHEDULE)
    cx.fit(Small(data.num_classes), data, tmp_path / "watched", logger=None, callbacks=[PhaseFreezing(), Watch()])
    assert frozen
    assert not any(frozen)


def test_leaking_data_are_refused_with_the_remedies(records: pd.DataFrame, tmp_path: Path) -> None:
    leaky = cx.assign_splits(records, by="image", given="ignore")
    data = make_data(leaky, SMALL_SCHEDULE)
    with pytest.raises(cx.UserError, match=r"split=patient.*split.given=ignore.*allow_leakage"):
        cx.fit(Small(data.num_classes), data, tmp_path / "leaky", logger=None, callbacks=[])
    assert not (tmp_path / "leaky" / "config.yaml").exists()
    run = cx.fit(Small(data.num_classes), data, tmp_path / "leaky", logger=None, callbacks=[], allow_leakage=True)
    assert run.metrics["leaks"] > 0
    assert "unseen/accuracy" in run.metrics
