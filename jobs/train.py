"""Trains a codec on the images of SOURCE and writes CODEC_FILE; with --resume it goes on from where it is.

    load pictures → train in processes of one thread with averaged gradients → export the codec file

SOURCE is what `jobs.compress` reads: files, tars, tables, zip files.
With ``--architecture dense`` the pictures are small and of one size (another size is left out), SOURCE may be an archive, too,
and with --labels, a CSV or Parquet file of key and label, the codec learns to recognise them as well.

Beside CODEC_FILE lie CODEC_FILE.checkpoint, from which --resume goes on after a kill, and CODEC_FILE.before-cooldown, the
state before the learning rate fell. Without a checkpoint --resume starts from the weights of CODEC_FILE itself, and a new
run with --start from those of another codec file, whose network grows to the sizes of the settings.
"""

import logging
import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from cnnbatch.archive import ArchiveRow, open_archive
from cnnbatch.codec.codec import Pixels
from cnnbatch.codec.codec_file import dump_codec, parse_codec
from cnnbatch.codec.dense.model import Dense
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.containers import open_source
from cnnbatch.errors import ImageError, UsageError
from cnnbatch.images import decode
from cnnbatch.job_options import job_parser
from cnnbatch.stages.codecs import CodecShelf
from cnnbatch.stages.reconstruct import reconstruct_each, restore_file
from cnnbatch.storage import StorageConfig, open_store, read_object
from cnnbatch.training.adaptive_filter import fit_adaptive_filter
from cnnbatch.training.checkpoint import Progress
from cnnbatch.training.data import load_pictures
from cnnbatch.training.dense import DenseTrainer
from cnnbatch.training.dense_data import MAX_PIXELS, decoded_files, gather, read_labels
from cnnbatch.training.draft_filter import with_draft_filter
from cnnbatch.training.entropy_tables import with_fitted_tables
from cnnbatch.training.growth import grown
from cnnbatch.training.int8_calibration import calibrate_int8
from cnnbatch.training.trainer import Trainer
from jobs.command import run_as_module
from jobs.logs import begin_log
from jobs.settings import TrainConfig, read_codec, resolve

ARCHIVE_ROWS = 1024
"""Rows of an archive decoded in one call."""

M = TypeVar("M", bound=nn.Module)

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> None:
    """Runs the training to its end. Raises UsageError, StorageError, CodecFileError."""
    if config.codec_file.exists() and not config.resume:
        raise UsageError(f"{config.codec_file} exists: --resume goes on from it, another name starts anew")
    open_store(config.source, StorageConfig.from_environment(**config.storage)).check()
    if config.architecture == "dense":
        if config.start is not None:
            raise UsageError("--start belongs to --architecture hyperprior")
        train_dense(config)
        return
    if config.labels is not None:
        raise UsageError("--labels belongs to --architecture dense")
    processes = config.training.processes
    if processes == 1:
        _train_process(0, config, None)
    else:
        _spawn(processes, config)


def _spawn(processes: int, config: TrainConfig) -> None:
    """Runs the processes to their end; they end with this one."""
    arguments = (config, f"tcp://127.0.0.1:{_free_port()}")
    context = mp.spawn(_train_process, arguments, nprocs=processes, join=False)  # type: ignore[attr-defined, no-untyped-call]
    try:
        while not context.join():
            pass
    except KeyboardInterrupt:
        for process in context.processes:
            process.terminate()
        raise


def _train_process(rank: int, config: TrainConfig, rendezvous: str | None) -> None:
    begin_log()
    if rendezvous is not None:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.training.processes)
    source = open_store(config.source, StorageConfig.from_environment(**config.storage))
    pictures = load_pictures(source, open_source(source, config.source_settings))
    checkpoint = config.codec_file.with_suffix(".checkpoint")
    start = None if checkpoint.exists() else _start(config, Hyperprior) or _grown(config)
    trainer = Trainer(config.training, config.model, pictures, checkpoint, rank=rank, start=start)
    notes = config.training.model_dump(mode="json")

    def export(model: Hyperprior, progress: Progress) -> None:
        calibrate_int8(model, trainer.train_pictures)
        if model.settings.objective == "psnr":  # its least squares would smooth what the eye wants kept
            fit_adaptive_filter(model, trainer.train_pictures)
        data = dump_codec(model, training={**progress, "config": notes})
        data = with_fitted_tables(data, trainer.train_pictures)
        _export(config, with_draft_filter(data, trainer.train_pictures))

    trainer.run(export)


def train_dense(config: TrainConfig) -> None:
    """As `train`, of the dense architecture, in this process."""
    storage = StorageConfig.from_environment(**config.storage)
    labels = None if config.labels is None else read_labels(read_object(config.labels, storage), config.labels)
    pictures = gather(_small_pictures(config, storage), labels, where=config.source)
    logger.info("%d pictures of %s, %d classes", len(pictures.pixels), list(pictures.pixels.shape[1:]), len(pictures.classes))
    start = _start(config, Dense)
    if start is not None and start.settings.classes != pictures.classes:
        raise UsageError(f"{config.codec_file} knows the classes {start.settings.classes}, the labels have {pictures.classes}")
    checkpoint = config.codec_file.with_suffix(".checkpoint")
    trainer = DenseTrainer(config.dense_training, config.dense, pictures, checkpoint, start=start)
    notes = config.dense_training.model_dump(mode="json")
    trainer.run(lambda model, progress: _export(config, dump_codec(model, training={**progress, "config": notes})))


def _small_pictures(config: TrainConfig, storage: StorageConfig) -> Iterator[tuple[str, Pixels]]:
    """Key and pixels of every picture in a source of `jobs.compress` or an archive."""
    store = open_store(config.source, storage)
    if store.head("_cnnbatch/format.json") is None:
        yield from decoded_files(open_source(store, config.source_settings))
        return
    rows, codecs = open_archive(config.source, storage).rows(), CodecShelf(store)
    while batch := list(islice(rows, ARCHIVE_ROWS)):
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


def _start(config: TrainConfig, kind: type[M]) -> M | None:
    if not (config.resume and config.codec_file.exists()):
        return None
    return _network(config, config.codec_file.read_bytes(), config.codec_file, kind)


def _network(config: TrainConfig, data: bytes, name: Path | str, kind: type[M]) -> M:
    """Network of a codec file, to be trained on."""
    file = parse_codec(data)
    if not isinstance(model := file.trainable_model(), kind):
        raise UsageError(f"{name} is of the architecture {file.architecture}, not {config.architecture}")
    return model


def _grown(config: TrainConfig) -> Hyperprior | None:
    """The network of the codec file that a new run starts from, as large as the settings say."""
    if config.start is None:
        return None
    model = _network(config, read_codec(config.start), config.start, Hyperprior)
    return grown(model, config.model).train()


def _export(config: TrainConfig, data: bytes) -> None:
    temporary = config.codec_file.with_name(f"{config.codec_file.name}.partial")
    temporary.write_bytes(data)
    temporary.replace(config.codec_file)
    logger.info("wrote %s", config.codec_file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = job_parser("train").parse_intermixed_args(argv)
    flags = {"source": args.source, "codec_file": str(Path(args.codec_file).absolute()), "resume": args.resume}
    flags |= {
        "start": args.start,
        "architecture": args.architecture,
        "labels": args.labels,
        "training.processes": args.processes,
    }
    flags |= {f"{run}.minutes": args.minutes for run in ("training", "dense_training")}
    train(resolve(TrainConfig, file=args.config, flags=flags, words=args.settings))
    return 0


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.train"))
