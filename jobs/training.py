"""The work of one process of `jobs.train`: pictures into memory, training, and of the first process the codec file."""

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from cnnbatch.archive import ArchiveRow, open_archive
from cnnbatch.archive.layout import FORMAT_PATH
from cnnbatch.codec.codec import Pixels
from cnnbatch.codec.codec_file import MAX_BYTES, dump_codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.containers import open_source
from cnnbatch.errors import ImageError, UsageError
from cnnbatch.images import decode
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.restoring import reconstruct_each, restore_file
from cnnbatch.storage import StorageConfig, Store
from cnnbatch.storage.interface import Source
from cnnbatch.training.adaptive_filter import fit_adaptive_filter
from cnnbatch.training.checkpoint import Progress
from cnnbatch.training.comparison import compare
from cnnbatch.training.data import MAX_PIXELS, load_pictures, split_pictures
from cnnbatch.training.dense import DenseTrainer
from cnnbatch.training.dense_data import decoded_files, gather
from cnnbatch.training.draft_filter import with_draft_filter
from cnnbatch.training.entropy_tables import with_fitted_tables
from cnnbatch.training.evaluation import QUALITIES, rate_distortion
from cnnbatch.training.int8_calibration import calibrate_int8
from cnnbatch.training.run import Run
from cnnbatch.training.trainer import Trainer
from jobs.settings import TrainConfig

SMALL_ROWS: Final = 1024
PHOTOGRAPHS: Final = 16
"""Rows of an archive decoded in one call, by what it holds."""

START: Final = "start.safetensors"
"""In the folder of a run: the state that it begins with, where that is not the KLT of its pictures."""

BEFORE: Final = "before.safetensors"
"""In the folder of a run: the codec file whose weights it begins with; what it trains is compared with that."""

TRAINED: Final = "trained.safetensors"
"""In the folder of a run: the codec file that it made, where that is no better than the one before."""

BEFORE_COOLDOWN: Final = "before-cooldown.safetensors"
"""In the folder of a run: its state before the learning rate fell."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainTask:
    """A run, as each of its processes gets it. Stores travel as URL and configuration."""

    config: TrainConfig
    storage: StorageConfig
    source: Store
    destination: Store
    """Where the codec file goes, and its ``key`` there."""
    key: str
    place: Store
    """The folder of the run."""
    labels: dict[str, str] | None = None

    @contextmanager
    def start(self) -> Iterator[Path | None]:
        """The state that the run begins with as a local file, None where there is none."""
        data = self._kept(START)
        if data is None:
            yield None
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / START
            path.write_bytes(data)
            yield path

    def before(self) -> bytes | None:
        """The codec file whose weights the run began with; None where it began with none."""
        return self._kept(BEFORE)

    def _kept(self, name: str) -> bytes | None:
        try:
            return self.place.read(name, max_bytes=MAX_BYTES)
        except FileNotFoundError:
            return None

    def export(self, data: bytes) -> None:
        """Puts the codec file where it goes."""
        self.destination.put(self.key, data)


def work(task: TrainTask, run: Run) -> None:
    """Trains to the end; the first process writes the codec file. Raises UsageError, StorageError."""
    if task.config.architecture == "dense":
        _train_dense(task, run)
    else:
        _train_hyperprior(task, run)


def _train_hyperprior(task: TrainTask, run: Run) -> None:
    config = task.config
    is_archive = task.source.head(FORMAT_PATH) is not None
    pictures = (
        split_pictures(_archived_pictures(task, PHOTOGRAPHS), where=task.source.url)
        if is_archive
        else load_pictures(task.source, _inputs(task))
    )
    trainer = Trainer(config.training, config.model, pictures, run)
    notes = config.training.model_dump(mode="json")

    def export(model: Hyperprior, progress: Progress) -> None:
        if not _works(model, trainer.dev_pictures[0]):
            raise UsageError("the network diverged: a lower training.learning_rate keeps it together")
        pictures, count = trainer.train_pictures, config.training.fitted_to
        calibrate_int8(model, pictures, count=count)
        if model.settings.objective == "psnr":  # its least squares would smooth what the eye wants kept
            fit_adaptive_filter(model, pictures, count=count)
        data = dump_codec(model, training={**progress, "config": notes})
        data = with_fitted_tables(data, pictures, count=count)
        data = with_draft_filter(data, pictures, count=count)
        task.export(_better(data, task, run, trainer.held_out, objective=model.settings.objective))

    trainer.run(export)


def _works(model: Hyperprior, picture: Pixels) -> bool:
    """Whether a network still gives numbers: weights that have grown without bound do not."""
    [point] = rate_distortion(model, [picture], [QUALITIES[-1]])
    return math.isfinite(point.loss)


def _better(data: bytes, task: TrainTask, run: Run, pictures: Sequence[Pixels], *, objective: str) -> bytes:
    """The trained codec file, or the one before where training did not help on ``pictures``, which it has not seen."""
    before = task.before()
    if before is None or not pictures:
        return data
    found = compare(before, data, pictures, objective=objective)
    if found is None:
        run.say("no picture put aside can be compared with the codec file before")
        return data
    run.say(f"against the codec file before: {found}")
    run.tell({"bytes_percent": found.percent, "low": found.low, "high": found.high, "pictures": found.pictures})
    if found.helps:
        return data
    run.say("no certain gain: the codec file before is kept, what was trained lies beside the checkpoints")
    task.place.put(TRAINED, data)
    return before


def _train_dense(task: TrainTask, run: Run) -> None:
    config, labels = task.config, task.labels
    is_archive = task.source.head(FORMAT_PATH) is not None
    found = _archived_pictures(task, SMALL_ROWS) if is_archive else decoded_files(_inputs(task))
    pictures = gather(found, labels, where=config.source)
    logger.info("%d pictures of %s, %d classes", len(pictures.pixels), list(pictures.pixels.shape[1:]), len(pictures.classes))
    trainer = DenseTrainer(config.dense_training, config.dense, pictures, run)
    known = trainer.model.settings.classes
    if known != pictures.classes:
        raise UsageError(f"{config.codec_file} knows the classes {known}, the labels have {pictures.classes}")
    notes = config.dense_training.model_dump(mode="json")
    trainer.run(lambda model, progress: task.export(dump_codec(model, training={**progress, "config": notes})))


def _inputs(task: TrainTask) -> Source:
    """The pictures of a folder, a bucket, or what tars, tables and zip files there hold."""
    return open_source(task.source, task.config.source_settings, config=task.storage)


def _archived_pictures(task: TrainTask, at_once: int) -> Iterator[tuple[str, Pixels]]:
    """Key and pixels of every picture of an archive."""
    rows, codecs = open_archive(task.source.url, task.storage).rows(), CodecShelf(task.source)
    while batch := list(islice(rows, at_once)):
        yield from _archived([row for row in batch if isinstance(row, ArchiveRow)], codecs)


def _archived(rows: Sequence[ArchiveRow], codecs: CodecShelf) -> Iterator[tuple[str, Pixels]]:
    """Rows as pixels; those of one codec in one call. What cannot be decoded is left out."""
    for codec_id in sorted({row.codec_id or "" for row in rows}):
        same = [row for row in rows if (row.codec_id or "") == codec_id]
        found = reconstruct_each(codecs[codec_id], same) if codec_id else [_stored(row) for row in same]
        yield from ((row.key, pixels) for row, pixels in zip(same, found, strict=True) if isinstance(pixels, np.ndarray))


def _stored(row: ArchiveRow) -> Pixels | ImageError:
    try:
        return decode(restore_file(row, None, format="original"), max_pixels=MAX_PIXELS).pixels
    except ImageError as error:
        return error
