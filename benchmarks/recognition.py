"""How many pictures a second are recognised from an archive's latents, and how many by decoding them first.

    python -m benchmarks.recognition FASHION_CODEC [--pictures N]

An archive of Fashion-MNIST's test pictures is read twice by one thread, as the library does it: shard → latents → the codec's
own head, and shard → rows → pixels → the same network on pixels, which is the codec's analysis before that head. Seconds
are the process's own, so that other work on the machine does not count. What a network trained on pixels recognises, says
`benchmarks.fashion_mnist pixels`.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import fashion_mnist
from benchmarks.hardware import hardware
from cnnbatch.archive import ArchiveLog, ArchiveRow, read_shard
from cnnbatch.classification import CodecHeads, Features, read_features
from cnnbatch.codec import Codec
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.compress import ShardCompressor
from cnnbatch.stages.records import CompressTask
from cnnbatch.stages.restoring import reconstruct_each
from cnnbatch.stages.settings import CompressionSettings
from cnnbatch.storage import Store, open_store

ROUNDS = 3
BATCH = 1024
TARGET_RATIO = 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Pictures a second of one thread, the best of `ROUNDS`; ``agree``: share of pictures with the same label both ways."""

    from_latents: float
    from_pixels: float
    agree: float

    @property
    def ratio(self) -> float:
        return self.from_latents / self.from_pixels


def make_archive(folder: Path, codec: Codec, pictures: Sequence[np.ndarray]) -> tuple[Store, str]:
    """An archive of these pictures, as the job writes it; returns its store and the path of its only shard."""
    (folder / "source").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "source" / f"{number:05}.png")
    source, store = open_store(str(folder / "source")), open_store(str(folder / "archive"))
    ArchiveLog.create_or_open(store.url, codec_files=[codec.data])
    compressor = ShardCompressor(source, store, codec, CompressionSettings(), run_id="run")
    result = compressor(CompressTask(0, tuple(source.list())))
    if result.shard is None:
        raise ValueError("no picture was coded")
    return store, result.shard.path


def from_latents(store: Store, path: str, codecs: CodecShelf, codec_id: str) -> dict[str, str]:
    """Key → label of every coded picture."""
    recogniser = CodecHeads(codecs).of(codec_id)
    found: dict[str, str] = {}
    for part in read_features(store, path, codecs, wanted={codec_id}):
        if isinstance(part, Features):
            found.update(zip(part.keys, recogniser.predict(part.values)[0], strict=True))
    return found


def from_pixels(store: Store, path: str, codecs: CodecShelf, codec_id: str) -> dict[str, str]:
    """The same labels by way of the pixels."""
    codec = codecs[codec_id]
    model = codec.file.model()
    rows = [row for row in read_shard(store, path) if isinstance(row, ArchiveRow) and row.codec_id == codec_id]
    found: dict[str, str] = {}
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        images = np.stack([image for image in reconstruct_each(codec, part) if isinstance(image, np.ndarray)])
        s = model.settings
        with torch.inference_mode():
            x = torch.from_numpy(images).float().view(-1, s.height, s.width, s.channels)
            quality = torch.tensor([float(row.quality or 0) for row in part])
            logits = model.head(model.g_s.dequantised(model.g_a(x, quality), quality))
        labels = (s.classes[place] for place in logits.argmax(1).tolist())
        found.update(zip((row.key for row in part), labels, strict=True))
    return found


def measure(codec: Codec, pictures: Sequence[np.ndarray]) -> Figures:
    """Raises ValueError for a codec file without a head."""
    if codec.file.model().head is None:
        raise ValueError("the codec file carries no head")
    with tempfile.TemporaryDirectory() as folder:
        store, path = make_archive(Path(folder), codec, pictures)
        codecs = CodecShelf(store, device="cpu")
        ways: tuple[Callable[..., dict[str, str]], ...] = (from_latents, from_pixels)
        results = [way(store, path, codecs, codec.id) for way in ways]  # compiles, loads
        seconds = [min(_seconds(way, store, path, codecs, codec.id) for _ in range(ROUNDS)) for way in ways]
    latents, pixels = results
    same = [latents[key] == pixels[key] for key in pixels]
    return Figures(len(latents) / seconds[0], len(pixels) / seconds[1], float(np.mean(same)))


def _seconds(way: Callable[..., dict[str, str]], *arguments: object) -> float:
    start = time.process_time()
    way(*arguments)
    return time.process_time() - start


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recognition", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("codec", type=Path, metavar="FASHION_CODEC")
    parser.add_argument("--pictures", type=int, default=10_000)
    args = parser.parse_args(argv)
    fashion_mnist.require_source()
    dedicate_process()
    found = measure(Codec.load(args.codec, device="cpu"), list(fashion_mnist.images("test")[: args.pictures]))
    print(
        f"{args.pictures:,} pictures: {found.from_latents:,.0f} a second from latents, {found.from_pixels:,.0f} by decoding, "
        f"{found.ratio:.1f} times as many (wanted: {TARGET_RATIO:g}); {100 * found.agree:.1f} % of the labels are the same"
    )
    print(", ".join(f"{name} {value}" for name, value in hardware().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
