"""The price of being sure: checksums, and decoding again, while a shard is written.

The same photographs go through the compress job's worker in four ways, in turn, and the processor time of each counts, which
other programs on the machine disturb least:

    nothing     images are coded and written; every checksum is left out
    checksums   and sha256 of the original, of each payload (made, and checked before it is written) and of the shard
    symbols     and every bitstream is decoded back to its symbols, CRC and end of the stream checked
    PSNR        and to its pixels, which are compared with the original: what the job does

    python -m benchmarks.checksum_cost [--images 12] [--rounds 3] [--json]
"""

import argparse
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor

from benchmarks.hardware import hardware
from benchmarks.job_overhead import make_photographs
from cnnbatch.codec import Codec
from cnnbatch.codec.codec import Pixels
from cnnbatch.codec.hyperprior.coder import HyperpriorCoder
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.stages import compress
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.quality import Coded, QualityPolicy
from cnnbatch.stages.quality import code as code_and_compare
from cnnbatch.stages.records import CompressTask
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import open_store

TARGET = 0.10
"""Share of the job's time that checksums and the symbol round trip may take."""

Code = Callable[[Codec, Sequence[Pixels], QualityPolicy], list[Coded]]


def code_only(codec: Codec, images: Sequence[Pixels], policy: QualityPolicy) -> list[Coded]:
    """In the place of `cnnbatch.stages.quality.code`: nothing is decoded."""
    return [Coded(data, policy.quality, 0.0, 0.0) for data in codec.compress(images, policy.quality)]


def code_and_decode_symbols(codec: Codec, images: Sequence[Pixels], policy: QualityPolicy) -> list[Coded]:
    """The same, and the symbols are decoded; the mean net, which no symbol needs, is left out of that."""
    coded = code_only(codec, images, policy)
    coder = cast(HyperpriorCoder, codec.coder)
    latents = coder.decoder.latents
    with mock.patch.object(latents, "networks", replace(latents.networks, mean_net=no_means)):
        coder.decoder._latents(coder._parsed([one.bitstream for one in coded]))
    return coded


def no_means(z_hat: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """In the place of the mean net."""
    n, h, w, _ = z_hat.shape
    return torch.zeros(1).expand(n, 4 * h, 4 * w, 1)


class NoDigest:
    """In the place of a sha256: equal whatever was hashed."""

    def __init__(self, data: bytes = b"") -> None:
        pass

    def digest(self) -> bytes:
        return bytes(32)

    def hexdigest(self) -> str:
        return self.digest().hex()


WAYS: dict[str, tuple[Code, bool]] = {
    "nothing": (code_only, False),
    "checksums": (code_only, True),
    "symbols": (code_and_decode_symbols, True),
    "PSNR": (code_and_compare, True),
}


def measure(folder: Path, *, rounds: int) -> dict[str, float]:
    """Processor seconds of each way over the photographs in ``folder``/photos; medians of the rounds."""
    dedicate_process()
    codec, source = Codec.load(device="cpu"), open_store(str(folder / "photos"))
    task = CompressTask(0, tuple(sorted(source.list(), key=lambda info: info.key)))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, (code, hashed) in WAYS.items():
            compressor = ShardCompressor(source, open_store(str(folder / "archive")), codec, CompressionSettings(), run_id="r")
            with ExitStack() as stack:
                stack.enter_context(mock.patch.object(compress, "code", code))
                stack.enter_context(_hashing(hashed))
                begin = time.process_time()
                compressor(task)
                if number:  # the first round loads and compiles
                    seconds[name].append(time.process_time() - begin)
            shutil.rmtree(folder / "archive")
    return {name: statistics.median(times) for name, times in seconds.items()}


def _hashing(hashed: bool) -> AbstractContextManager[object]:
    return nullcontext() if hashed else mock.patch.object(hashlib, "sha256", NoDigest)


def cost(seconds: dict[str, float], name: str, *, of: str) -> float:
    """The time of ``name`` beyond ``nothing``, as a share of the whole time of the way ``of``."""
    return (seconds[name] - seconds["nothing"]) / seconds[of]


def table(result: dict[str, Any]) -> str:
    """For people."""
    seconds = result["processor_seconds"]
    lines = [f"{result['images']} photographs, {result['megapixels']:.1f} MP", "            processor s    MP/s"]
    lines += [f"{name:<12}{value:>11.2f}{result['megapixels'] / value:>8.2f}" for name, value in seconds.items()]
    share = {of: cost(seconds, "symbols", of=of) for of in ("PSNR", "symbols")}
    lines.append(f"checksums and symbol round trip: {share['PSNR']:.1%} of the job's time (target ≤ {TARGET:.0%}),")
    check = 1 - seconds["symbols"] / seconds["PSNR"]
    lines.append(f"{share['symbols']:.1%} of a job's without the PSNR check; that check: {check:.1%} of the job's time")
    return "\n".join([*lines, *(result[name] for name in ("hardware", "software"))])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="how many photographs (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each; medians count")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pixels = make_photographs(Path(folder, "photos"), args.images)
        seconds = measure(Path(folder), rounds=args.rounds)
    result = {"images": args.images, "megapixels": pixels / 1e6, "processor_seconds": seconds, **hardware()}
    print(json.dumps(result, indent=2) if args.json else table(result))


if __name__ == "__main__":
    main()
