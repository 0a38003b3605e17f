"""Whether a GPU decodes what a CPU coded and the reverse, and how fast it is: for whoever has a card.

The scale net has to give the same integers on both, for many more inputs than the known answer holds; bitstreams of one device
have to decode on the other, to the same pixels within a level; speeds are medians over the rounds, all pictures in one call.

    python -m benchmarks.devices [--device cuda] [--pictures 64] [--rounds 5]

Exit code 1 where the two devices do not agree.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from skimage import data

from benchmarks.hardware import hardware
from cnnbatch.codec import DEFAULT_QUALITY, Codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.transforms.integer_kernels import Z_MAX

Pixels = npt.NDArray[np.uint8]

SCALE_NET_INPUTS = 16
"""Random hyper-latents [16, 16, Cz] that both devices are given: some 20 million scale indexes."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Where two devices differ; all zero but for the pixels, of which some may be off by one level."""

    scale_positions: int
    largest_level: int
    levels_share: float

    @property
    def sound(self) -> bool:
        """No scale position differs, and no pixel by more than a level."""
        return not self.scale_positions and self.largest_level <= 1


def agreement(first: Codec, second: Codec, pictures: Sequence[Pixels]) -> Agreement:
    """Compares two devices; raises BitstreamError where one cannot decode what the other coded."""
    levels = []
    for writer, reader in ((first, second), (second, first)):
        bitstreams = writer.compress(pictures, DEFAULT_QUALITY)
        for own, others in zip(writer.reconstruct(bitstreams), reader.reconstruct(bitstreams), strict=True):
            levels.append(np.abs(own.astype(np.int16) - others).ravel())
    difference = np.concatenate(levels)
    return Agreement(_positions_that_differ(first, second), int(difference.max()), float((difference > 0).mean()))


@torch.inference_mode()
def _positions_that_differ(first: Codec, second: Codec) -> int:
    random = torch.manual_seed(0)
    models = [(codec.file.model().to(codec.device), codec.device) for codec in (first, second)]
    count = 0
    for spread in torch.linspace(1, Z_MAX, SCALE_NET_INPUTS):
        channels = first.file.settings.hyper_channels
        z_hat = (torch.randn(1, 16, 16, channels, generator=random) * spread).round().clamp(-Z_MAX, Z_MAX)
        one, other = (_positions(model, z_hat.to(device)) for model, device in models)
        count += int((one != other).sum())
    return count


def _positions(model: torch.nn.Module, z_hat: torch.Tensor) -> torch.Tensor:
    assert isinstance(model, Hyperprior)
    return model.scale_net(z_hat).cpu()


def megapixels_per_second(call: Callable[[], object], pictures: Sequence[Pixels], rounds: int) -> float:
    """Median over ``rounds`` calls, after one that is not counted."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sum(p.shape[0] * p.shape[1] for p in pictures) / 1e6 / statistics.median(seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codec", help="another codec file")
    args = parser.parse_args(argv)
    pictures = [np.ascontiguousarray(np.roll(data.astronaut(), 37 * n, axis=(0, 1))) for n in range(args.pictures)]
    cpu, device = (Codec.load(args.codec, device=name) for name in ("cpu", args.device))
    found = agreement(cpu, device, pictures[:4])
    print(f"cpu and {args.device}: {found.scale_positions} scale positions differ, ", end="")
    print(f"pixels by at most {found.largest_level} ({found.levels_share:.2e} of them)")
    bitstreams = device.compress(pictures)
    for verb, call in (("encode", lambda: device.compress(pictures)), ("decode", lambda: device.reconstruct(bitstreams))):
        print(f"{args.device}: {verb} {megapixels_per_second(call, pictures, args.rounds):.1f} MP/s")
    print(*hardware().values(), sep="; ")
    return 0 if found.sound else 1


if __name__ == "__main__":
    sys.exit(main())
