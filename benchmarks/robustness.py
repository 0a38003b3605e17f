"""Both codecs on pictures they were not made for: noisy, blurred, damaged by JPEG, dark, and of another kind.

    python -m benchmarks.robustness FASHION_CODEC [--pictures N] [--labelled N] [--photographs FOLDER]

For every kind of input: bytes a picture, PSNR to the input (what the codec does to what it gets), PSNR to the clean original
(below the PSNR of the input itself the codec adds to the damage, above it takes some away), and where labels exist, the
share of them that are found from the latents. A head learns from clean pictures only.

FASHION_CODEC is a codec file of the dense architecture for Fashion-MNIST, with its labels (docs/fashion_mnist.md). The large
codec is the shipped one: on the same pictures, with a head that learns from its pooled latents, and on photographs.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from benchmarks import fashion_mnist
from benchmarks.hardware import hardware
from benchmarks.photographs import copy_photographs
from cnnbatch.classification import HeadTraining, fit
from cnnbatch.codec import Codec
from cnnbatch.codec.codec import Pixels
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.images import decode
from cnnbatch.metrics import psnr_db

QUALITY = 32.0
NOISE_DEVIATION = 25.0
"""Grey levels: the usual strong noise of the denoising literature."""
BLUR_RADIUS = 1.5
JPEG_QUALITY = 10
LIGHT = 0.1
"""Share of the photons; a grey level stands for one, and the sensor adds a deviation of 2."""
CROP = 256
MAX_PIXELS = 1 << 26

Recognise = Callable[[Sequence[bytes]], np.ndarray]
"""Bitstreams → places of their labels, int64 [N]."""


def noisy(picture: Pixels, rng: np.random.Generator) -> Pixels:
    return _rounded(picture + rng.normal(0, NOISE_DEVIATION, picture.shape))


def blurred(picture: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(BLUR_RADIUS)))


def jpeg_damaged(picture: Pixels, rng: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(buffer))


def low_light(picture: Pixels, rng: np.random.Generator) -> Pixels:
    return _rounded(rng.poisson(LIGHT * picture.astype(np.float64)) + rng.normal(0, 2, picture.shape))


def text(picture: Pixels, rng: np.random.Generator) -> Pixels:
    def draw(canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        for top in range(0, height, 12):
            letters = "".join(chr(code) for code in rng.integers(97, 123, width // 5 + 1))
            canvas.text((1, top), letters, fill=0)

    return _drawn(picture, draw)


def line_art(picture: Pixels, rng: np.random.Generator) -> Pixels:
    def draw(canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        for _ in range(3 + width * height // 2000):
            x0, x1 = sorted(rng.integers(0, width, 2).tolist())
            y0, y1 = sorted(rng.integers(0, height, 2).tolist())
            canvas.line((x0, y1, x1, y0), fill=0)
            canvas.ellipse((x0, y0, x1, y1), outline=0)

    return _drawn(picture, draw)


def pure_noise(picture: Pixels, rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, picture.shape).astype(np.uint8)


def clean(picture: Pixels, rng: np.random.Generator) -> Pixels:
    return picture


Damage = Callable[[Pixels, np.random.Generator], Pixels]
DAMAGES: Mapping[str, Damage] = {
    "clean": clean,
    "noisy": noisy,
    "blurred": blurred,
    "JPEG-damaged": jpeg_damaged,
    "low light": low_light,
}
FOREIGN: Mapping[str, Damage] = {"text": text, "line art": line_art, "noise": pure_noise}
"""Pictures of the same size and mode, without a clean original or a label."""


def _rounded(values: np.ndarray) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _drawn(picture: Pixels, draw: Callable[[ImageDraw.ImageDraw, int, int], None]) -> Pixels:
    height, width = picture.shape[:2]
    sheet = Image.new("L", (width, height), 255)
    draw(ImageDraw.Draw(sheet), width, height)
    gray = np.asarray(sheet)
    return gray if picture.ndim == 2 else np.repeat(gray[..., None], 3, axis=2)


@dataclass(frozen=True, slots=True)
class Row:
    """Means over pictures; ``to_clean_db`` and ``input_to_clean_db`` are None without a clean original, ``recognised``
    without labels. The clean input is its own original."""

    kind: str
    num_bytes: float
    to_input_db: float
    to_clean_db: float | None
    input_to_clean_db: float | None
    recognised: float | None


def measure(
    codec: Codec,
    pictures: Sequence[Pixels],
    *,
    labels: np.ndarray | None = None,
    recognise: Recognise | None = None,
    seed: int = 0,
) -> Iterator[Row]:
    """A row for each of `DAMAGES` and `FOREIGN`; ``labels`` int64 [N] are places of what ``recognise`` gives."""
    for number, (kind, damage) in enumerate({**DAMAGES, **FOREIGN}.items()):
        rng = np.random.default_rng([seed, number])
        inputs = [np.ascontiguousarray(damage(picture, rng)) for picture in pictures]
        bitstreams = codec.compress(inputs, QUALITY)
        decoded = codec.reconstruct(bitstreams)
        has_original = kind in DAMAGES
        found = None
        if has_original and labels is not None and recognise is not None:
            found = float(np.mean(recognise(bitstreams) == labels))
        yield Row(
            kind,
            float(np.mean([len(data) for data in bitstreams])),
            _mean_db(inputs, decoded),
            _mean_db(pictures, decoded) if has_original else None,
            _mean_db(pictures, inputs) if has_original and kind != "clean" else None,
            found,
        )


def _mean_db(originals: Sequence[Pixels], others: Sequence[Pixels]) -> float:
    return float(np.mean([psnr_db(a, b) for a, b in zip(originals, others, strict=True)]))


def own_head(codec: Codec, names: Sequence[str]) -> Recognise:
    """The head in a codec file, its classes as places in ``names``."""
    model = codec.file.model()
    order = np.array([names.index(name) for name in model.settings.classes])

    def recognise(bitstreams: Sequence[bytes]) -> np.ndarray:
        with torch.inference_mode():
            return order[model.head(torch.from_numpy(codec.features(bitstreams))).argmax(1).numpy()]

    return recognise


def trained_head(codec: Codec, pictures: Sequence[Pixels], labels: np.ndarray, names: Sequence[str]) -> Recognise:
    """An MLP on the features of clean pictures."""
    features = codec.features(codec.compress(pictures, QUALITY))
    head = fit(features, labels, classes=names, codec_id=codec.id, config=HeadTraining()).head

    def recognise(bitstreams: Sequence[bytes]) -> np.ndarray:
        with torch.inference_mode():
            return head(torch.from_numpy(codec.features(bitstreams))).argmax(1).numpy()

    return recognise


def table(title: str, rows: Sequence[Row]) -> str:
    """For people."""
    lines = [title, f"{'input':14} {'bytes':>9} {'to input':>9} {'to clean':>9} {'input to clean':>15} {'recognised':>11}"]
    for row in rows:
        found = "" if row.recognised is None else f"{100 * row.recognised:.1f} %"
        values = [row.to_input_db, row.to_clean_db, row.input_to_clean_db]
        shown = ["" if value is None else f"{value:.2f} dB" for value in values]
        lines.append(f"{row.kind:14} {row.num_bytes:9.1f} {shown[0]:>9} {shown[1]:>9} {shown[2]:>15} {found:>11}".rstrip())
    return "\n".join(lines)


def photographs(folder: Path) -> list[Pixels]:
    """The middle of every picture in a folder, at most `CROP` pixels a side."""
    found = [decode(path.read_bytes(), max_pixels=MAX_PIXELS).pixels for path in sorted(folder.iterdir()) if path.is_file()]
    return [np.ascontiguousarray(_middle(picture)) for picture in found]


def _middle(picture: Pixels) -> Pixels:
    top, left = (max(0, side - CROP) // 2 for side in picture.shape[:2])
    return picture[top : top + CROP, left : left + CROP]


def report(fashion: Codec, large: Codec, photos: Sequence[Pixels], *, pictures: int, labelled: int) -> None:
    """The tables on stdout."""
    names = fashion_mnist.CLASSES
    test, places = list(fashion_mnist.images("test")[:pictures]), fashion_mnist.labels("test")[:pictures]
    train, train_places = list(fashion_mnist.images("train")[:labelled]), fashion_mnist.labels("train")[:labelled]
    what = f"{len(test):,} test pictures of Fashion-MNIST, quality {QUALITY:g}"
    rows = list(measure(fashion, test, labels=places, recognise=own_head(fashion, names)))
    print(table(f"dense codec {fashion.id[:12]}, its own head; {what}", rows), flush=True)
    recognise = trained_head(large, train, train_places, names)
    rows = list(measure(large, test, labels=places, recognise=recognise))
    print(table(f"\nshipped codec {large.id[:12]}, head on {labelled:,} clean pictures; {what}", rows), flush=True)
    rows = list(measure(large, photos))
    print(table(f"\nshipped codec {large.id[:12]}; {len(photos)} photographs of {CROP} pixels a side at most", rows))
    print(", ".join(f"{name} {value}" for name, value in hardware().items()))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("codec", type=Path, metavar="FASHION_CODEC")
    parser.add_argument("--pictures", type=int, default=10_000, help="test pictures; default all")
    parser.add_argument("--labelled", type=int, default=20_000, help="pictures that the shipped codec's head learns from")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="default: those of scikit-image")
    args = parser.parse_args(argv)
    fashion_mnist.require_source()
    dedicate_process()
    with tempfile.TemporaryDirectory() as folder:
        if args.photographs is None:
            copy_photographs(Path(folder))
        photos = photographs(args.photographs or Path(folder))
    fashion, large = Codec.load(args.codec, device="cpu"), Codec.load(device="cpu")
    report(fashion, large, photos, pictures=args.pictures, labelled=args.labelled)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
