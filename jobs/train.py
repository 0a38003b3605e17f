"""Trains a codec on the images of SOURCE and writes CODEC_FILE; with --resume it goes on from where it is.

    SOURCE ─► Ray Train: workers on CPUs or GPUs, gradients averaged ─► checkpoints ─► the codec file

SOURCE is what `jobs.compress` reads, or an archive. With ``--architecture dense`` the pictures are small and of one size
(another size is left out), and with --labels, a CSV or Parquet file of key and label, the codec learns to recognise them, too.

Beside CODEC_FILE, which may be a URL, lies the folder of the run (mine.run of mine.safetensors): its latest checkpoints, from
which the run goes on after a kill, its report, and before-cooldown.safetensors, the state before the learning rate fell, for
--start. Without them --resume starts from the weights of CODEC_FILE itself, and a new run with --start from those of another
codec file, whose network grows to the sizes of the settings.
"""

import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from torch import nn

from cnnbatch.archive import Lease
from cnnbatch.codec.codec_file import MAX_BYTES, parse_codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.errors import CnnbatchError, CodecFileError, UsageError
from cnnbatch.job_options import job_parser
from cnnbatch.storage import StorageConfig, open_object, open_store, read_object
from cnnbatch.storage.urls import parse_url, plain_url
from cnnbatch.training.checkpoint import is_checkpoint, save_start
from cnnbatch.training.dense_data import read_labels
from cnnbatch.training.growth import grown
from jobs import train_ray
from jobs.command import run_as_module, run_job
from jobs.configuration import read_codec, resolve
from jobs.progress import TrainingProgress
from jobs.report import RunReport, new_run_id, shown
from jobs.settings import TrainConfig
from jobs.training import BEFORE, START, TrainTask

CURVE_POINTS: Final = 1000
"""Points of the loss curve in the run report at most: beyond that every second one goes."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainReport(RunReport):
    """The run report with how training went."""

    training: dict[str, float] = field(default_factory=dict)
    """The last figures that the run told: ``step``, ``seconds``, ``pixels``, ``loss``."""
    comparison: dict[str, float] = field(default_factory=dict)
    """With the codec file that the run started from, on pictures put aside: ``bytes_percent`` more at equal quality, ``low`` to
    ``high`` of them, ``pictures``, and whether that ``helps``, so that the new file is kept."""
    curve: list[tuple[float, float, float]] = field(default_factory=list)
    """Seconds, step and mean training loss since the point before."""
    lines: list[str] = field(default_factory=list)
    """Figures of the pictures put aside, and what befell the run."""


class TrainJob:
    """One run; a rerun after a kill goes on from its last checkpoint."""

    def __init__(self, config: TrainConfig) -> None:
        """Checks all that can be wrong before anything is written. Raises UsageError, StorageError, CodecFileError."""
        self.config = config
        self.storage = StorageConfig.from_environment(**config.storage)
        source = open_store(config.source, self.storage)
        source.check()
        destination, key = open_object(config.codec_file, self.storage)
        place = _place(config.codec_file)
        self.task = TrainTask(
            config, self.storage, source, destination, key, open_store(place, self.storage), self._read_labels()
        )
        self.place_url = place
        self._exists = destination.head(key) is not None
        if self._exists and not config.resume:
            name = plain_url(config.codec_file)
            raise UsageError(f"{name} exists: --resume continues from it, another name starts afresh")
        destination.check_writable()
        self._before: bytes | None = None
        self._start = self._read_start()
        self.found = TrainReport("train", new_run_id("train-"), shown(config, self.storage))
        self.report: RunReport = self.found
        self._progress = TrainingProgress()

    def execute(self) -> None:
        """Raises CnnbatchError: what ended the run."""
        try:
            times = self.config.lease.model_dump()
            with Lease(self.task.place, run_id=self.report.run_id, **times):
                if self._start is not None and self.task.place.head(START) is None:
                    if self._before is not None:
                        self.task.place.put(BEFORE, self._before)
                    self.task.place.put(START, self._start)
                train_ray.fit(self.task, self.place_url, self.config.workers, self._hear)
            self.report.finish(0)
        except (CnnbatchError, KeyboardInterrupt) as error:
            self.report.fail(error)
            raise
        finally:
            self._progress.finish()
            if self.report.finished_at is not None and self.found.training:
                self.report.leave(self.task.place)

    def _hear(self, kind: str, told: Any) -> None:
        """Takes what the first process of the run tells."""
        if kind == train_ray.SAID:
            self.found.lines.append(told)
            logger.info("%s", told)
            return
        figures: Mapping[str, float] = told
        if "bytes_percent" in figures:
            self.found.comparison = dict(figures)
            return
        self.found.training = dict(figures)
        self.found.curve.append((figures["seconds"], figures["step"], figures["loss"]))
        if len(self.found.curve) > CURVE_POINTS:
            del self.found.curve[1::2]
        self._progress.add(figures)

    def _read_labels(self) -> dict[str, str] | None:
        config = self.config
        if config.architecture == "dense" and config.start is not None:
            raise UsageError("--start belongs to --architecture hyperprior")
        if config.labels is None:
            return None
        if config.architecture != "dense":
            raise UsageError("--labels belongs to --architecture dense")
        return read_labels(read_object(config.labels, self.storage), config.labels)

    def _read_start(self) -> bytes | None:
        """The state that a new run begins with, where that is not the KLT of its pictures."""
        config = self.config
        if self._exists:
            self._before = self.task.destination.read(self.task.key, max_bytes=MAX_BYTES)
            return _state(self._network(self._before, config.codec_file))
        if config.start is None:
            return None
        if Path(config.start).is_file() and is_checkpoint(Path(config.start)):
            return Path(config.start).read_bytes()
        if not (Path(config.start).is_file() or _is_shipped(config.start)) and self.task.place.head(START) is not None:
            return None  # the run has it already
        self._before = read_codec(config.start)
        model = self._network(self._before, config.start)
        if not isinstance(model, Hyperprior):
            raise AssertionError(config.architecture)
        asked = {name: getattr(config.model, name) for name in config.model.model_fields_set}
        return _state(grown(model, model.settings.model_copy(update=asked)))

    def _network(self, data: bytes, name: str) -> nn.Module:
        """Network of a codec file, to be trained on."""
        try:
            file = parse_codec(data)
        except CodecFileError as error:
            raise CodecFileError(f"{plain_url(name)}: {error}") from error
        if file.architecture != self.config.architecture:
            raise UsageError(f"{plain_url(name)} is of the architecture {file.architecture}, not {self.config.architecture}")
        model: nn.Module = file.trainable_model()
        return model


def _place(codec_file: str) -> str:
    """The URL of the folder of a run: ``mine.run`` beside ``mine.safetensors``."""
    return codec_file.removesuffix(PurePosixPath(parse_url(codec_file).url).suffix) + ".run"


def _is_shipped(name: str) -> bool:
    return "/" not in name and "." not in name


def _state(model: nn.Module) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_start(Path(folder) / START, model)
        return (Path(folder) / START).read_bytes()


def train(config: TrainConfig) -> None:
    """Runs the training to its end. Raises UsageError, StorageError, CodecFileError."""
    TrainJob(config).execute()


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = job_parser("train").parse_intermixed_args(argv)
    flags = {"source": args.source, "codec_file": args.codec_file, "resume": args.resume}
    flags |= {
        "start": args.start,
        "architecture": args.architecture,
        "labels": args.labels,
        "workers.most": args.processes,
    }
    flags |= {f"{run}.minutes": args.minutes for run in ("training", "dense_training")}
    job = TrainJob(resolve(TrainConfig, file=args.config, flags=flags, words=args.settings))
    run_job(job, lambda report: describe(job), as_json=args.json)
    return 0


def describe(job: TrainJob) -> list[str]:
    """The report in a few lines for people."""
    figures = job.found.training
    if not figures:
        return [f"run {job.report.run_id}: nothing was trained"]
    minutes, step, loss = figures["seconds"] / 60, figures["step"], figures["loss"]
    lines = [f"run {job.report.run_id}: step {step:,.0f} after {minutes:.1f} min, loss {loss:.4f}"]
    if (compared := job.found.comparison) and not compared["helps"]:
        lines.append("training did not help: the file is the one that the run started from")
    elif compared:
        percent, low, high = (compared[name] for name in ("bytes_percent", "low", "high"))
        lines.append(f"{percent:+.1f} % bytes at equal quality against the start ({low:+.1f} to {high:+.1f} %)")
    return lines + ([f"wrote {plain_url(job.config.codec_file)}"] if job.report.exit_code == 0 else [])


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.train"))
