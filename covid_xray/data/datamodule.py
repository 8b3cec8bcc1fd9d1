"""The DataModule: splits, loaders, and the size and batch size that the schedule asks for at the current epoch.

Lightning asks for loaders before its epoch hooks run, so no callback can push a size in time: the loaders pull it from
the schedule. The same DataLoader object serves the whole run, which keeps its worker processes alive; only its batch
sampler is told the epoch. Needs ``Trainer(reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False)``.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import torch
from lightning import LightningDataModule

from covid_xray.data.audit.fingerprints import Fingerprints, fingerprint_files
from covid_xray.data.audit.report import audit, patient_groups, refuse_leaks, refuse_unreadable
from covid_xray.data.augmentation import Augmentation
from covid_xray.data.cache import StoredImages, open_store
from covid_xray.data.dataset import Batch, XrayDataset, collate
from covid_xray.data.folder import read_folder
from covid_xray.data.loader import TimedLoader
from covid_xray.data.manifest import read_manifest
from covid_xray.data.phantom import make_phantoms
from covid_xray.data.sampling import EvalBatches, TrainBatches
from covid_xray.data.split import SPLITS, split_records
from covid_xray.errors import UserError
from covid_xray.schedule import Phase, Schedule

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class XrayDataModule(LightningDataModule):
    """Chest X-rays in train, validation and test.

    Args:
        records: Table of images as `covid_xray.data.manifest` describes it.
        schedule: Says the image size and batch size of every epoch.
        augment: Augmentation of the training images.
        seed: Seed of splits, order and augmentation.
        split: ``patient`` or ``image``; see `covid_xray.data.split.split_records`, also for the next four.
        val_share: Share of the images that goes to validation.
        test_share: Share of the images that goes to the test set.
        folds: Number of cross-validation folds, or None.
        fold: Which fold.
        normalization: ``imagenet`` (statistics of ImageNet), or ``batch`` (of one augmented training batch, as the
            article did).
        num_workers: Loader processes; None for what the machine has.
        cache: Folder of images resized once to the schedule's largest size, or ``off``; see `covid_xray.data.cache`.
            It changes no pixel: without it, every image is read and resized to that size every time.
        audit_cache: Folder that remembers what the audit read; None reads every image anew.
        allow_leakage: Whether to go on where the same image or patient is on two sides; ``audit.leaks()`` says which.

    Raises:
        UserError: If a setting is out of range or the split cannot be made.
    """

    def __init__(
        self,
        records: pd.DataFrame,
        schedule: Schedule,
        augment: Augmentation,
        seed: int = 0,
        split: str = "patient",
        val_share: float = 0.2,
        test_share: float = 0.2,
        folds: int | None = None,
        fold: int = 0,
        normalization: str = "imagenet",
        num_workers: int | None = None,
        cache: str | bool | None = None,
        audit_cache: str | None = None,
        allow_leakage: bool = False,
    ) -> None:
        super().__init__()
        if normalization not in ("imagenet", "batch"):
            raise UserError(f"data.normalization must be imagenet or batch, not {normalization!r}")
        bad_workers = isinstance(num_workers, bool) or not isinstance(num_workers, int | None)
        if bad_workers or (num_workers is not None and num_workers < 0):
            raise UserError(f"data.num_workers must be a whole number of at least 0, or null, not {num_workers!r}")
        if cache is True or not isinstance(cache, str | bool | None):
            raise UserError(f"data.cache must be a folder or off, not {cache!r}")
        if not isinstance(allow_leakage, bool):
            raise UserError(f"data.allow_leakage must be true or false, not {allow_leakage!r}")
        fingerprints = fingerprint_files(records["file"].tolist(), Path(audit_cache) if audit_cache else None)
        records = records.assign(group=patient_groups(records, fingerprints))
        shares = {"val_share": val_share, "test_share": test_share, "folds": folds, "fold": fold, "seed": seed}
        self.records = split_records(records.assign(row=range(len(records))), split, **shares)
        self.records = self.records.assign(position=range(len(self.records)))
        rows = self.records["row"].to_numpy()
        self.audit = audit(self.records, Fingerprints(*(field[rows] for field in fingerprints)))
        refuse_unreadable(self.audit)
        if not allow_leakage:
            refuse_leaks(self.audit)
        self.schedule, self.augment, self.seed = schedule, augment, seed
        self.class_names: list[str] = sorted(self.records["label"].unique())
        self.normalization = normalization
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.tested = "test"  # or "unseen": see `subset`
        self._pixels = fingerprints.pixels[rows]
        # YAML reads a bare `off` as false.
        self._cache = None if cache in ("off", False, None) else Path(str(cache))
        self._stored: StoredImages | None = None
        self._loaders: dict[str, TimedLoader] = {}
        self._check_batches()

    @classmethod
    def from_folder(
        cls,
        root: str,
        patient_regex: str | None = None,
        class_map: Mapping[str, str | None] | None = None,
        **settings: Any,
    ) -> "XrayDataModule":
        """Images in class folders; see `covid_xray.data.folder.read_folder`."""
        return cls(read_folder(root, patient_regex, class_map), **settings)

    @classmethod
    def from_manifest(
        cls,
        manifest: str | Sequence[str],
        class_map: Mapping[str, str | None] | None = None,
        classes: Sequence[str] | None = None,
        **settings: Any,
    ) -> "XrayDataModule":
        """Images listed in CSV files; see `covid_xray.data.manifest.read_manifest`."""
        return cls(read_manifest(manifest, class_map, classes), **settings)

    @classmethod
    def from_phantoms(
        cls, root: str, patients: int, images_per_patient: int, size: int, phantom_seed: int = 0, **settings: Any
    ) -> "XrayDataModule":
        """Drawn chests; see `covid_xray.data.phantom`."""
        return cls(read_manifest(make_phantoms(root, patients, images_per_patient, size, phantom_seed)), **settings)

    def subset(self, split: str) -> pd.DataFrame:
        """Records of ``train``, ``val`` or ``test``, or ``unseen``: images to test on that share nothing with training.

        Those are what ``split=article`` kept out, else the test images of patients who are in test only, less copies.
        """
        if split == "unseen" and not (self.records["split"] == "unseen").any():
            listed = self.records["group"][self.records["split"] != "test"]
            table = self.records[(self.records["split"] == "test") & ~self.records["group"].isin(listed)]
        else:
            table = self.records[self.records["split"] == split]
        return table.sort_values("path", kind="stable")

    def prepare_data(self) -> None:
        """Make the cache, once per machine, before anything waits for a batch."""
        self._open_cache()

    def dataset(self, split: str) -> XrayDataset:
        """Images of a `subset`."""
        table = self.subset(split)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        stored = self._open_cache()
        return XrayDataset(
            table["file"].tolist(),
            [numbers[label] for label in table["label"]],
            self.augment,
            self.schedule.max_image_size,
            None if stored is None else stored.take(table["position"].to_numpy()),
        )

    def train_dataloader(self) -> TimedLoader:
        """Training batches of the current epoch, from the first one that is not yet trained on."""
        epoch, first_batch = self._progress()
        phase = self.schedule.at(epoch).phase
        loader = self._loader("train")
        assert isinstance(loader.batch_sampler, TrainBatches)
        loader.batch_sampler.begin(epoch, phase.batch_size, phase.image_size, first_batch)
        return loader

    def val_dataloader(self) -> TimedLoader:
        """Every validation image once, at the current phase's size."""
        return self._eval_loader("val", self.schedule.at(self._progress()[0]).phase)

    def test_dataloader(self) -> TimedLoader:
        """Every image of the subset ``tested`` once, at the last phase's size."""
        return self._eval_loader(self.tested, list(self.schedule.phases.values())[-1])

    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation per channel, of pixels in [0, 1], that images are normalised with."""
        if self.normalization == "imagenet":
            return IMAGENET_MEAN, IMAGENET_STD
        phase = self.schedule.at(0).phase
        dataset, batches = self.dataset("train"), TrainBatches(len(self.subset("train")), self.seed)
        batches.begin(0, phase.batch_size, phase.image_size)
        pixels = dataset.__getitems__(next(iter(batches)))[0].numpy() / 255
        return (float(pixels.mean()),) * 3, (float(pixels.std()),) * 3

    def splits_csv(self, digests: bool = True) -> str:
        """Path, label, patient, source, split and digest of the pixels of every image, sorted by path.

        The digest is of the decoded image, whatever the manifest says, so that a run refuses to continue on other
        pixels, and the file's own hash, which `evaluate` reports, stands for everything that the split is about.
        """
        columns = ["path", "label", "patient_id", "source", "split", *["pixels"] * digests]
        table = self.records.assign(pixels=self._pixels.astype(str)).sort_values("path", kind="stable")
        text: str = table[columns].to_csv(index=False, lineterminator="\n")
        return text

    def counts(self) -> pd.DataFrame:
        """Images per class (rows) and split (columns)."""
        return pd.crosstab(self.records["label"], self.records["split"]).reindex(columns=list(SPLITS), fill_value=0)

    def _open_cache(self) -> StoredImages | None:
        if self._cache is not None and self._stored is None:
            files, side = self.records["file"].tolist(), self.schedule.max_image_size
            self._stored = open_store(self._cache, files, self._pixels, side)
        return self._stored

    def _progress(self) -> tuple[int, int]:
        """Epoch, and number of its batches that are done: more than 0 only where a run resumes within an epoch."""
        if self.trainer is None:
            return 0, 0
        loop: Any = self.trainer.fit_loop
        # `trainer.current_epoch` is one behind while loaders are set up on resume.
        epochs = loop.epoch_progress.current
        within = loop.restarting and epochs.started > epochs.processed
        return epochs.processed, loop.epoch_loop.batch_progress.current.processed if within else 0

    def _eval_loader(self, split: str, phase: Phase) -> TimedLoader:
        loader = self._loader(split)
        assert isinstance(loader.batch_sampler, EvalBatches)
        loader.batch_sampler.begin(phase.batch_size // self._ranks()[1], phase.image_size)
        return loader

    def _loader(self, split: str) -> TimedLoader:
        if split not in self._loaders:
            dataset, (rank, world_size) = self.dataset(split), self._ranks()
            sampler: TrainBatches | EvalBatches
            if split == "train":
                sampler = TrainBatches(len(dataset), self.seed, rank, world_size)
            else:
                sampler = EvalBatches(len(dataset), rank, world_size)
            self._loaders[split] = TimedLoader(
                dataset,
                batch_sampler=sampler,
                num_workers=self.num_workers,
                collate_fn=collate,
                persistent_workers=self.num_workers > 0 and split in ("train", "val"),
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=_start_worker,
            )
        return self._loaders[split]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _check_batches(self) -> None:
        n_train = int((self.records["split"] == "train").sum())
        for name, phase in self.schedule.phases.items():
            if phase.batch_size > n_train:
                raise UserError(
                    f"schedule.phases.{name}.batch_size={phase.batch_size} is more than the {n_train} training images"
                )


def default_workers() -> int:
    """Loader processes that this machine can keep busy: its cores, at most 8, shared by the processes of a node."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _start_worker(worker: int) -> None:
    """Let the training process answer a stop signal, which a terminal or scheduler sends to its workers as well.

    After SIGTERM a worker has a minute left, so that one whose parent does not end it still ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
    cv2.setNumThreads(0)  # the workers themselves are what keeps the cores busy


__all__ = ["Batch", "XrayDataModule", "default_workers"]
