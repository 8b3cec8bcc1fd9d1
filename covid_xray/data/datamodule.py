"""The DataModule: loaders with the image size and batch size that the schedule gives for the current epoch.

Lightning requests loaders before its epoch hooks run, so a callback cannot set a size in time: the loaders read it from
the schedule. One DataLoader object serves the whole run, which keeps its worker processes alive; only its batch sampler
gets the epoch. Needs ``Trainer(reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False)``.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import torch
from lightning import LightningDataModule

from covid_xray.data.audit.report import AuditReport, audit_records, patient_groups
from covid_xray.data.audit.sources import separation_problem
from covid_xray.data.augmentation import Augmentation
from covid_xray.data.cache import Images, read_images
from covid_xray.data.dataset import XrayDataset, collate
from covid_xray.data.loader import SHARED_MEMORY, TimedLoader, affordable_workers
from covid_xray.data.sampling import EvalBatches, Order, SourceOrder, TrainBatches
from covid_xray.data.split import SPLITS
from covid_xray.errors import UserError
from covid_xray.files import spreadsheet_text
from covid_xray.schedule import Phase, Schedule

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class XrayDataModule(LightningDataModule):
    """Chest X-rays in train, validation and test.

    The constructor opens no file. ``prepare_data`` reads every image once; ``setup`` audits the data.

    Args:
        records: Table of images with their splits, as `covid_xray.data.split.assign_splits` returns it.
        schedule: Gives the image size and batch size of every epoch.
        augment: Augmentation of the training images; None: none.
        seed: Seed of order and augmentation.
        normalization: ``imagenet`` (statistics of ImageNet), or ``batch`` (of one augmented training batch, as in the
            2020 article).
        num_workers: Loader processes; None for the number of cores, at most 8.
        cache: Folder of images resized once to the schedule's largest size, or ``off``; see `covid_xray.data.cache`.
            It changes no pixel: without it, every image is read and resized to that size every time.
        audit_cache: Folder that keeps what the audit needs of every image; None: read every image again.
        sampler: Which training images come in which order; None: `covid_xray.data.sampling.Shuffled`.
        images: What `covid_xray.data.cache.read_images` read already; None: read it in ``prepare_data``.

    Attributes:
        records: The table.
        class_names: Classes in the order of the logits.
        audit: The audit report; available after ``setup``.

    Raises:
        UserError: If a setting is out of range.
    """

    audit: AuditReport

    def __init__(
        self,
        records: pd.DataFrame,
        schedule: Schedule,
        augment: Augmentation | None = None,
        *,
        seed: int = 0,
        normalization: str = "imagenet",
        num_workers: int | None = None,
        cache: str | bool | None = None,
        audit_cache: str | None = None,
        sampler: Order | SourceOrder | None = None,
        images: Images | None = None,
    ) -> None:
        super().__init__()
        if normalization not in ("imagenet", "batch"):
            raise UserError(f"datamodule.normalization must be imagenet or batch, not {normalization!r}")
        bad_workers = isinstance(num_workers, bool) or not isinstance(num_workers, int | None)
        if bad_workers or (num_workers is not None and num_workers < 0):
            raise UserError(
                f"datamodule.num_workers must be a whole number of at least 0, or null, not {num_workers!r}"
            )
        self.records, self.schedule, self.seed = records, schedule, seed
        self.augment = Augmentation() if augment is None else augment
        self.class_names: list[str] = sorted(records["label"].unique())
        self.normalization = normalization
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.cache, self.audit_cache = cache_folder(cache), audit_cache
        self.sampler = sampler
        self._images = images
        self._loaders: dict[str, TimedLoader] = {}
        self._workers: int | None = None
        n_train = int((records["split"] == "train").sum())
        for name, phase in schedule.phases.items():
            if 0 < n_train < phase.batch_size:
                raise UserError(
                    f"schedule.phases.{name}.batch_size={phase.batch_size} is more than the {n_train} training images"
                )
            if sampler is not None and n_train:  # finds a wrong setting before the training begins
                batches = self._train_batches()
                batches.begin(0, phase.batch_size, phase.image_size)
                len(batches)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def images(self) -> Images:
        """What was read of the images, one entry per record; read at the first request."""
        files = self.records["file"].tolist()
        if self._images is None:
            self._images = read_images(files, self.audit_cache, self.cache, self.schedule.max_image_size)
        if self._images.files != tuple(files):
            self._images = self._images.select(files)
        return self._images

    def prepare_data(self) -> None:
        """Read every image once, on one process per machine; the others find the caches."""
        self.images  # noqa: B018 reads them

    def setup(self, stage: str | None = None) -> None:
        """Audit the data.

        Raises:
            UserError: If a record has no split, or an image cannot be read.
        """
        if not (self.records["split"] != "").all():
            raise UserError("the records have no split yet: call assign_splits(records) first")
        if not hasattr(self, "audit"):
            self.audit = audit_records(self.records, self.images)
            self.audit.raise_for_unreadable()

    def subset(self, split: str) -> pd.DataFrame:
        """Records of a split, sorted by path."""
        return self.records[self.records["split"] == split].sort_values("path", kind="stable")

    def test_sets(self) -> dict[str, pd.DataFrame]:
        """The test images and, if the data leaks, the images ``unseen`` in training, sorted by path.

        ``unseen`` are the images that ``split=leaky`` kept out, or else the test images of patients who are only in
        the test set and share no image with another patient.
        """
        sets = {"test": self.subset("test")}
        if self.audit.leaks():
            unseen = self.subset("unseen")
            if unseen.empty:
                groups = patient_groups(self.records, self.images.fingerprints)
                listed = groups[self.records["split"] != "test"]
                table = self.records[(self.records["split"] == "test") & ~groups.isin(listed)]
                unseen = table.sort_values("path", kind="stable")
            if len(unseen):
                sets["unseen"] = unseen
        return sets

    def dataset(self, table: pd.DataFrame, with_sources: bool = False) -> XrayDataset:
        """Images of some of the records; of training images also with their sources."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        files = table["file"].tolist()
        labels = [numbers[label] for label in table["label"]]
        stored = self.images.stored
        part = None if stored is None else self.images.select(files).stored
        places = {name: number for number, name in enumerate(self.group_counts().columns)} if with_sources else {}
        sources = [places[source] for source in _named(table["source"])] if with_sources else None
        return XrayDataset(files, labels, self.augment, self.schedule.max_image_size, part, sources)

    def train_dataloader(self) -> TimedLoader:
        """Training batches of the current epoch; on resume, from the first batch that is not yet trained on."""
        epoch, first_batch = self._progress()
        phase = self.schedule.at(epoch).phase
        loader = self._loader("train", self.subset("train"))
        assert isinstance(loader.batch_sampler, TrainBatches)
        augmented = not phase.cached_features
        loader.batch_sampler.begin(epoch, phase.batch_size, phase.image_size, first_batch, augmented)
        return loader

    def val_dataloader(self) -> TimedLoader:
        """Every validation image once, at the current phase's size."""
        return self._eval_loader("val", self.subset("val"), self.schedule.at(self._progress()[0]).phase)

    def test_dataloader(self) -> list[TimedLoader]:
        """One loader for each of `test_sets`: every image once, at the last phase's size."""
        last = list(self.schedule.phases.values())[-1]
        return [self._eval_loader(name, table, last) for name, table in self.test_sets().items()]

    def statistics(self, network: object = None) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation per channel, of pixels in [0, 1], for the normalisation of images.

        Args:
            network: If it has ``mean`` and ``std``, those of its pretraining, they take the place of ImageNet's.
        """
        if self.normalization == "imagenet":
            return getattr(network, "mean", IMAGENET_MEAN), getattr(network, "std", IMAGENET_STD)
        phase, table = self.schedule.at(0).phase, self.subset("train")
        batches = self._train_batches()
        batches.begin(0, phase.batch_size, phase.image_size)
        pixels = self.dataset(table).__getitems__(next(iter(batches)))[0].numpy() / 255
        return (float(pixels.mean()),) * 3, (float(pixels.std()),) * 3

    def splits_csv(self) -> str:
        """Path, label, patient, source, split and digest of the pixels of every image, sorted by path.

        The digest is of the decoded image: a run refuses to continue on other pixels.
        """
        columns = ["path", "label", "patient_id", "source", "split", "pixels"]
        table = self.records.assign(pixels=self.images.fingerprints.pixels.astype(str))
        cells = table.sort_values("path", kind="stable")[columns].map(spreadsheet_text)
        text: str = cells.to_csv(index=False, lineterminator="\n")
        return text

    def class_counts(self) -> dict[str, int]:
        """Training images by class, in the order of the logits."""
        counts = self.subset("train")["label"].value_counts()
        return {name: int(counts[name]) for name in self.class_names}

    def group_counts(self) -> pd.DataFrame:
        """Training images per class (rows, in the order of the logits) and source (columns, sorted).

        What uses the source to keep a network from reading it asks for this.

        Raises:
            UserError: If no method can separate label and source of these images.
        """
        table = self.subset("train")
        sources = _named(table["source"])
        if problem := separation_problem(table["label"].tolist(), sources.tolist()):
            raise UserError(f"label and source of the training images cannot be separated: {problem}")
        return pd.crosstab(table["label"], sources).reindex(self.class_names, fill_value=0)

    def counts(self) -> pd.DataFrame:
        """Images per class (rows) and split (columns)."""
        return pd.crosstab(self.records["label"], self.records["split"]).reindex(columns=list(SPLITS), fill_value=0)

    def patient_counts(self) -> list[int]:
        """Patients of each split; an image whose patient is not known counts as one."""
        return [self.records["patient_id"][self.records["split"] == split].nunique() for split in SPLITS]

    def _progress(self) -> tuple[int, int]:
        """Epoch, and number of its finished batches: more than 0 only where a run resumes within an epoch."""
        if self.trainer is None:
            return 0, 0
        loop: Any = self.trainer.fit_loop
        # `trainer.current_epoch` is one behind while loaders are set up on resume.
        epochs = loop.epoch_progress.current
        within = loop.restarting and epochs.started > epochs.processed
        return epochs.processed, loop.epoch_loop.batch_progress.current.processed if within else 0

    def _eval_loader(self, name: str, table: pd.DataFrame, phase: Phase) -> TimedLoader:
        loader = self._loader(name, table)
        assert isinstance(loader.batch_sampler, EvalBatches)
        loader.batch_sampler.begin(phase.batch_size // self._ranks()[1], phase.image_size)
        return loader

    def _loader(self, name: str, table: pd.DataFrame) -> TimedLoader:
        if name not in self._loaders:
            module = self.trainer.lightning_module if self.trainer else None
            with_sources = name == "train" and getattr(module, "needs_sources", False)
            dataset, workers = self.dataset(table, with_sources), self._affordable_workers()
            rank, world_size = self._ranks()
            sampler: TrainBatches | EvalBatches
            if name == "train":
                sampler = self._train_batches(rank, world_size)
            else:
                sampler = EvalBatches(len(dataset), rank, world_size)
            self._loaders[name] = TimedLoader(
                dataset,
                batch_sampler=sampler,
                num_workers=workers,
                collate_fn=collate,
                persistent_workers=workers > 0 and name in ("train", "val"),
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=_start_worker,
            )
        return self._loaders[name]

    def _train_batches(self, rank: int = 0, world_size: int = 1) -> TrainBatches:
        table = self.subset("train")
        sources = _named(table["source"]).tolist()
        return TrainBatches(table["label"].tolist(), self.seed, rank, world_size, self.sampler, sources)

    def _affordable_workers(self) -> int:
        """Workers of each loader; a line is printed once if shared memory allows fewer than were asked for."""
        if self._workers is None:
            size = max(phase.batch_size * phase.image_size**2 for phase in self.schedule.phases.values())
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            self._workers = affordable_workers(self.num_workers, size // self._ranks()[1], processes)
            if self._workers < self.num_workers and self._ranks()[0] == 0:
                print(
                    f"{SHARED_MEMORY} has too little space for the batches of {self.num_workers} loader workers: using "
                    f"{self._workers}; give it more (Docker: --shm-size=2g), or set datamodule.num_workers"
                )
        return self._workers

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def cache_folder(cache: str | bool | None) -> Path | None:
    """Folder of the cache; None for ``off``, which YAML reads as false.

    Raises:
        UserError: If it is neither a folder nor ``off``.
    """
    if cache is True or not isinstance(cache, str | bool | None):
        raise UserError(f"datamodule.cache must be a folder or off, not {cache!r}")
    return None if cache in ("off", False, None) else Path(str(cache))


def default_workers() -> int:
    """Number of loader processes: the cores of this machine, at most 8, shared by the processes of a node."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _named(sources: pd.Series) -> pd.Series:
    """Sources, with a name for those that are not known."""
    return sources.replace("", "unknown")


def _start_worker(worker: int) -> None:
    """Leave stop signals, which a terminal or scheduler sends to workers too, to the training process.

    After SIGTERM a worker ends within a minute, even if its parent does not end it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows, where nothing sends SIGTERM
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
    cv2.setNumThreads(0)  # the worker processes keep the cores busy
