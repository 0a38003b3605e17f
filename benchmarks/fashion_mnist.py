"""Fashion-MNIST as pictures, and what a codec file of the dense architecture makes of it.

    python -m benchmarks.fashion_mnist pictures FOLDER LABELS.csv
    python -m benchmarks.fashion_mnist measure CODEC_FILE
    python -m benchmarks.fashion_mnist pixels [--steps N] [--shift N] [--mirror]

The data set comes from Debian's ``dataset-fashion-mnist`` (70,000 gray pictures of 28 × 28, MIT licence). ``pictures`` writes
train/00000.png … and test/00000.png …, and their labels. ``measure`` codes the 10,000 test pictures and compares, at the
same mean bytes: PCA with every coefficient coded at the entropy of its own symbols (what no static coder can beat), PCA
with the context model of the codec (trained on it as long as wanted), and files of WebP, JPEG and AVIF, at the smallest
size of which they are capable; and the labels of the test pictures that are found from the latents. ``pixels`` says what
the same layers find on pixels (`benchmarks.fashion_pixels`).
"""

import argparse
import csv
import gzip
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import fashion_pixels
from benchmarks.hardware import hardware
from cnnbatch.classification import HeadTraining, fit
from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.dense.settings import DenseLayers
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.metrics import psnr_db
from cnnbatch.training.dense import DenseTrainer, DenseTraining
from cnnbatch.training.dense_data import UNLABELLED, SmallPictures, pca
from cnnbatch.training.run import LocalRun

SOURCE = Path("/usr/share/datasets/fashion-mnist")
PARTS = {"train": "train", "test": "t10k"}
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
QUALITIES = (8.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0)
FILE_SAMPLE = 500
"""Test pictures written as files: enough for means to a hundredth of a dB."""

HEAD_QUALITY = 32.0
"""Quality of the latents that a head learns from; they mean the same at every quality."""

FILE_QUALITIES = {"WEBP": range(0, 100, 5), "JPEG": range(5, 96, 10), "AVIF": range(0, 96, 10)}
FILE_OPTIONS: dict[str, dict[str, int]] = {"WEBP": {"method": 6}}
"""The most that the library takes the time for; Pillow's own is method 4."""

PCA_STEPS = (30, 45, 60, 75, 90, 110, 140, 180, 240, 340)


@dataclass(frozen=True, slots=True)
class Point:
    """Means over pictures."""

    num_bytes: float
    psnr_db: float


def require_source() -> None:
    """Raises SystemExit with what to do where the data set is not installed."""
    if not SOURCE.exists():
        raise SystemExit(f"{SOURCE} is missing: apt-get install dataset-fashion-mnist")


def images(part: str) -> np.ndarray:
    """uint8 [N, 28, 28] of ``train`` or ``test``."""
    raw = gzip.decompress((SOURCE / f"{PARTS[part]}-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28).copy()


def labels(part: str) -> np.ndarray:
    """int64 [N], places in `CLASSES`."""
    raw = gzip.decompress((SOURCE / f"{PARTS[part]}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=8).astype(np.int64)


def write_pictures(folder: Path, label_file: Path) -> int:
    """PNGs as Pillow writes them, and a CSV of key and label; returns how many."""
    rows = []
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, (picture, label) in enumerate(zip(images(part), labels(part), strict=True)):
            key = f"{part}/{number:05}.png"
            Image.fromarray(picture).save(folder / key)
            rows.append((key, CLASSES[label]))
    with label_file.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "label"), *rows])
    return len(rows)


def mean_psnr(originals: np.ndarray, decoded: Sequence[np.ndarray]) -> float:
    return float(np.mean([psnr_db(a, b) for a, b in zip(originals, decoded, strict=True)]))


def measure_codec(codec: Codec, pictures: np.ndarray, qualities: Sequence[float] = QUALITIES) -> list[Point]:
    points = []
    for quality in qualities:
        bitstreams = codec.compress(list(pictures), quality)
        num_bytes = float(np.mean([len(data) for data in bitstreams]))
        points.append(Point(num_bytes, mean_psnr(pictures, codec.reconstruct(bitstreams))))
    return points


def measure_pca(train: np.ndarray, test: np.ndarray) -> list[Point]:
    """All 784 coefficients, rounded, at the empirical entropy of each over the test pictures; nothing for headers or tables."""
    mean, basis, _ = (part.numpy().astype(np.float64) for part in pca(train[..., None], train[0].size, seed=0))
    coefficients = (test.reshape(len(test), -1) - mean) @ basis.T
    points = []
    for step in PCA_STEPS:
        symbols = np.rint(coefficients / step).astype(np.int64)
        bits = sum(_entropy(column) for column in symbols.T)
        decoded = np.clip(np.rint(symbols * step @ basis + mean), 0, 255).astype(np.uint8)
        points.append(Point(bits / 8, mean_psnr(test, decoded.reshape(test.shape))))
    return points


def _entropy(symbols: np.ndarray) -> float:
    counts = np.bincount(symbols - symbols.min())
    shares = counts[counts > 0] / len(symbols)
    return float(-(shares * np.log2(shares)).sum())


def pca_with_context(train: np.ndarray, layers: DenseLayers, steps: int, checkpoint: Path) -> Codec:
    """The codec before its networks have learned anything: PCA, with the context model trained on it alone."""
    config = DenseTraining(context_steps=steps, steps=1, threads=torch.get_num_threads())
    pictures = SmallPictures(train[..., None], np.full(len(train), UNLABELLED, np.int64))
    return Codec(dump_codec(DenseTrainer(config, layers, pictures, LocalRun(checkpoint)).model, training={}), device="cpu")


def measure_files(pictures: np.ndarray, kind: str) -> list[Point]:
    """Whole files, gray, over the qualities of the format."""

    def written(picture: np.ndarray, quality: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(
            buffer, kind, **({} if kind == "PNG" else {"quality": quality}), **FILE_OPTIONS.get(kind, {})
        )
        return buffer.getvalue()

    points = []
    for quality in FILE_QUALITIES.get(kind, (0,)):
        files = [written(picture, quality) for picture in pictures]
        decoded = [np.asarray(Image.open(io.BytesIO(data)).convert("L")) for data in files]
        points.append(Point(float(np.mean([len(data) for data in files])), mean_psnr(pictures, decoded)))
    return points


def at_bytes(points: Sequence[Point], num_bytes: float) -> float:
    """dB at so many bytes, between the points; not beyond them."""
    ordered = sorted(points, key=lambda p: p.num_bytes)
    return float(np.interp(num_bytes, [p.num_bytes for p in ordered], [p.psnr_db for p in ordered], left=np.nan, right=np.nan))


def db_or_why_not(points: Sequence[Point], num_bytes: float) -> str:
    """`at_bytes` for a table; a word where no setting makes files so small, or so large."""
    sizes = [point.num_bytes for point in points]
    if num_bytes < min(sizes):
        return "none so small"
    return "none so large" if num_bytes > max(sizes) else f"{at_bytes(points, num_bytes):.2f}"


def recogniser(codec: Codec) -> Callable[[np.ndarray], np.ndarray]:
    """Features [N, F] → places in `CLASSES`: by the codec's own head, or, where it has none, by the MLP of `jobs.classify` that
    learns from the latents of the training pictures."""
    model = codec.file.model()
    if model.head is not None:
        head, names = model.head, model.settings.classes
    else:
        features = codec.features(codec.compress(list(images("train")), HEAD_QUALITY))
        fitted = fit(features, labels("train"), classes=CLASSES, codec_id=codec.id, config=HeadTraining())
        head, names = fitted.head, CLASSES
    places = np.array([CLASSES.index(name) for name in names])

    def recognise(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return places[head(torch.from_numpy(features)).argmax(1).numpy()]

    return recognise


def report(codec: Codec, *, context_steps: int, scratch: Path, show: Callable[[str], None] = print) -> None:
    """The table on stdout."""
    train, test, sample = images("train"), images("test"), images("test")[:FILE_SAMPLE]
    files = {kind: measure_files(sample, kind) for kind in ("PNG", *FILE_QUALITIES)}
    png = files.pop("PNG")[0].num_bytes
    static = measure_pca(train, test)
    model = codec.file.model()
    layers = DenseLayers(**model.settings.model_dump(include=set(DenseLayers.model_fields)))
    context = measure_codec(pca_with_context(train, layers, context_steps, scratch), test)
    show(f"codec {codec.id[:12]}, {len(codec.data):,} bytes; 10,000 test pictures; PNG {png:.1f} bytes (mean of {FILE_SAMPLE})")
    show(f"quality  bytes of PNG     dB {'PCA':>13} {'PCA + context':>13} {'WebP 2x':>13} recognised")
    places, recognise = labels("test"), recogniser(codec)
    for quality, point in zip(QUALITIES, measure_codec(codec, test), strict=True):
        found = np.mean(recognise(codec.features(codec.compress(list(test), quality))) == places)
        show(
            f"{quality:7g} {point.num_bytes:6.1f} {point.num_bytes / png:6.3f} {point.psnr_db:6.2f} "
            f"{db_or_why_not(static, point.num_bytes):>13} {db_or_why_not(context, point.num_bytes):>13} "
            f"{db_or_why_not(files['WEBP'], 2 * point.num_bytes):>13} {100 * found:8.1f} %"
        )
    by = "an MLP on the training pictures' latents" if model.head is None else "the codec file's own head"
    show(f"recognised: share of the test pictures' labels found by {by}")
    for kind, points in files.items():
        smallest = min(points, key=lambda p: p.num_bytes)
        show(f"smallest {kind} file: {smallest.num_bytes:.1f} bytes, {smallest.psnr_db:.2f} dB")
    machine = hardware()
    show(", ".join(f"{name} {value}" for name, value in machine.items()))


def show_pixels(config: DenseTraining) -> None:
    """Trains on the training pictures and prints the accuracy on the test pictures."""
    pictures = SmallPictures(images("train")[..., None], labels("train"), CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        model = fashion_pixels.trained(pictures, config, Path(folder) / "run.ckpt")
    found = fashion_pixels.accuracy(model, images("test")[..., None], labels("test"))
    varied = f"shift {config.shift}, {'mirrored' if config.mirror else 'not mirrored'}"
    print(f"{100 * found:.1f} % of the 10,000 test pictures recognised on pixels after {config.steps:,} steps, {varied}")
    print(", ".join(f"{name} {value}" for name, value in hardware().items()))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fashion_mnist", description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("pictures", help="write the data set as PNGs")
    write.add_argument("folder", type=Path)
    write.add_argument("labels", type=Path)
    measure = commands.add_parser("measure", help="measure a codec file")
    measure.add_argument("codec", type=Path)
    pixels = commands.add_parser("pixels", help="train the codec's layers to recognise on pixels")
    pixels.add_argument("--steps", type=int, default=8000)
    pixels.add_argument("--shift", type=int, default=0)
    pixels.add_argument("--mirror", action="store_true")
    measure.add_argument("--context-steps", type=int, default=1500, help="training of the context model on PCA")
    args = parser.parse_args(argv)
    require_source()
    if args.command == "pictures":
        print(f"{write_pictures(args.folder, args.labels):,} pictures")
        return 0
    if args.command == "pixels":
        show_pixels(DenseTraining(steps=args.steps, shift=args.shift, mirror=args.mirror))
        return 0
    dedicate_process()
    report(Codec.load(args.codec, device="cpu"), context_steps=args.context_steps, scratch=args.codec.with_suffix(".pca"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
