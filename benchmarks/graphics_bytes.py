"""Bytes of pictures that are no photographs at one SSIMULACRA2: as `jobs.compress` keeps them, by AVIF, and without loss.

    python -m benchmarks.graphics_bytes [FOLDER] [--target 80] [--codec FILE] [--only NAME,NAME] [--json]

Without FOLDER, of PNG files, the pictures are those of `benchmarks.graphics`. Ours is the row that ``--target-ssimulacra2``
makes of the file, with the reason where it is stored; AVIF, 4:4:4 or 4:2:0, has the lowest quality that reaches the score, and
WebP and JPEG XL code the pixels without loss. The ratio is ours to the smallest of them.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean
from typing import Final

import imagecodecs
import numpy as np
import torch
from PIL import Image

from benchmarks import graphics
from benchmarks.hardware import hardware
from cnnbatch.codec import Codec
from cnnbatch.evaluation.codecs import ImageCodec, Pixels, as_rgb, library_codec
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.quality import SSIMULACRA2_TOLERANCE
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import ObjectInfo, open_store

AVIF: Final = ("avif", "avif420")


@dataclass(frozen=True, slots=True)
class Weighed:
    """One picture: bytes of the PNG file, of ours with what became of it, and of the rivals; None: out of reach."""

    name: str
    png: int
    ours: int
    outcome: str
    rivals: dict[str, int | None]

    @property
    def ratio(self) -> float:
        """Ours to the smallest rival."""
        return self.ours / min(size for size in self.rivals.values() if size is not None)


def weigh(name: str, file: bytes, compressor: ShardCompressor, target: float) -> Weighed:
    """Codes one picture by all of them."""
    with Image.open(io.BytesIO(file)) as opened:
        image = np.array(opened)
    row = compressor.row(ObjectInfo(name, len(file)), file)
    how = f"quality {row.quality:g}" if row.reason is None else f"stored, {row.reason}"
    rivals = {codec: bytes_at(library_codec(codec), image, target - SSIMULACRA2_TOLERANCE) for codec in AVIF}
    rivals["webp lossless"] = len(imagecodecs.webp_encode(as_rgb(image), lossless=True, level=6))
    rivals["jxl lossless"] = len(imagecodecs.jpegxl_encode(image, lossless=True, effort=7, numthreads=1))
    return Weighed(name, len(file), len(row.payload), how, rivals)


def bytes_at(codec: ImageCodec, image: Pixels, score: float) -> int | None:
    """Bytes at the lowest quality that reaches ``score``, by bisection; None: none does."""
    sizes: dict[int, int] = {}

    def reaches(quality: int) -> bool:
        data = codec.encode(image, quality)
        sizes[quality] = len(data)
        return ssimulacra2(as_rgb(image), as_rgb(codec.decode(data))) >= score

    low, high = int(codec.spec.lowest), int(codec.spec.highest)
    if not reaches(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return sizes[high]


def table(found: Iterable[Weighed], target: float) -> Iterator[str]:
    """A line for each picture, then one for each kind."""
    weighed = list(found)
    names = list(weighed[0].rivals)
    yield f"bytes at SSIMULACRA2 {target:g}"
    yield f"{'':20}{'PNG':>10}{'ours':>10}" + "".join(f"{name:>15}" for name in names) + f"{'ratio':>8}  ours is"
    for one in weighed:
        rivals = "".join(f"{'–' if size is None else f'{size:,}':>15}" for size in one.rivals.values())
        yield f"{one.name:20}{one.png:>10,}{one.ours:>10,}{rivals}{one.ratio:>8.2f}  {one.outcome}"
    for kind, of_kind in groupby(sorted(weighed, key=lambda one: graphics.kind(one.name)), lambda one: graphics.kind(one.name)):
        yield f"{kind or 'all'}: {geometric_mean(one.ratio for one in of_kind):.2f} of the smallest rival"


def pictures(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    """Names and PNG files."""
    if folder is not None:
        yield from ((path.stem, path.read_bytes()) for path in sorted(folder.glob("*.png")))
        return
    for name, draw in graphics.PICTURES.items():
        buffer = io.BytesIO()
        draw().save(buffer, "PNG", optimize=True)
        yield name, buffer.getvalue()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--target", type=float, default=80)
    parser.add_argument("--codec", help="codec file; default: the shipped one")
    parser.add_argument("--only", help="names of pictures, by commas")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(2)
    codec, here = Codec.load(args.codec), open_store(str(Path.cwd()))
    settings = CompressionSettings(target_ssimulacra2=args.target)
    compressor = ShardCompressor(here, here, codec, settings, run_id="graphics")
    wanted = None if args.only is None else args.only.split(",")
    chosen = [(name, file) for name, file in pictures(args.folder) if wanted is None or name in wanted]
    found = [weigh(name, file, compressor, args.target) for name, file in chosen]
    if args.json:
        content = {"codec": codec.id, "target": args.target, "pictures": [asdict(one) for one in found], **hardware()}
        json.dump(content, sys.stdout)
        return
    print(f"codec {codec.id[:12]}", *table(found, args.target), "; ".join(hardware().values()), sep="\n")


if __name__ == "__main__":
    main()
