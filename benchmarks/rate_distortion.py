"""Rate and distortion of the shipped codec and of JPEG, WebP, JPEG XL and AVIF on a folder of pictures.

    python -m benchmarks.rate_distortion FOLDER [--json] [--plot FILE.svg]

Real bytes of whole files (ours: bitstreams), PSNR over RGB, mean over the pictures at each quality; BD-rate by PCHIP on
log rate (Bjøntegaard, VCEG-M33) of every codec against each other one, over the range of PSNR that both reach.
"""

import argparse
import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.interpolate import PchipInterpolator

from benchmarks.hardware import hardware
from cnnbatch.codec import Codec
from cnnbatch.metrics import psnr_db

Curve = list[tuple[float, float]]
"""(bpp, dB), rising."""

QUALITIES = {
    "cnnbatch": (0, 8, 16, 24, 32, 40, 48, 56, 63),
    "jpeg 4:4:4": (8, 15, 25, 40, 55, 70, 80, 88, 94, 97),
    "webp method 6": (2, 10, 30, 50, 65, 80, 90, 96),
    "jpeg xl effort 7": (12.0, 8.0, 5.5, 4.0, 2.8, 2.0, 1.3, 0.8, 0.5),
    "avif 4:4:4 speed 6": (18, 30, 42, 53, 64, 75, 85, 92),
}


def _pillow(image: np.ndarray, **options: object) -> tuple[int, np.ndarray]:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return buffer.tell(), np.asarray(Image.open(buffer).convert("RGB"))


def _jpeg_xl(image: np.ndarray, distance: float) -> tuple[int, np.ndarray]:
    import imagecodecs

    data = imagecodecs.jpegxl_encode(image, distance=distance, effort=7, numthreads=2)
    return len(data), imagecodecs.jpegxl_decode(data)


def coders(codec: Codec) -> dict[str, Callable[[np.ndarray, float], tuple[int, np.ndarray]]]:
    """Codec name → function of (image, quality) that gives (bytes, decoded image)."""

    def ours(image: np.ndarray, quality: float) -> tuple[int, np.ndarray]:
        data = codec.compress([image], quality)
        return len(data[0]), codec.reconstruct(data)[0]

    return {
        "cnnbatch": ours,
        "jpeg 4:4:4": lambda i, q: _pillow(i, format="JPEG", quality=int(q), subsampling=0, optimize=True),
        "webp method 6": lambda i, q: _pillow(i, format="WEBP", quality=int(q), method=6),
        "jpeg xl effort 7": _jpeg_xl,
        "avif 4:4:4 speed 6": lambda i, q: _pillow(i, format="AVIF", quality=int(q), subsampling="4:4:4", speed=6),
    }


def curve(images: list[np.ndarray], code: Callable[[np.ndarray, float], tuple[int, np.ndarray]], qualities) -> Curve:
    """Mean (bpp, dB) over the images at each quality."""
    points = []
    for quality in qualities:
        figures = []
        for image in images:
            size, decoded = code(image, quality)
            figures.append((8 * size / (image.shape[0] * image.shape[1]), psnr_db(image, decoded)))
        bpp, db = np.mean(figures, axis=0)
        points.append((float(bpp), float(db)))
    return points


def bd_rate(anchor: Curve, other: Curve) -> tuple[float, tuple[float, float]]:
    """(percent more bits of ``other`` at equal PSNR, the PSNR range compared)."""
    low = max(min(db for _, db in anchor), min(db for _, db in other))
    high = min(max(db for _, db in anchor), max(db for _, db in other))
    grid = np.linspace(low, high, 200)
    logs = [PchipInterpolator([db for _, db in c], np.log([bpp for bpp, _ in c]))(grid) for c in (anchor, other)]
    return 100 * float(np.expm1(np.trapezoid(logs[1] - logs[0], grid) / (high - low))), (low, high)


def plot(curves: dict[str, Curve], path: Path, title: str) -> None:
    """Draws the curves, ours on top."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cnnbatch"  # the same curves give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    for name, points in reversed(curves.items()):
        ours = name == "cnnbatch"
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, linewidth=2.5 if ours else 1.2)
    axes.set(xlabel="bits per pixel", ylabel="PSNR over RGB, dB", xlim=(0, 2.5), ylim=(26, 42), title=title)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", help="another codec file")
    parser.add_argument("--only", nargs="*", help="names of codecs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    torch.set_num_threads(2)
    codec = Codec.load(args.codec)
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(args.folder.glob("*.png"))]
    chosen = {name: code for name, code in coders(codec).items() if not args.only or name in args.only}
    curves = {name: curve(images, code, QUALITIES[name]) for name, code in chosen.items()}
    if args.plot:
        plot(curves, args.plot, f"{args.folder.name.capitalize()}, mean of {len(images)} pictures")
    rates = {name: bd_rate(points, curves["cnnbatch"]) for name, points in curves.items() if name != "cnnbatch"}
    if args.json:
        json.dump({"images": len(images), "codec": codec.id, "curves": curves, "bd_rate": rates, **hardware()}, sys.stdout)
        return
    print(f"{len(images)} pictures of {args.folder.name}, codec {codec.id[:12]}")
    for name, points in curves.items():
        print(f"{name:20}", "  ".join(f"{bpp:.3f} {db:.2f}" for bpp, db in points))
    for name, (rate, (low, high)) in rates.items():
        print(f"BD-rate of cnnbatch against {name}: {rate:+.1f} % over {low:.1f}…{high:.1f} dB")


if __name__ == "__main__":
    main()
