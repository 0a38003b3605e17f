"""The work of one process of `jobs.train`: a pool of pictures, training, and of the first process the codec file."""

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cnnbatch.codec.codec_file import MAX_BYTES, dump_codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.errors import UsageError
from cnnbatch.spill import Scratch
from cnnbatch.storage import StorageConfig, Store
from cnnbatch.training.adaptive_filter import fit_adaptive_filter
from cnnbatch.training.checkpoint import Progress, read_progress
from cnnbatch.training.comparison import compare
from cnnbatch.training.data import Pixels
from cnnbatch.training.dense import DenseTrainer
from cnnbatch.training.dense_data import gather
from cnnbatch.training.draft_filter import with_draft_filter
from cnnbatch.training.entropy_tables import with_fitted_tables
from cnnbatch.training.evaluation import QUALITIES, rate_distortion
from cnnbatch.training.fine_tuning import suited
from cnnbatch.training.int8_calibration import calibrate_int8
from cnnbatch.training.pool import Pool
from cnnbatch.training.run import Run
from cnnbatch.training.sources import open_pool
from cnnbatch.training.trainer import Trainer, TrainingConfig
from jobs.settings import TrainConfig
from jobs.training_pictures import photographs, small_pictures

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
    seed = config.training.seed, run.rank, _step(run)  # a run that goes on reads pictures in another order than it began with
    with Scratch(config.planning.folder, memory_bytes=config.planning.memory_bytes) as scratch:
        threads = max(1, int(config.workers.cpus))
        pictures = photographs(task.source, config.source_settings, task.storage, seed=seed, threads=threads, scratch=scratch)
        pool, aside = open_pool(pictures, memory_bytes=config.training.memory_bytes, seed=seed)
        if pool.is_streaming and not run.rank:
            run.say(f"streams {pictures.listed} pictures: they are more than training.memory_bytes")
        _train_on(task, run, pool, aside, training=_training(config, run, pictures.listed))


def _step(run: Run) -> int:
    with run.state() as state:
        return 0 if state is None else int(read_progress(state)["step"])


def _training(config: TrainConfig, run: Run, pictures: int) -> TrainingConfig:
    """Settings of a run on so many pictures."""
    if config.start is None:
        return config.training
    training = suited(config.training, pictures)
    if not run.rank:
        run.say(f"{pictures} pictures: {training.minutes:g} minutes at a learning rate of {training.learning_rate:.3g}")
    return training


def _train_on(task: TrainTask, run: Run, pool: Pool, aside: list[Pixels], *, training: TrainingConfig) -> None:
    trainer = Trainer(training, task.config.model, (pool.pictures, aside), run, pool.drawn)
    notes = training.model_dump(mode="json")

    def export(model: Hyperprior, progress: Progress) -> None:
        if not _works(model, trainer.dev_pictures[0]):
            raise UsageError("the network diverged: a lower training.learning_rate keeps it together")
        pictures, count = trainer.train_pictures, training.fitted_to
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
    if before is None:
        return data
    found = compare(before, data, pictures, objective=objective)
    if found is None:
        run.say("there is no picture put aside on which it can be compared with the codec file before")
    else:
        run.say(f"against the codec file before: {found}")
        figures = {"bytes_percent": found.percent, "low": found.low, "high": found.high, "pictures": found.pictures}
        run.tell({**figures, "helps": found.helps})
        if found.helps:
            return data
    run.say("no certain gain: the codec file before is kept, what was trained lies beside the checkpoints")
    task.place.put(TRAINED, data)
    return before


def _train_dense(task: TrainTask, run: Run) -> None:
    config, labels = task.config, task.labels
    found = small_pictures(task.source, config.source_settings, task.storage)
    pictures = gather(found, labels, where=config.source)
    logger.info("%d pictures of %s, %d classes", len(pictures.pixels), list(pictures.pixels.shape[1:]), len(pictures.classes))
    trainer = DenseTrainer(config.dense_training, config.dense, pictures, run)
    known = trainer.model.settings.classes
    if known != pictures.classes:
        raise UsageError(f"{config.codec_file} knows the classes {known}, the labels have {pictures.classes}")
    notes = config.dense_training.model_dump(mode="json")
    trainer.run(lambda model, progress: task.export(dump_codec(model, training={**progress, "config": notes})))
