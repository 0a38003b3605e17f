"""How fast the shipped codec encodes and decodes, against AVIF, JPEG XL, WebP and JPEG at about the same PSNR.

All codecs take the same pictures, in turn, in one run; the other codecs' settings are searched so that their mean PSNR is
next to ours. AVIF and JPEG XL use their own threads; ours, JPEG and WebP code as many pictures at a time.
Medians of the passes; the figures to trust are the ratios. Where other programs take the cores, look at the ratio per
second of processor time: waiting does not count there, though neither does how badly a codec uses a second core.

    python -m benchmarks.codec_speed [FOLDER] [--threads 2] [--rounds 3] [--quality 32] [--json]
"""

import argparse
import functools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.hardware import hardware
from cnnbatch.codec import DEFAULT_QUALITY, Codec
from cnnbatch.codec.geometry import SCALES
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.metrics import psnr_db

Pixels = npt.NDArray[np.uint8]

OURS = "cnnbatch"
SAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")
SAMPLE_PIXELS = 1_500_000
SEARCHED = slice(None, None, 3)
"""The pictures that the other codecs' settings are searched on."""

TARGETS = {"avif 4:4:4 speed 6": 6.0, "jpeg xl effort 7": 3.0}
"""Encoding speed of ours over theirs that the project is to reach."""


@dataclass(frozen=True, slots=True)
class Coder:
    """One codec at one setting; ``parallel``: pictures at a time."""

    name: str
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Pixels]
    parallel: int = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the rounds, and how good and how large the result was."""

    name: str
    setting: float
    encode_mp_per_s: float
    decode_mp_per_s: float
    encode_mp_per_cpu_s: float
    bits_per_pixel: float
    psnr_db: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="pictures (default: photographs of scikit-image, enlarged)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every codec (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each codec; medians count")
    parser.add_argument("--quality", type=float, default=DEFAULT_QUALITY, help="of ours (default %(default)s)")
    parser.add_argument("--codec", help="another codec file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    dedicate_process()
    images = sample_photographs() if options.folder is None else read_folder(options.folder)
    codec = Codec.load(options.codec, device="cpu")
    figures = measure(codec, images, quality=options.quality, threads=options.threads, rounds=options.rounds)
    result = report(figures, stages(codec, images, options.quality, options.rounds), images, options.threads)
    result["quick"] = quick(codec, images, options.quality, threads=options.threads, rounds=options.rounds)
    print(json.dumps(result, indent=2) if options.json else table(result))


def sample_photographs() -> list[Pixels]:
    """Photographs of scikit-image, resized to `SAMPLE_PIXELS` each."""
    with as_file(files("skimage") / "data") as folder:
        return [_resized(Image.open(folder / name).convert("RGB")) for name in SAMPLES]


def _resized(image: Image.Image) -> Pixels:
    scale = (SAMPLE_PIXELS / (image.width * image.height)) ** 0.5
    size = round(image.width * scale), round(image.height * scale)
    return np.array(image.resize(size, Image.Resampling.LANCZOS))


def read_folder(folder: Path) -> list[Pixels]:
    """Every picture right in ``folder``.

    Raises:
        SystemExit: there is none.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".tif", ".webp"})
    if not paths:
        raise SystemExit(f"no pictures in {folder}")
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


def others(threads: int) -> dict[str, tuple[Sequence[float], Callable[[float], Coder]]]:
    """Name → (settings from bad to good, maker of the codec at a setting)."""

    def pillow(name: str, parallel: int, setting: float, **options: Any) -> Coder:
        return Coder(name, functools.partial(_save, quality=int(setting), **options), _open, parallel)

    def jpeg_xl(distance: float) -> Coder:
        encode = functools.partial(imagecodecs.jpegxl_encode, distance=distance, effort=7, numthreads=threads)
        return Coder("jpeg xl effort 7", encode, functools.partial(imagecodecs.jpegxl_decode, numthreads=threads))

    avif: dict[str, Any] = {"format": "AVIF", "subsampling": "4:4:4", "speed": 6, "max_threads": threads}
    percent = range(5, 100)
    return {
        "avif 4:4:4 speed 6": (percent, lambda q: pillow("avif 4:4:4 speed 6", 1, q, **avif)),
        "jpeg xl effort 7": ([12 * 0.94**k for k in range(64)], jpeg_xl),
        "webp method 6": (percent, lambda q: pillow("webp method 6", threads, q, format="WEBP", method=6)),
        "jpeg 4:4:4": (percent, lambda q: pillow("jpeg 4:4:4", threads, q, format="JPEG", subsampling=0)),
    }


def _save(image: Pixels, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return buffer.getvalue()


def _open(data: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def measure(codec: Codec, images: Sequence[Pixels], *, quality: float, threads: int, rounds: int) -> list[Figures]:
    """Ours first."""
    ours = Coder(OURS, lambda image: codec.compress([image], quality)[0], lambda data: codec.reconstruct([data])[0], threads)
    some = images[SEARCHED]
    target = _quality_of(ours, some)[1]
    chosen = [(quality, ours)] + [_matched(settings, make, some, target) for settings, make in others(threads).values()]
    times: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for _ in range(rounds):
        for _, coder in chosen:
            times[coder.name].append(_pass(coder, images))
    return [_figures(setting, coder, times[coder.name], images) for setting, coder in chosen]


def quick(codec: Codec, images: Sequence[Pixels], quality: float, *, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Source megapixels per second, and per second of processor time, of the full decoder, of drafts, and of smaller pictures,
    each picture after the other in turns."""
    data = codec.compress(images, quality)
    ways: dict[str, dict[str, Any]] = {"full": {}, "draft": {"decoder": "draft"}}
    ways |= {f"scale 1/{by}": {"scale": 1 / by} for by in SCALES[1:]}
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            for name, how in ways.items():
                begin, cpu = time.perf_counter(), time.process_time()
                for _ in pool.map(lambda one, how=how: codec.reconstruct([one], **how), data):
                    pass
                times[name].append((time.perf_counter() - begin, time.process_time() - cpu))
    size = _pixels(images) / 1e6
    medians = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in times.items()}
    return {name: {"mp_per_s": size / wall, "mp_per_cpu_s": size / cpu} for name, (wall, cpu) in medians.items()}


def _matched(
    settings: Sequence[float], make: Callable[[float], Coder], images: Sequence[Pixels], target_db: float
) -> tuple[float, Coder]:
    """The first setting whose mean PSNR reaches ``target_db``, else the best."""
    low, high = 0, len(settings) - 1
    while low < high:
        middle = (low + high) // 2
        if _quality_of(make(settings[middle]), images)[1] < target_db:
            low = middle + 1
        else:
            high = middle
    return settings[low], make(settings[low])


def _quality_of(coder: Coder, images: Sequence[Pixels]) -> tuple[float, float]:
    """(bits per pixel over all images, mean PSNR in dB)."""
    data = [coder.encode(image) for image in images]
    db = statistics.mean(psnr_db(image, coder.decode(one)) for image, one in zip(images, data, strict=True))
    return 8 * sum(map(len, data)) / _pixels(images), db


def _pass(coder: Coder, images: Sequence[Pixels]) -> tuple[float, float, float]:
    """Seconds to encode, and to decode, every image once, and seconds of processor time to encode."""
    with ThreadPoolExecutor(coder.parallel) as pool:
        run = map if coder.parallel == 1 else pool.map
        begin, cpu = time.perf_counter(), time.process_time()
        data = list(run(coder.encode, images))
        middle, cpu = time.perf_counter(), time.process_time() - cpu
        for _ in run(coder.decode, data):
            pass
        return middle - begin, time.perf_counter() - middle, cpu


def _figures(setting: float, coder: Coder, times: Sequence[tuple[float, float, float]], images: Sequence[Pixels]) -> Figures:
    rates = [_pixels(images) / 1e6 / statistics.median(column) for column in zip(*times, strict=True)]
    return Figures(coder.name, setting, *rates, *_quality_of(coder, images))


def _pixels(images: Sequence[Pixels]) -> int:
    return sum(image.shape[0] * image.shape[1] for image in images)


def stages(codec: Codec, images: Sequence[Pixels], quality: float, rounds: int) -> dict[str, dict[str, float]]:
    """Where our time goes: share of each stage in encoding and in decoding, in the median pass."""
    passes: dict[str, list[dict[str, float]]] = {"encode": [], "decode": []}
    for _ in range(rounds):
        with _stage_timers(codec) as seconds:
            data = [_total(seconds, lambda image=image: codec.compress([image], quality)[0]) for image in images]
        passes["encode"].append(dict(seconds))
        with _stage_timers(codec) as seconds:
            for one in data:
                _total(seconds, lambda one=one: codec.reconstruct([one]))
        passes["decode"].append(dict(seconds))
    return {name: _shares(sorted(found, key=lambda s: s["total"])[len(found) // 2]) for name, found in passes.items()}


@contextmanager
def _stage_timers(codec: Codec) -> Iterator[dict[str, float]]:
    """Seconds spent in each network and in the entropy coder, while the block runs; one thread calls the codec."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            result = function(*arguments, **options)
            seconds[name] += time.perf_counter() - begin
            return result

        return call

    encoder, decoder = codec.coder.encoder, codec.coder.decoder
    latents, networks = decoder.latents, decoder.latents.networks
    nets = {"scale_net": timed("scale net", networks.scale_net), "mean_net": timed("mean net", networks.mean_net)}
    with (
        mock.patch.object(encoder, "analysis", timed("analysis", encoder.analysis)),
        mock.patch.object(encoder.latents, "hyper_analysis", timed("hyper analysis", encoder.latents.hyper_analysis)),
        mock.patch.object(latents, "networks", replace(networks, **nets)),
        mock.patch.object(latents, "each", timed("entropy coding", latents.each)),
        mock.patch.object(decoder.synthesis, "pixels", timed("synthesis", decoder.synthesis.pixels)),
    ):
        yield seconds


def _total(seconds: dict[str, float], work: Callable[[], Any]) -> Any:
    begin = time.perf_counter()
    result = work()
    seconds["total"] += time.perf_counter() - begin
    return result


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    total = seconds.pop("total")
    shares = {name: value / total for name, value in seconds.items()}
    return {**shares, "the rest": 1 - sum(shares.values())}


def report(
    figures: Sequence[Figures], shares: dict[str, dict[str, float]], images: Sequence[Pixels], threads: int
) -> dict[str, Any]:
    """Figures, ratios, targets, and what they ran on."""
    ours = figures[0]
    ratios = {
        f"{OURS} ÷ {one.name}": {
            "encode": ours.encode_mp_per_s / one.encode_mp_per_s,
            "decode": ours.decode_mp_per_s / one.decode_mp_per_s,
            "encode_per_cpu_s": ours.encode_mp_per_cpu_s / one.encode_mp_per_cpu_s,
            "target_encode": TARGETS.get(one.name),
        }
        for one in figures[1:]
    }
    return {
        "images": len(images),
        "megapixels": _pixels(images) / 1e6,
        "threads": threads,
        "codecs": [asdict(one) for one in figures],
        "ratios": ratios,
        "stages": shares,
        **hardware(),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['images']} pictures, {result['megapixels']:.1f} MP, {result['threads']} threads",
        f"{'codec':<20} {'setting':>8} {'encode MP/s':>12} {'MP/CPU s':>9} {'decode MP/s':>12} {'bpp':>7} {'PSNR dB':>8}",
    ]
    lines += [
        f"{one['name']:<20} {one['setting']:8.2f} {one['encode_mp_per_s']:12.2f} {one['encode_mp_per_cpu_s']:9.2f} "
        f"{one['decode_mp_per_s']:12.2f} {one['bits_per_pixel']:7.3f} {one['psnr_db']:8.2f}"
        for one in result["codecs"]
    ]
    lines.append("")
    for name, ratio in result["ratios"].items():
        target = "" if ratio["target_encode"] is None else f" (target ≥ {ratio['target_encode']:g})"
        lines.append(
            f"{name:<32} encode {ratio['encode']:.2f}{target}, per CPU second {ratio['encode_per_cpu_s']:.2f}; "
            f"decode {ratio['decode']:.3f}"
        )
    jpeg_xl = next(one["decode_mp_per_s"] for one in result["codecs"] if one["name"].startswith("jpeg xl"))
    for name, one in result["quick"].items():
        lines.append(
            f"our {name}: {one['mp_per_s']:.2f} MP/s, {one['mp_per_cpu_s']:.2f} MP/CPU s; "
            f"÷ jpeg xl effort 7 {one['mp_per_s'] / jpeg_xl:.3f}"
        )
    for name, shares in result["stages"].items():
        parts = sorted(shares.items(), key=lambda item: -item[1])
        lines.append(f"our {name}: " + ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in parts))
    return "\n".join([*lines, f"{result['hardware']}; {result['software']}"])


if __name__ == "__main__":
    main()
