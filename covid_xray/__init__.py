"""Fine-tuning a pretrained CNN on chest X-rays. Research software, not a medical device.

>>> import covid_xray as cx
>>> records = cx.assign_splits(cx.read_folder("my-xrays"), by="patient")

Names are imported at first use, so that ``import covid_xray`` is fast.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covid_xray.data.audit.report import audit_records
    from covid_xray.data.augmentation import Augmentation
    from covid_xray.data.cache import read_images
    from covid_xray.data.crop import BoxCrop, FrameCrop, MaskCrop, crop_records
    from covid_xray.data.datamodule import XrayDataModule
    from covid_xray.data.folder import read_folder
    from covid_xray.data.manifest import read_manifest
    from covid_xray.data.phantom import draw_phantoms
    from covid_xray.data.records import check_records
    from covid_xray.data.split import assign_splits
    from covid_xray.errors import UserError
    from covid_xray.networks.create import create_network
    from covid_xray.plots.batch import show_batch
    from covid_xray.reporting.bundle_card import write_bundle
    from covid_xray.reporting.contact_sheet import write_contact_sheet
    from covid_xray.reporting.evaluation_folder import write_evaluation
    from covid_xray.runs.compare import compare_runs
    from covid_xray.runs.embedding import embed, read_features
    from covid_xray.runs.ensemble import Ensemble, load_ensemble
    from covid_xray.runs.evaluate import evaluate_run
    from covid_xray.runs.fit import fit
    from covid_xray.runs.load import load_run
    from covid_xray.runs.probe import probe
    from covid_xray.schedule import Phase, Schedule
    from covid_xray.training.adversary import SourceAdversary
    from covid_xray.training.callbacks.averaging import WeightAverage
    from covid_xray.training.losses import GroupDRO
    from covid_xray.training.module import XrayClassifier

try:
    __version__ = version("covid-xray")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

_MODULES = {
    "Augmentation": "data.augmentation",
    "BoxCrop": "data.crop",
    "Ensemble": "runs.ensemble",
    "FrameCrop": "data.crop",
    "GroupDRO": "training.losses",
    "MaskCrop": "data.crop",
    "Phase": "schedule",
    "Schedule": "schedule",
    "SourceAdversary": "training.adversary",
    "UserError": "errors",
    "WeightAverage": "training.callbacks.averaging",
    "XrayClassifier": "training.module",
    "XrayDataModule": "data.datamodule",
    "assign_splits": "data.split",
    "audit_records": "data.audit.report",
    "check_records": "data.records",
    "compare_runs": "runs.compare",
    "create_network": "networks.create",
    "crop_records": "data.crop",
    "draw_phantoms": "data.phantom",
    "embed": "runs.embedding",
    "evaluate_run": "runs.evaluate",
    "fit": "runs.fit",
    "load_ensemble": "runs.ensemble",
    "load_run": "runs.load",
    "probe": "runs.probe",
    "read_features": "runs.embedding",
    "read_folder": "data.folder",
    "read_images": "data.cache",
    "read_manifest": "data.manifest",
    "show_batch": "plots.batch",
    "write_bundle": "reporting.bundle_card",
    "write_contact_sheet": "reporting.contact_sheet",
    "write_evaluation": "reporting.evaluation_folder",
}
__all__ = [
    "Augmentation",
    "BoxCrop",
    "Ensemble",
    "FrameCrop",
    "GroupDRO",
    "MaskCrop",
    "Phase",
    "Schedule",
    "SourceAdversary",
    "UserError",
    "WeightAverage",
    "XrayClassifier",
    "XrayDataModule",
    "__version__",
    "assign_splits",
    "audit_records",
    "check_records",
    "compare_runs",
    "create_network",
    "crop_records",
    "draw_phantoms",
    "embed",
    "evaluate_run",
    "fit",
    "load_ensemble",
    "load_run",
    "probe",
    "read_features",
    "read_folder",
    "read_images",
    "read_manifest",
    "show_batch",
    "write_bundle",
    "write_contact_sheet",
    "write_evaluation",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'covid_xray' has no attribute {name!r}")
    from covid_xray.imports import quick_imports

    with quick_imports():
        module = import_module(f"covid_xray.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
