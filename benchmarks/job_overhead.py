"""The cost of the compress job over the bare loop: bare seconds ÷ job seconds on the same photographs.

The job runs in this process on a local Ray; the bare loop does the same work on the same files with the same threads, each
taking the next file: decode it, compress, reconstruct, PSNR; its process has the settings of a worker. Both in turn, in one
run. The start-up of Ray and of its workers (import of torch, loading the codec) is measured apart: the job's clock goes from
the plan to the last commit, less that.

    python -m benchmarks.job_overhead [--images 200] [--threads 2] [--rounds 3] [--json]
"""

import argparse
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import ray
from PIL import Image, ImageEnhance

from benchmarks.hardware import hardware
from benchmarks.photographs import NAMES
from cnnbatch.codec import Codec
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.images import decode
from cnnbatch.metrics import psnr_db
from jobs import compress, engine
from jobs.settings import CompressConfig

SIDES = (1024, 768)
TARGET = 0.85
MAX_PIXELS = 200_000_000


@dataclass(frozen=True, slots=True)
class Round:
    """One pass of each; ``start``: from the plan until every worker is ready."""

    bare_seconds: float
    job_seconds: float
    start_seconds: float

    @property
    def ratio(self) -> float:
        """Bare ÷ job, start-up apart."""
        return self.bare_seconds / self.job_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="how many photographs (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPUs of the worker, threads of the loop (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each; medians count")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        pixels = make_photographs(Path(folder) / "photos", options.images)
        rounds = measure(Path(folder), rounds=options.rounds, threads=options.threads)
    result = report(rounds, images=options.images, pixels=pixels, threads=options.threads)
    print(json.dumps(result, indent=2) if options.json else table(result))


def make_photographs(folder: Path, count: int) -> int:
    """``count`` JPEGs of about 0.8 MP: crops of scikit-image's photographs, mirrored, lighter and darker. Returns pixels."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with as_file(files("skimage") / "data") as source:
        originals = [Image.open(source / name).convert("RGB") for name in NAMES]
    for number in range(count):
        picture = _variant(originals[number % len(originals)], generator)
        picture.save(folder / f"{number:06}.jpg", quality=int(generator.integers(85, 96)))
    return count * SIDES[0] * SIDES[1]


def _variant(original: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A crop of 60 to 100 % of the largest that fits, in landscape or portrait format."""
    width, height = SIDES if generator.random() < 0.5 else SIDES[::-1]
    scale = min(original.width / width, original.height / height) * generator.uniform(0.6, 1)
    left = generator.uniform(0, original.width - scale * width)
    top = generator.uniform(0, original.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    picture = original.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if generator.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(picture).enhance(generator.uniform(0.7, 1.3))


def measure(folder: Path, *, rounds: int, threads: int) -> list[Round]:
    """Photographs in ``folder``/photos; each round leaves nothing behind."""
    dedicate_process()
    codec = Codec.load(device="cpu")
    engine.connect()
    try:
        return [_round(codec, folder, threads) for _ in range(rounds)]
    finally:
        ray.shutdown()


def _round(codec: Codec, folder: Path, threads: int) -> Round:
    paths = sorted((folder / "photos").iterdir())
    begin = time.perf_counter()
    bare = bare_loop(codec, paths, threads=threads)
    bare_seconds = time.perf_counter() - begin
    job_seconds, start_seconds, job = run_job(folder, threads)
    if len(paths) != len(bare) or job.report.tally.images != {"cnn": len(paths)}:
        raise SystemExit(f"{len(bare)} images in the loop, but the job's outcomes are {dict(job.report.tally.images)}")
    return Round(bare_seconds, job_seconds, start_seconds)


def bare_loop(codec: Codec, paths: Iterable[Path], *, threads: int) -> list[tuple[bytes, float]]:
    """One file after the other in each thread: (bitstream, PSNR)."""

    def coded(path: Path) -> tuple[bytes, float]:
        pixels = decode(path.read_bytes(), max_pixels=MAX_PIXELS).pixels
        bitstream = codec.compress([pixels])[0]
        return bitstream, psnr_db(pixels, codec.reconstruct([bitstream])[0])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(coded, paths))


@dataclass(frozen=True)
class Noted:
    """Builds a worker, and notes when it is ready."""

    build: Callable[[], Any]
    note: Path

    def __call__(self) -> Any:
        worker = self.build()
        with self.note.open("a") as file:
            file.write(f"{time.time()}\n")
        return worker


def run_job(folder: Path, threads: int) -> tuple[float, float, compress.CompressJob]:
    """(seconds from the plan to the last commit less the start of the workers, that start, the job)."""
    archive, note = folder / "archive", folder / "ready"
    plain = engine.run

    def noted(tasks: Sequence[Any], build: Callable[[], Any], pool: engine.Pool) -> Iterator[Any]:
        (folder / "begun").write_text(str(time.time()))
        return plain(tasks, Noted(build, note), pool)

    config = CompressConfig.model_validate(
        {"source": str(folder / "photos"), "archive": str(archive), "workers": {"cpus": threads, "most": 1}}
    )
    job = compress.CompressJob(config)
    with mock.patch.object(engine, "run", noted):
        begin = time.perf_counter()
        job.execute()
        seconds = time.perf_counter() - begin
    start = max(map(float, note.read_text().split())) - float((folder / "begun").read_text())
    shutil.rmtree(archive)
    note.unlink()
    return seconds - start, start, job


def report(rounds: Sequence[Round], *, images: int, pixels: int, threads: int) -> dict[str, Any]:
    """The rounds, the median of their ratios, and what they ran on."""
    return {
        "images": images,
        "megapixels": pixels / 1e6,
        "threads": threads,
        "rounds": [asdict(one) for one in rounds],
        "bare_over_job": statistics.median(one.ratio for one in rounds),
        "bare_over_job_with_start": statistics.median(
            one.bare_seconds / (one.job_seconds + one.start_seconds) for one in rounds
        ),
        "target": TARGET,
        **hardware(),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['images']} photographs, {result['megapixels']:.0f} MP, {result['threads']} threads",
        "bare s    job s  workers' start s   bare ÷ job",
    ]
    lines += [
        f"{one['bare_seconds']:6.1f} {one['job_seconds']:8.1f} {one['start_seconds']:17.1f} "
        f"{one['bare_seconds'] / one['job_seconds']:12.3f}"
        for one in result["rounds"]
    ]
    lines.append(
        f"median bare ÷ job {result['bare_over_job']:.3f} (target ≥ {result['target']:g}), "
        f"with the workers' start {result['bare_over_job_with_start']:.3f}"
    )
    return "\n".join([*lines, f"{result['hardware']}; {result['software']}"])


if __name__ == "__main__":
    main()
