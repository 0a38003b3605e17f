"""Trains a codec on the images below SOURCE and writes CODEC_FILE; with --resume it goes on from where it is.

    load pictures → train in processes of one thread with averaged gradients → export the codec file

Beside CODEC_FILE lie CODEC_FILE.checkpoint, from which --resume goes on after a kill, and CODEC_FILE.before-cooldown, the
state before the learning rate fell. Without a checkpoint --resume starts from the weights of CODEC_FILE itself.
"""

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

from cnnbatch.codec.file import dump_codec, parse_codec
from cnnbatch.codec.hyperprior import Hyperprior
from cnnbatch.errors import UsageError
from cnnbatch.storage import StorageConfig, open_store
from cnnbatch.training.checkpoint import Progress
from cnnbatch.training.data import load_pictures
from cnnbatch.training.trainer import Trainer
from jobs.command import LOG_FORMAT, run_command
from jobs.settings import TrainConfig, resolve

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> None:
    """Runs the training to its end. Raises UsageError, StorageError, CodecFileError."""
    if config.codec_file.exists() and not config.resume:
        raise UsageError(f"{config.codec_file} exists: --resume goes on from it, another name starts anew")
    open_store(config.source, StorageConfig.from_environment(**config.storage)).check()
    processes = config.training.processes
    if processes == 1:
        _train_process(0, config, None)
    else:
        mp.spawn(_train_process, (config, f"tcp://127.0.0.1:{_free_port()}"), nprocs=processes)  # type: ignore[attr-defined, no-untyped-call]


def _train_process(rank: int, config: TrainConfig, rendezvous: str | None) -> None:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    if rendezvous is not None:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.training.processes)
    pictures = load_pictures(open_store(config.source, StorageConfig.from_environment(**config.storage)))
    checkpoint = config.codec_file.with_suffix(".checkpoint")
    trainer = Trainer(config.training, config.model, pictures, checkpoint, rank=rank, start=_start(config))
    trainer.run(lambda model, progress: _export(config, model, progress))


def _start(config: TrainConfig) -> Hyperprior | None:
    if not (config.resume and config.codec_file.exists()):
        return None
    return parse_codec(config.codec_file.read_bytes()).trainable_model()


def _export(config: TrainConfig, model: Hyperprior, progress: Progress) -> None:
    training = {**progress, "config": config.training.model_dump(mode="json")}
    temporary = config.codec_file.with_suffix(".partial")
    temporary.write_bytes(dump_codec(model, training=training))
    temporary.replace(config.codec_file)
    logger.info("wrote %s", config.codec_file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.train", description="Train a codec on a folder or bucket of images.")
    parser.add_argument("source", metavar="SOURCE", help="folder or URL with images")
    parser.add_argument("codec_file", metavar="CODEC_FILE", help="local file to write, such as mine.safetensors")
    parser.add_argument("--minutes", type=float, metavar="M", help="wall-clock time, all resumes together; default 60")
    parser.add_argument("--processes", type=int, metavar="N", help="processes of one thread; default 1")
    parser.add_argument("--resume", action="store_true", default=None, help="go on from the checkpoint, or from CODEC_FILE")
    parser.add_argument("--config", metavar="F.yaml", help="read settings from this file; flags and name=value win over it")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="any setting, such as training.learning_rate=0.001")
    return parser


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_intermixed_args(argv)
    flags = {"source": args.source, "codec_file": str(Path(args.codec_file).absolute()), "resume": args.resume}
    flags |= {"training.minutes": args.minutes, "training.processes": args.processes}
    train(resolve(TrainConfig, file=args.config, flags=flags, words=args.settings))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
