"""A museum's folder: 24 files of the formats that archive owners have, compressed, estimated, and given back.

::

    python -m benchmarks.museum              # makes the folder from scikit-image's photographs; runs the commands as users do
    python -m benchmarks.museum --decode     # with that option of compress

Prints, by format, bytes before and after; the estimate of the dry run beside what came; and how many files came back byte for
byte. Files of 16 bits are means of 2 × 2 pixels, so that all of their bits say something.
"""

import argparse
import io
import json
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import skimage.data
from numpy.typing import NDArray
from PIL import Image

import cnnbatch
from cnnbatch.images.ifd import LONG, SHORT, Entry, Ifd, block

Pixels = NDArray[Any]
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "retina")
PLAIN, DEFLATE = 1, 8
DIFFERENCES = 2
DNG_VERSION, COLOUR_FILTER = 50706, 32803


def photograph(name: str, *, deep: bool = False) -> Pixels:
    """uint8 [H, W, 3], or uint16 of half the sides."""
    pixels = np.ascontiguousarray(getattr(skimage.data, name)()[:1024, :1024, :3])
    if not deep:
        return pixels
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).astype(np.float64)
    return np.rint(blocks.mean(axis=(1, 3)) * 257).astype(np.uint16)


def saved(pixels: Pixels, format: str, *, mode: str = "RGB", **options: Any) -> bytes:
    """A file that Pillow writes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def tiff(samples: Pixels, compression: int, photometric: int = 2, extra: dict[int, Entry] | None = None) -> bytes:
    """16 bits a sample, in strips of 32 rows; packed ones as differences, as image editors write them."""
    height, width, channels = samples.shape
    strips = []
    for top in range(0, height, 32):
        rows = samples[top : top + 32].astype("<u2")
        if compression != PLAIN:
            rows[:, 1:] -= rows[:, :-1].copy()
        strips.append(rows.tobytes() if compression == PLAIN else imagecodecs.zlib_encode(rows.tobytes(), 6))
    starts = np.cumsum([8, *map(len, strips)])[:-1].astype("<u4")
    sizes = np.array([*map(len, strips)], "<u4")

    def short(*values: int) -> Entry:
        return Entry(SHORT, len(values), struct.pack(f"<{len(values)}H", *values))

    entries = {256: short(width), 257: short(height), 258: short(*[16] * channels), 259: short(compression)}
    entries |= {262: short(photometric), 277: short(channels), 278: short(32)}
    entries |= {273: Entry(LONG, len(starts), starts.tobytes()), 279: Entry(LONG, len(sizes), sizes.tobytes())}
    entries |= {317: short(DIFFERENCES)} if compression != PLAIN else {}
    body = b"".join(strips)
    end = 8 + len(body)
    return b"II*\0" + struct.pack("<I", end) + body + block(Ifd(entries | (extra or {})), end)


def raw(name: str) -> bytes:
    """14-bit samples behind a colour filter, as a camera writes them in a DNG."""
    deep = photograph(name, deep=True) >> 2
    mosaic = np.empty((deep.shape[0], deep.shape[1], 1), np.uint16)
    mosaic[0::2, 0::2, 0], mosaic[1::2, 1::2, 0] = deep[0::2, 0::2, 0], deep[1::2, 1::2, 2]
    mosaic[0::2, 1::2, 0], mosaic[1::2, 0::2, 0] = deep[0::2, 1::2, 1], deep[1::2, 0::2, 1]
    noise = np.random.default_rng(1).normal(0, 12, mosaic.shape)
    samples = np.clip(mosaic + noise, 0, (1 << 14) - 1).astype(np.uint16)
    return tiff(samples, PLAIN, COLOUR_FILTER, {DNG_VERSION: Entry(1, 4, b"\1\4\0\0")})


def pages(names: tuple[str, ...], mode: str, compression: str) -> bytes:
    """Several photographs in one TIFF."""
    first, *others = (Image.fromarray(photograph(name)).convert(mode) for name in names)
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others, compression=compression)
    return buffer.getvalue()


def heic(name: str) -> bytes:
    """A file as a telephone writes it."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(photograph(name))).save(buffer, quality=80)
    return buffer.getvalue()


def museum() -> dict[str, bytes]:
    """24 files by name."""
    jpegs = {f"prints/{name}.jpg": saved(photograph(name), "JPEG", quality=90) for name in NAMES}
    return jpegs | {
        "prints/coffee.png": saved(photograph("coffee"), "PNG"),
        "prints/camera.png": saved(photograph("chelsea"), "PNG", mode="L"),
        "prints/rocket.webp": saved(photograph("rocket"), "WEBP", quality=85),
        "scans/astronaut-16.tif": tiff(photograph("astronaut", deep=True), PLAIN),
        "scans/retina-16.tif": tiff(photograph("retina", deep=True), DEFLATE),
        "scans/coffee-16-gray.tif": tiff(photograph("coffee", deep=True)[..., 1:2], PLAIN, 1),
        "scans/chelsea-16.png": imagecodecs.png_encode(photograph("chelsea", deep=True)),
        "scans/rocket-16-gray.png": imagecodecs.png_encode(np.ascontiguousarray(photograph("rocket", deep=True)[..., 0])),
        "scans/astronaut-8-in-16.tif": tiff(photograph("astronaut").astype(np.uint16)[:256, :256] * 257, PLAIN),
        "scans/astronaut-cmyk.tif": saved(photograph("astronaut"), "TIFF", mode="CMYK"),
        "scans/coffee-cmyk.tif": saved(photograph("coffee"), "TIFF", mode="CMYK", compression="tiff_lzw"),
        "scans/register.tif": pages(("coffee", "chelsea", "rocket"), "RGB", "tiff_lzw"),
        "scans/letters.tif": pages(("coffee", "chelsea"), "L", "tiff_adobe_deflate"),
        "telephone/chelsea.heic": heic("chelsea"),
        "telephone/coffee.heic": heic("coffee"),
        "masters/retina.jxl": imagecodecs.jpegxl_encode(photograph("retina"), level=90),
        "masters/rocket.jp2": imagecodecs.jpeg2k_encode(photograph("rocket"), level=0, reversible=True, codecformat="jp2"),
        "camera/retina.dng": raw("retina"),
        "papers/catalogue.pdf": saved(photograph("coffee"), "PDF", quality=90),
    }


def command(*words: str) -> str:
    """Runs ``cnnbatch`` with these words; what it printed."""
    return subprocess.run([sys.executable, "-m", "cnnbatch", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def run(folder: Path, options: list[str]) -> None:
    """Makes the folder, and prints what becomes of it."""
    files = museum()
    for name, data in files.items():
        path = folder / "museum" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    source, archive, back = (str(folder / name) for name in ("museum", "archive", "back"))
    estimated = json.loads(command("compress", source, archive, "--dry-run", "--json", *options))["payload_bytes"]
    report = command("compress", source, archive, *options)
    command("reconstruct", archive, back)
    rows = {key: picture.row for key, picture in cnnbatch.open(archive).items()}

    before, after, same = (defaultdict[tuple[str, str], int](int) for _ in range(3))
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for key, row in rows.items():
        kind = row.source_format, row.outcome if row.outcome == "cnn" else f"store ({row.reason})"
        path = folder / "back" / key
        counts[kind] += 1
        before[kind] += row.source_size
        after[kind] += len(row.payload)
        same[kind] += path.is_file() and path.read_bytes() == files[key]
    print(f"{'format':8} {'outcome':24} {'files':>5} {'before':>10} {'after':>10} {'':>5}  byte for byte")
    for kind in sorted(counts):
        share = after[kind] / before[kind]
        print(
            f"{kind[0]:8} {kind[1]:24} {counts[kind]:>5} {before[kind]:>10,} {after[kind]:>10,} {share:5.0%}  {same[kind]:>13}"
        )
    written, total = sum(after.values()), sum(before.values())
    print(f"{'':8} {'all':24} {len(rows):>5} {total:>10,} {written:>10,} {written / total:5.0%}  {sum(same.values()):>13}")
    print(f"estimated by the dry run: {estimated:,}, {estimated / written - 1:+.1%}")
    lost = [key for key, row in rows.items() if row.outcome == "store" and (folder / "back" / key).read_bytes() != files[key]]
    print(f"kept files that came back otherwise: {len(lost)}")
    print(*(line for line in report.splitlines() if line.startswith("converted")), sep="\n")


def main() -> None:
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--decode", action="store_true", help="also encode HEIC, JPEG 2000, JPEG XL and 16 bits that are 8")
    options = ["--decode"] if parser.parse_args().decode else []
    print(f"$ python -m benchmarks.museum {' '.join(options)}".rstrip())
    with tempfile.TemporaryDirectory(prefix="cnnbatch-museum-") as folder:
        run(Path(folder), options)


if __name__ == "__main__":
    main()
