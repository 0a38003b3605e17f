"""Data sets in and out: tars against loose files, an archive against a folder of JPEGs, and the start of an epoch.

``jobs``: small PNGs as members of tars and as loose files of a bucket on SeaweedFS, each compressed by `jobs.compress` on a
local Ray, in turn. ``read``: photographs of 256² out of an archive as tensors, by two workers of a DataLoader, against the same
ones as JPEGs of quality 90 in a folder, decoded by PIL. ``start``: seconds until a stream over a synthetic archive has read its
first rows, and the peak memory of the process. ``memory``: peak memory of a process that goes through a shuffled stream of
stored pictures, and of one that lists tars and reads their members as a run does, for a thousand of them and for many.

    python -m benchmarks.datasets jobs [--members 100000] [--tars 100]
    python -m benchmarks.datasets read [--images 1000]
    python -m benchmarks.datasets start [--rows 1000000]
    python -m benchmarks.datasets memory [--samples 100000]
"""

import argparse
import io
import logging
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.resources import as_file, files
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

import cnnbatch
from benchmarks.hardware import hardware
from benchmarks.photographs import NAMES
from benchmarks.synthetic import QUIET, make_archive
from cnnbatch.archive import ArchiveLog, write_shard
from cnnbatch.containers import open_source
from cnnbatch.data import ArchiveDataset
from cnnbatch.data.samples import Samples
from cnnbatch.stages.listing import Scan
from cnnbatch.storage import ObjectInfo, open_store
from jobs import compress, engine
from jobs.settings import CompressConfig
from tests.seaweedfs import SeaweedFS

SIDE: Final = 256
SMALL_SIDE: Final = 32
WORKERS: Final = 2
QUALITY: Final = 40
TARGETS: Final = {"jobs": 1.1, "full": 0.3, "1/2": 1.0, "draft": 1.0, "bytes": 0.5, "start": 2.0, "memory": 1.1}
FEW: Final = 1000
MEMBERS: Final = 1000
"""Samples of a tar of ``memory``, and pictures of a shard."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("jobs", "read", "start", "memory"))
    parser.add_argument("--members", type=int, default=100_000, help="pictures of ``jobs`` (default %(default)s)")
    parser.add_argument("--tars", type=int, default=100, help="tars that hold them (default %(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="photographs of ``read`` (default %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of ``start`` (default %(default)s)")
    parser.add_argument("--samples", type=int, default=100_000, help="samples of ``memory`` (default %(default)s)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "jobs":
            lines = list(measure_jobs(Path(folder), options.members, options.tars))
        elif options.what == "read":
            lines = list(measure_reading(Path(folder), options.images))
        elif options.what == "start":
            lines = list(measure_start(Path(folder), options.rows))
        else:
            lines = list(measure_memory(Path(folder), options.samples))
    load = os.getloadavg()[0]
    print(*lines, ", ".join(hardware().values()) + f", load {load:.1f}", sep="\n")


def measure_jobs(folder: Path, members: int, tars: int) -> Iterator[str]:
    """Job seconds of loose files and of tars of the same."""
    with SeaweedFS(folder / "seaweedfs") as server:
        os.environ.update(server.environment())
        bucket = server.create_bucket("pictures")
        loose, held = open_store(f"{bucket}/loose"), open_store(f"{bucket}/tars")
        for tar in range(tars):
            pictures = [(f"{number:07}.png", small_png(number)) for number in range(tar, members, tars)]
            loose.put_many([(f"{tar:03}/{name}", data) for name, data in pictures])
            held.put(f"{tar:03}.tar", tar_of(pictures))
        engine.connect()
        try:
            run_job(f"{bucket}/loose", f"{bucket}/warm", "0000000*")
            seconds = {name: run_job(f"{bucket}/{name}", f"{bucket}/archive-{name}") for name in ("loose", "tars")}
        finally:
            ray.shutdown()
    yield f"{members:,} PNGs of {SMALL_SIDE} × {SMALL_SIDE} pixels, {tars} tars, on SeaweedFS"
    yield f"loose files {seconds['loose']:.1f} s, members of tars {seconds['tars']:.1f} s"
    yield f"tars ÷ loose {seconds['tars'] / seconds['loose']:.3f} (target ≤ {TARGETS['jobs']})"


def run_job(source: str, archive: str, only: str | None = None) -> float:
    """Seconds of a run, from its listing to its last commit; ``only`` makes it a short one, which starts the workers."""
    exclude = () if only is None else ("*[1-9].png",)
    job = compress.CompressJob(CompressConfig(source=source, archive=archive, exclude=exclude))
    begin = time.perf_counter()
    job.execute()
    return time.perf_counter() - begin


def small_png(number: int) -> bytes:
    """A picture with noise, unlike any other."""
    pixels = np.random.default_rng(number).integers(0, 256, (SMALL_SIDE, SMALL_SIDE, 3), np.uint8)
    return _file(Image.fromarray(pixels), "PNG")


def tar_of(pictures: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar of pictures with a class each."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in pictures:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class JpegFolder(Dataset[Any]):
    """JPEGs of a folder as uint8 tensors [3, H, W]."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self.paths[number]) as image:
            return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


def measure_reading(folder: Path, images: int) -> Iterator[str]:
    """Images a second of an archive and of a folder of JPEGs."""
    (folder / "jpegs").mkdir()
    with cnnbatch.create(folder / "archive", quality=QUALITY) as archive:
        for number, picture in enumerate(photographs(images)):
            picture.save(folder / "jpegs" / f"{number:06}.jpg", quality=90)
            archive.add(f"{number:06}.png", picture)
    jpeg_bytes = sum(path.stat().st_size for path in (folder / "jpegs").iterdir())
    payload_bytes = sum(row["payload_bytes"] for row in cnnbatch.open(folder / "archive").listing(columns=["payload_bytes"]))
    url = str(folder / "archive")
    ways: dict[str, Callable[[], Any]] = {
        "jpeg": lambda: JpegFolder(folder / "jpegs"),
        "full": lambda: ArchiveDataset(url).iterable(),
        "1/2": lambda: ArchiveDataset(url, scale=1 / 2).iterable(),
        "draft": lambda: ArchiveDataset(url, decoder="draft").iterable(),
    }
    rates = dict.fromkeys(ways, 0.0)
    for _ in range(2):  # the better of two: the first may compile
        rates = {name: max(rates[name], rate_of(make(), images)) for name, make in ways.items()}
    yield f"{images:,} photographs of {SIDE} × {SIDE} pixels, {WORKERS} workers, quality {QUALITY}"
    for name, rate in rates.items():
        target = f" ÷ JPEG {rate / rates['jpeg']:.2f} (target ≥ {TARGETS[name]})" if name in TARGETS else ""
        yield f"{name:>6} {rate:8.1f} images/s{target}"
    yield f"bytes ÷ JPEG's {payload_bytes / jpeg_bytes:.3f} (target ≤ {TARGETS['bytes']})"


def rate_of(dataset: Dataset[Any] | IterableDataset[Any], images: int) -> float:
    """Images a second from the first one on: workers have started by then."""
    loader = DataLoader(dataset, batch_size=16, num_workers=WORKERS, collate_fn=list, multiprocessing_context="spawn")
    batches = iter(loader)
    first = len(next(batches))
    begin = time.perf_counter()
    count = sum(map(len, batches))
    seconds = time.perf_counter() - begin
    if first + count != images:
        raise SystemExit(f"{first + count} of {images} images")
    return count / seconds


def photographs(count: int) -> Iterator[Image.Image]:
    """Crops of scikit-image's photographs."""
    generator = np.random.default_rng(0)
    with as_file(files("skimage") / "data") as source:
        originals = [Image.open(source / name).convert("RGB") for name in NAMES]
    for number in range(count):
        original = originals[number % len(originals)]
        side = min(int(generator.uniform(1, 2) * SIDE), *original.size)
        left, top = (int(generator.integers(0, length - side + 1)) for length in original.size)
        yield original.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def measure_start(folder: Path, rows: int) -> Iterator[str]:
    """Seconds until the first row group of a stream is there."""
    make_archive(folder / "archive", rows, QUIET)
    begin = time.perf_counter()
    opened = Samples(str(folder / "archive")).open()
    count = len(list(opened.read_part(0, 0)))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield f"{rows:,} rows in {len(opened.shards):,} shards, the first {count} of them"
    yield f"after {seconds:.2f} s (target ≤ {TARGETS['start']})"
    yield f"peak memory {peak:.0f} MiB"


def measure_memory(folder: Path, samples: int) -> Iterator[str]:
    """Peak memory of reading `FEW` and ``samples`` pictures, each in a process of its own."""
    yield f"{samples:,} samples against {FEW:,}, of {SMALL_SIDE} × {SMALL_SIDE} pixels"
    for name, make, read in (("stream", make_stored, read_stream), ("run", make_tars, read_members)):
        peaks = []
        for count in (FEW, samples):
            make(folder / f"{name}-{count}", count)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                peaks.append(pool.submit(read, str(folder / f"{name}-{count}"), count).result())
        few, many = peaks
        yield f"{name:>6} {few:.0f} → {many:.0f} MiB, × {many / few:.2f} (target ≤ {TARGETS['memory']})"


def make_stored(folder: Path, count: int) -> None:
    """An archive of one picture under ``count`` keys, kept losslessly: this is about rows, not the codec's speed."""
    with cnnbatch.create(folder / "one", lossless=True) as archive:
        archive.add("one.png", small_png(0))
    [row] = cnnbatch.open(folder / "one").values()
    log = ArchiveLog.create_or_open(str(folder / "many"), codec_files=[])
    shards = []
    for start in range(0, count, MEMBERS):
        keys = (f"{number:07}.png" for number in range(start, start + MEMBERS))
        shards.append(write_shard(log.store, [replace(row.row, key=key) for key in keys], footer={}))
    log.commit("memory", 0, shards)


def read_stream(folder: str, count: int) -> float:
    if sum(1 for _ in ArchiveDataset(f"{folder}/many").iterable(shuffle=True)) != count:
        raise SystemExit("samples are missing")
    return peak_mib()


def make_tars(folder: Path, count: int) -> None:
    """``count`` members in tars of `MEMBERS`."""
    folder.mkdir()
    data = small_png(0)
    for start in range(0, count, MEMBERS):
        pictures = ((f"{number:07}.png", data) for number in range(start, start + MEMBERS))
        (folder / f"{start:07}.tar").write_bytes(tar_of(pictures))


def read_members(folder: str, count: int) -> float:
    """As a run does: the listing in tables, then the members of one shard after the other."""
    source, seen = open_source(open_store(folder)), 0
    for table in Scan(source):
        infos = [ObjectInfo(**row) for row in table.to_pylist()]
        for start in range(0, len(infos), MEMBERS):
            members = source.get_many(infos[start : start + MEMBERS], max_bytes=1 << 20, concurrency=4)
            seen += sum(isinstance(data, bytes) for _, data in members)
    if seen != count:
        raise SystemExit(f"{seen} of {count} members")
    return peak_mib()


def peak_mib() -> float:
    """Peak of this process alone; ``ru_maxrss`` counts what its parent had before."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def _file(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
