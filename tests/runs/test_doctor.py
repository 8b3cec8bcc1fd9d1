"""The checks of the machine: what each finds, where training would fail, and what to do."""

import errno
import hashlib
import os
import pkgutil
import platform
import shutil
import sys
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import covid_xray as cx
from covid_xray.runs import doctor

CONFIG: dict[str, Any] = {
    "datamodule": {"num_workers": 4},
    "schedule": {
        "_target_": "covid_xray.schedule.Schedule",
        "phases": {"all": {"image_size": 64, "batch_size": 8, "epochs": 1, "trains": "all", "max_lr": 1e-3}},
    },
}


def raises(error: Exception, *_: object, **__: object) -> Any:
    raise error


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_python().status == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.14")
    check = doctor.check_python()
    assert (check.status, check.remedy) == ("fail", "use a Python <3.14,>=3.11")


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    packages, extras = doctor.check_packages()
    assert packages.status == extras.status == "ok"
    assert f"torch {version('torch')}" in packages.found

    def other(package: str, new: str | None, name: str) -> str:
        if package == name and new is None:
            raise PackageNotFoundError(name)
        return new if package == name and new else version(name)

    monkeypatch.setattr(doctor, "version", partial(other, "torchmetrics", None))
    packages, _ = doctor.check_packages()
    assert (packages.status, packages.found) == ("fail", "torchmetrics is missing")
    assert packages.remedy.startswith("pip install")
    monkeypatch.setattr(doctor, "version", partial(other, "torch", "2.1.0"))
    packages, _ = doctor.check_packages()
    assert (packages.status, packages.found) == ("note", "torch is 2.1.0")
    monkeypatch.setattr(doctor, "version", partial(other, "timm", None))
    _, extras = doctor.check_packages()
    assert extras.found.endswith("not installed: dev, timm") or extras.found.endswith("not installed: timm")
    assert "timm" in extras.remedy


def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    packages, _ = doctor.check_packages()
    assert packages.status == "fail"
    assert packages.found.startswith("cv2 cannot be imported (")
    found = list(doctor.check_machine({}))  # the settings are not read: nothing else can be checked
    assert [check.name for check in found] == ["Python", "packages", "extras", "Hydra plugins"]


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "metadata", partial(raises, PackageNotFoundError()))
    assert doctor.check_python().status == "ok"
    (packages,) = doctor.check_packages()
    assert (packages.status, packages.found) == ("note", "covid-xray is not installed")


def test_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    place = SimpleNamespace(__path__=["place"])
    monkeypatch.setattr(doctor, "import_module", lambda name: place)
    modules = [SimpleNamespace(name="hydra_joblib_launcher"), SimpleNamespace(name="hydra_optuna_sweeper")]
    monkeypatch.setattr(pkgutil, "iter_modules", lambda path: modules)
    assert doctor.check_plugins({"hydra_optuna_sweeper", "hydra_joblib_launcher"}).status == "ok"
    check = doctor.check_plugins({"hydra_joblib_launcher"})
    assert (check.status, check.found) == ("note", "hydra_optuna_sweeper cannot be loaded")
    monkeypatch.setattr(doctor, "import_module", partial(raises, ImportError()))
    assert doctor.check_plugins(()).found.startswith("none")


def test_device_and_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covid_xray.hardware.accelerator", lambda: "cpu")
    for fast, found in ((True, "in hardware"), (False, "not in hardware: training uses float32")):
        monkeypatch.setattr("covid_xray.hardware._cpu_has_bf16", lambda fast=fast: fast)
        device, bfloat16 = doctor.check_device("auto")
        assert (device.status, device.found.split(" ")[0], bfloat16.found) == ("ok", "cpu", found)
    for wanted in ("gpu", "cuda", "mps"):
        (device,) = doctor.check_device(wanted)
        assert (device.status, device.found) == ("fail", f"trainer.accelerator={wanted}, but torch finds cpu")
        assert "trainer.accelerator=cpu" in device.remedy
    monkeypatch.setattr(doctor, "_has_nvidia", lambda: True)
    assert doctor.check_device("auto")[0].status == "note"
    assert doctor.check_device("cpu")[0].status == "ok"
    monkeypatch.setattr(torch.nn.functional, "conv2d", partial(raises, RuntimeError("no kernel image\nmore")))
    (device,) = doctor.check_device("auto")
    assert (device.status, device.found) == ("fail", "cpu: no kernel image")


def test_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_cores(CONFIG).found.endswith(", 4 loader workers")
    for free, status in ((None, "ok"), (8 * 10**9, "ok"), (10**8, "fail")):
        monkeypatch.setattr(doctor, "free_memory", lambda free=free: free)
        assert doctor.check_memory().status == status
    assert doctor.check_memory().remedy


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_free_memory_is_within_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.free_memory()
    assert real is not None
    assert 10**7 < real < 10**14
    read = Path.read_text

    def limited(path: Path, **settings: Any) -> str:
        cgroup = {"memory.max": "3000000", "memory.current": "1000000\n"}
        return cgroup[path.name] if path.name in cgroup else read(path, **settings)

    monkeypatch.setattr(Path, "read_text", limited)
    assert doctor.free_memory() == 2_000_000


def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("covid_xray.data.loader.SHARED_MEMORY", tmp_path)
    for blocks, status in ((10**6, "ok"), (50, "note"), (0, "note")):
        space = SimpleNamespace(f_bavail=blocks, f_frsize=4096)
        monkeypatch.setattr(os, "statvfs", lambda _, space=space: space, raising=False)
        assert doctor.check_shared_memory(CONFIG).status == status
    assert doctor.check_shared_memory(CONFIG).found.endswith("for the batches of 0 of 4 loader workers")
    monkeypatch.setattr("covid_xray.data.loader.SHARED_MEMORY", tmp_path / "none")
    assert doctor.check_shared_memory(CONFIG).status == "ok"


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new = tmp_path / "a/b"
    for off in (None, False, "off"):
        assert doctor.check_folder("cache", off).found == "off"
    assert doctor.check_folder("outputs", new, 1000).status == "ok"
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    check = doctor.check_folder("outputs", new, 10**18)
    assert check.status == "fail"
    assert "checkpoints take" in check.found
    for number, remedy in ((errno.ENOSPC, "make room and run"), (errno.EROFS, "choose a folder that can be written")):
        monkeypatch.setattr(os, "fsync", partial(raises, OSError(number, os.strerror(number))))
        check = doctor.check_folder("cache", new)
        assert check.status == "fail"
        assert f"{new} cannot be written: {os.strerror(number)} (" in check.found
        assert check.remedy.startswith(remedy)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux, where not even root can write into /sys")
def test_a_real_read_only_folder() -> None:
    check = doctor.check_folder("outputs", "/sys/kernel/outputs")
    assert check.status == "fail"
    assert check.found.startswith("/sys/kernel/outputs cannot be written: ")
    assert doctor.check_locks(Path("/sys/kernel/outputs")).status == "note"


def test_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(doctor.__file__).parents[2]))
    assert doctor.check_locks(tmp_path / "outputs").status == "ok"
    no_locks = ModuleType("msvcrt")
    no_locks.__dict__.update(LK_NBLCK=2, locking=partial(raises, OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", no_locks)
    check = doctor.check_locks(tmp_path / "outputs")
    assert check.status == "note"
    assert check.remedy.startswith("use a disk with locks")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> torch.nn.Module:
    """A ResNet, with an empty folder for its pretrained weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with torch.device("meta"):
        return cx.create_network("resnet18", 3)


def test_local_weights(network: torch.nn.Module, tmp_path: Path) -> None:
    assert doctor.check_weights(network, None).status == "ok"
    file = tmp_path / "mine.pt"
    assert doctor.check_weights(network, str(file)).status == "fail"
    file.write_bytes(bytes(3_000_000))
    assert doctor.check_weights(network, str(file)).found == f"{file}: 3 MB"
    check = doctor.check_weights(network, "IMAGENET1K_V9")
    assert check.status == "fail"
    assert check.found.startswith("weights=IMAGENET1K_V9 is unknown")


def test_published_weights(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", partial(raises, urllib.error.URLError("no network")))
    check = doctor.check_weights(network, "DEFAULT")
    file = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    assert check.status == "fail"
    assert check.found.startswith(f"{file} does not exist, and https://")
    assert check.found.endswith("resnet18-f37072fd.pth cannot be reached (no network)")
    assert f"to {file}, set weights=FILE" in check.remedy
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half of the file")
    check = doctor.check_weights(network, "DEFAULT")
    assert (check.status, check.remedy) == ("fail", "remove the file")
    good = file.with_name(f"x-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth")
    good.write_bytes(b"weights")
    monkeypatch.setattr(doctor, "published_weights", lambda *_: ("https://host.invalid/x", good))
    assert doctor.check_weights(network, "DEFAULT") == doctor.Check("weights", "ok", str(good))


class Head(BaseHTTPRequestHandler):
    """Answers as the server of the weights does."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "46830571")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_weights_that_a_server_has(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Head)
    url = f"http://127.0.0.1:{server.server_port}/weights.pth"
    monkeypatch.setattr(doctor, "published_weights", lambda *_: (url, tmp_path / "weights.pth"))
    Thread(target=server.handle_request, daemon=True).start()
    assert doctor.check_weights(network, "DEFAULT").found == f"47 MB will be fetched from {url}"
    server.server_close()
    assert "cannot be reached" in doctor.check_weights(network, "DEFAULT").found


def test_networks_of_other_families(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    name = "covid_xray.networks.timm_network.TimmNetwork"
    with torch.device("meta"):
        network = cx.create_network(name, 3, architecture="resnet10t")
        none = cx.create_network("covid_xray.networks.darkcovidnet.DarkCovidNet", 3)
    published = doctor.published_weights(network, "DEFAULT")
    assert published is not None
    assert timm.get_pretrained_cfg("resnet10t").hf_hub_id in published[0]
    assert doctor.check_weights(network, "no_such_tag").status == "fail"
    assert doctor.check_weights(none, "DEFAULT").found == "DarkCovidNet has no published weights: random ones are used"


def test_checkpoints_are_as_large_as_predicted(network: torch.nn.Module, tmp_path: Path) -> None:
    real = cx.create_network("resnet18", 3)
    optimizer = torch.optim.AdamW(real.parameters())
    for parameter in real.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.save({"network": real.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "last.ckpt")
    size = (tmp_path / "last.ckpt").stat().st_size
    assert doctor._checkpoint_bytes(network) == pytest.approx(4 * size, rel=0.01)
    assert shutil.disk_usage(tmp_path).free == pytest.approx(doctor._free(tmp_path / "none/yet"), rel=0.01)
