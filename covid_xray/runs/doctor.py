"""Checks of this machine: whether a training with given settings can run here, and what to do if it cannot."""

import contextlib
import hashlib
import os
import pkgutil
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from covid_xray.files import lock, write_failure
from covid_xray.runs.config import Config, build, checkpoint_of

_PROJECT = "covid-xray"
# Modules that are often installed but cannot be imported: another version of torch, a missing system library.
_FRAGILE = ("torch", "torchvision", "cv2", "lightning", "albumentations")
_TINY_MB = 1400  # peak of `experiment=tiny` without loader workers, as measured on Linux
_PROBE = bytes(1 << 20)  # written to test a disk
_SECONDS = 3.0  # to wait for an answer from the network
_TRY_LOCK = (
    "import sys; from pathlib import Path; from covid_xray.files import lock\n"
    "raise SystemExit(lock(Path(sys.argv[1])) is None)"
)


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What is checked.
        status: ``ok``, ``note`` (training works, but something could be better) or ``fail`` (training would fail).
        found: What was found.
        remedy: What to do; empty if there is nothing to do.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


def check_machine(config: Config, plugins: Collection[str] = ()) -> Iterator[Check]:
    """Check what a training needs: software, hardware, memory, disks and weights.

    Args:
        config: Configuration of the training: ``model``, ``schedule``, ``trainer``, ``datamodule``, ``weights`` and
            ``run_dir``.
        plugins: Packages of ``hydra_plugins`` that Hydra could load.

    Yields:
        The checks, as soon as each is done. If a package cannot be imported, those of the software only.
    """
    yield check_python()
    packages = check_packages()
    yield from packages
    yield check_plugins(plugins)
    if any(check.status == "fail" for check in packages):
        return
    yield from check_device(str(config["trainer"].get("accelerator", "auto")))
    yield check_cores(config)
    yield check_memory()
    yield check_shared_memory(config)
    network = _network(config)
    yield check_folder("cache", config["datamodule"]["cache"])
    yield check_folder("outputs", config["run_dir"], _checkpoint_bytes(network))
    yield check_locks(Path(str(config["run_dir"])))
    yield check_weights(network, config["weights"])


def check_python() -> Check:
    """The version of Python against the one that the package requires."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    with contextlib.suppress(PackageNotFoundError):
        wanted = metadata(_PROJECT)["Requires-Python"]
        if not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
            return Check("Python", "fail", found, f"use a Python {wanted}")
    return Check("Python", "ok", found)


def check_packages() -> list[Check]:
    """The packages that the project needs, those that fail to be imported, and the extras."""
    try:
        requirements = [Requirement(line) for line in metadata(_PROJECT).get_all("Requires-Dist") or ()]
    except PackageNotFoundError:
        return [Check("packages", "note", f"{_PROJECT} is not installed", "pip install . in the checkout")]
    needed = [part for part in requirements if part.marker is None or part.marker.evaluate({"extra": ""})]
    broken = [f"{part.name} is missing" for part in needed if _version(part.name) is None]
    for name in _FRAGILE if not broken else ():
        try:
            import_module(name)
        except Exception as error:  # a missing library, or a mismatch of versions, raises nearly any exception
            broken.append(f"{name} cannot be imported ({_first_line(error)})")
    old = [f"{part.name} is {found}" for part in needed if not _fits(part, found := _version(part.name))]
    if broken:
        packages = Check("packages", "fail", ", ".join(broken), f"pip install --force-reinstall {_PROJECT}")
    elif old:
        packages = Check("packages", "note", ", ".join(old), f"tested are other versions: pip install {_PROJECT}")
    else:
        shown = (f"{name} {_version(name)}" for name in ("torch", "torchvision", "lightning", "hydra-core"))
        packages = Check("packages", "ok", ", ".join(shown))
    return [packages, _extras([part for part in requirements if part not in needed])]


def _extras(requirements: list[Requirement]) -> Check:
    extras: dict[str, bool] = {}
    for name in metadata(_PROJECT).get_all("Provides-Extra") or ():
        parts = [part for part in requirements if part.marker is not None and part.marker.evaluate({"extra": name})]
        extras[name] = all(_version(part.name) is not None for part in parts)
    found = ", ".join(name for name, complete in extras.items() if complete) or "none"
    absent = [name for name, complete in extras.items() if not complete]
    if not absent:
        return Check("extras", "ok", found)
    remedy = f"to add others, such as {absent[0]}: pip install '{_PROJECT}[{','.join(absent)}]'"
    return Check("extras", "ok", f"{found}; not installed: {', '.join(absent)}", remedy)


def check_plugins(loaded: Collection[str]) -> Check:
    """Hydra's plugins: which are installed, and which of them Hydra cannot load.

    Args:
        loaded: Packages of ``hydra_plugins`` that Hydra could load.
    """
    try:
        installed = sorted(module.name for module in pkgutil.iter_modules(import_module("hydra_plugins").__path__))
    except ImportError:
        installed = []
    if broken := [name for name in installed if name not in loaded]:
        remedy = f"pip install --force-reinstall '{_PROJECT}[sweep,launch]'"
        return Check("Hydra plugins", "note", f"{', '.join(broken)} cannot be loaded", remedy)
    return Check("Hydra plugins", "ok", ", ".join(installed) or "none (sweeps run one job after the other)")


def check_device(wanted: str) -> list[Check]:
    """The accelerator, with a small computation on it, and the precision.

    Args:
        wanted: ``trainer.accelerator``: ``auto``, ``gpu``, ``cuda``, ``mps`` or ``cpu``.
    """
    import torch

    from covid_xray.hardware import accelerator, best_precision

    best = accelerator()
    device = {"auto": best, "gpu": best}.get(wanted, wanted)
    found, remedy, status = device, "", "ok"
    if (device != "cpu" and device != best) or (wanted == "gpu" and best == "cpu"):
        return [Check("accelerator", "fail", f"trainer.accelerator={wanted}, but torch finds {best}", _no_gpu(torch))]
    try:
        image, kernel = torch.ones(1, 3, 8, 8, device=device), torch.ones(4, 3, 3, 3, device=device)
        if float(torch.nn.functional.conv2d(image, kernel).sum()) != 3 * 9 * 4 * 36:
            raise RuntimeError("a convolution gave a wrong result")
    except RuntimeError as error:
        remedy = "install a torch for this GPU and driver, or use trainer.accelerator=cpu"
        return [Check("accelerator", "fail", f"{device}: {_first_line(error)}", remedy)]
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        found = f"{names}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free, CUDA {torch.version.cuda}"
    elif device == "cpu":
        found = f"cpu ({torch.get_num_threads()} threads)"
        if wanted != "cpu" and _has_nvidia():
            status, remedy = "note", f"there is an NVIDIA GPU that torch does not use: {_no_gpu(torch)}"
    precision = best_precision(device)
    bfloat16 = "in hardware" if precision.startswith("bf16") else "not in hardware: training uses float32"
    return [Check("accelerator", status, found, remedy), Check("bfloat16", "ok", bfloat16)]


def _no_gpu(torch: Any) -> str:
    if torch.version.cuda is None:
        return "install a torch with CUDA (pytorch.org/get-started), or use trainer.accelerator=cpu"
    return "install the NVIDIA driver (Docker: --gpus all), or use trainer.accelerator=cpu"


def _has_nvidia() -> bool:
    return any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))


def check_cores(config: Config) -> Check:
    """The cores that this process may use, and the loader workers."""
    from covid_xray.data.datamodule import default_workers

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = config["datamodule"]["num_workers"]
    return Check("cores", "ok", f"{cores}, {default_workers() if workers is None else workers} loader workers")


def check_memory() -> Check:
    """The memory that is free, within the limit of a container."""
    free = free_memory()
    if free is None:
        return Check("memory", "ok", "its size is not known on this system")
    found = f"{free / 1e9:.1f} GB free"
    if free < _TINY_MB * 1e6:
        return Check("memory", "fail", found, f"close programs: the smallest training takes about {_TINY_MB} MB")
    return Check("memory", "ok", found)


def free_memory() -> int | None:
    """Bytes of memory that this process can still take; None on a system without /proc (macOS, Windows)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError):  # no container, or "max" for no limit
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current")
        )
        free = min(free, limit - used)
    return free


def check_shared_memory(config: Config) -> Check:
    """Whether the batches of the loader workers fit into shared memory."""
    from covid_xray.data.datamodule import default_workers
    from covid_xray.data.loader import SHARED_MEMORY, affordable_workers

    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", "ok", "not limited on this system")
    wanted = config["datamodule"]["num_workers"]
    wanted = default_workers() if wanted is None else wanted
    phases = build(config, "schedule").phases.values()
    workers = affordable_workers(wanted, max(phase.batch_size * phase.image_size**2 for phase in phases))
    found = f"{SHARED_MEMORY} has room for the batches of {workers} of {wanted} loader workers"
    if workers < wanted:
        return Check("shared memory", "note", found, "give it more (Docker: --shm-size=2g) for a faster training")
    return Check("shared memory", "ok", found)


def check_folder(name: str, folder: Any, needed: int = 0) -> Check:
    """Whether a folder can be written, or made, and has room.

    Args:
        name: Name of the check.
        folder: The folder; ``off``, False or None if none is used.
        needed: Bytes that the training writes there at least.
    """
    if folder in ("off", False, None):
        return Check(name, "ok", "off")
    path = Path(str(folder))
    try:
        with tempfile.TemporaryFile(dir=_existing(path)) as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Check(name, "fail", *str(write_failure(path, error)).rsplit("; ", 1))
    free = _free(path)
    found = f"{path}: {free / 1e9:.1f} GB free"
    if free < needed:
        return Check(name, "fail", f"{found}, checkpoints take {needed / 1e9:.1f} GB", "make room, or set run_dir")
    return Check(name, "ok", f"{found}, checkpoints take {needed / 1e9:.1f} GB" if needed else found)


def check_locks(folder: Path) -> Check:
    """Whether a lock in a folder excludes another process, so that two trainings never write into one run folder."""
    try:
        with tempfile.TemporaryDirectory(dir=_existing(folder)) as place:
            file = Path(place) / "lock"
            held = lock(file)
            command = [sys.executable, "-c", _TRY_LOCK, str(file)]
            other = subprocess.run(command, capture_output=True, check=False, timeout=60)  # noqa: S603 our own code
            if held is not None:
                held.close()
    except OSError as error:
        return Check("file locks", "note", f"not tested: {error.strerror or error}", f"make {folder} writable")
    if held is not None and other.returncode == 1:
        return Check("file locks", "ok", "another process is excluded")
    remedy = "use a disk with locks for run_dir, or never start a run twice"
    return Check("file locks", "note", f"{folder}: another process is not excluded", remedy)


def check_weights(network: Any, weights: str | None) -> Check:
    """Whether the pretrained weights are here, or can be fetched.

    Args:
        network: The network that they are for.
        weights: Setting of the training: a name, a file, a run folder, or None for random weights.
    """
    from covid_xray.networks.weights import FILE_ENDINGS

    if weights is None:
        return Check("weights", "ok", "random (weights=null)")
    path = Path(checkpoint_of(str(weights)))
    if path.is_file():
        return Check("weights", "ok", f"{path}: {path.stat().st_size / 1e6:,.0f} MB")
    if path.suffix in FILE_ENDINGS:
        return Check("weights", "fail", f"{path} does not exist", "correct weights=FILE, or use weights=null")
    try:
        published = published_weights(network, str(weights))
    except (KeyError, AttributeError, RuntimeError) as error:
        remedy = "choose other weights, or weights=null"
        return Check("weights", "fail", f"weights={weights} is unknown: {_first_line(error)}", remedy)
    if published is None:
        return Check("weights", "ok", f"{type(network).__name__} has no published weights: random ones are used")
    url, file = published
    if file.is_file():
        digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
        if digest and not hashlib.sha256(file.read_bytes()).hexdigest().startswith(digest[1]):
            return Check("weights", "fail", f"{file} is damaged: its SHA-256 is not {digest[1]}...", "remove the file")
        return Check("weights", "ok", str(file))
    advice = f"download {url} to {file}, set weights=FILE to local weights, or use weights=null"
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 an address of torchvision or timm
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            size = int(answer.headers.get("Content-Length") or 0)
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Check("weights", "fail", f"{file} does not exist, and {url} cannot be reached ({reason})", advice)
    return Check("weights", "ok", f"{size / 1e6:,.0f} MB will be fetched from {url}")


def published_weights(network: Any, weights: str) -> tuple[str, Path] | None:
    """Address and local file of published weights; None if the network has none.

    Args:
        network: A network of this project.
        weights: ``DEFAULT``, or a name as the network's library has it.

    Raises:
        KeyError, AttributeError or RuntimeError: If the library does not know the name.
    """
    from covid_xray.networks.resnet import TransferResNet
    from covid_xray.networks.timm_network import TimmNetwork

    if isinstance(network, TransferResNet):
        import torch
        from torchvision.models import get_model_weights

        entries: Any = get_model_weights(network.architecture)
        url: str = (entries.DEFAULT if weights == "DEFAULT" else entries[weights]).url
        return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if isinstance(network, TimmNetwork):
        import timm
        from huggingface_hub import hf_hub_url, try_to_load_from_cache

        tag = network.architecture if weights == "DEFAULT" else f"{network.architecture.split('.')[0]}.{weights}"
        pretrained: Any = timm.get_pretrained_cfg(tag)
        repository, name = pretrained.hf_hub_id, "model.safetensors"
        if repository is None:
            return None
        found = try_to_load_from_cache(repository, name)
        return hf_hub_url(repository, name), Path(found if isinstance(found, str) else name)
    return None


def _network(config: Config) -> Any:
    """The network without memory for its weights."""
    import torch

    with torch.device("meta"):
        return build(config, "model", num_classes=2)


def _checkpoint_bytes(network: Any) -> int:
    """Size of the files last, previous and best, and of one that is being written: weights and AdamW's two moments."""
    numbers: int = sum(parameter.numel() for parameter in network.parameters())
    return 4 * 3 * 4 * numbers


def _existing(path: Path) -> Path:
    """The nearest place that exists; a training makes the rest of the path there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _free(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _fits(requirement: Requirement, found: str | None) -> bool:
    return found is None or requirement.specifier.contains(found, prereleases=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
