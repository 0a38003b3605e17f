"""Peak memory of a job: many pictures against few, and for compression one picture of 100 megapixels.

Each job is the command itself, on a local Ray; its processes are polled while it runs: ``python -m jobs.compress`` on small
pictures, or with ``--evaluate`` ``python -m jobs.evaluate`` on photographs, measured by our codec and JPEG at one quality. A
process's memory is its proportional share without shared memory (``Pss`` − ``Pss_Shmem`` of ``/proc/PID/smaps_rollup``):
libraries count once among those that map them, Ray's object store not at all.

    python -m benchmarks.memory [--few 1000] [--images 100000] [--megapixels 100] [--json]
    python -m benchmarks.memory --evaluate --few 100 --images 1000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.hardware import hardware

POLL_SECONDS = 0.2
SMALL_SIDE = 32
PHOTOGRAPH = (512, 384)
EVALUATION = ("--codecs", "cnn,jpeg444", "--sample", "0", "--examples", "0", "qualities.cnn=[32]", "qualities.jpeg444=[75]")
TARGET_GROWTH = 1.25
"""Flat: the peaks of the many at most this much above those of the few."""

TARGET_LARGE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peak memory of one job in bytes; ``actor``: of the largest worker process."""

    name: str
    images: int
    driver: int
    actor: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=1000, help="small pictures of the first job (default %(default)s)")
    parser.add_argument("--images", type=int, default=100_000, help="small pictures of the second (default %(default)s)")
    parser.add_argument("--megapixels", type=int, default=100, help="size of the large JPEG; 0: none (default %(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="jobs.evaluate on photographs instead of jobs.compress")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    found = []
    for count in (options.few, options.images):
        with tempfile.TemporaryDirectory() as folder:
            if options.evaluate:
                make_crops(Path(folder) / "photos", count, PHOTOGRAPH, "jpg")
                found.append(evaluate("photographs", Path(folder), count))
            else:
                make_crops(Path(folder) / "photos", count, (SMALL_SIDE, SMALL_SIDE), "png")
                found.append(compress(f"{SMALL_SIDE}×{SMALL_SIDE} PNG", Path(folder), count))
    if options.megapixels and not options.evaluate:
        with tempfile.TemporaryDirectory() as folder:
            make_large(Path(folder) / "photos", options.megapixels)
            found.append(compress(f"{options.megapixels} MP JPEG", Path(folder), 1))
    print(json.dumps(report(found), indent=2) if options.json else table(found))


def make_crops(folder: Path, count: int, size: tuple[int, int], ending: str) -> None:
    """Crops of one photograph, ``size`` (width, height) pixels, 1000 to a folder."""
    with as_file(files("skimage") / "data") as source:
        photograph = Image.open(source / "retina.jpg").convert("RGB")
    generator = np.random.default_rng(0)
    for number in range(count):
        left, top = (int(generator.integers(0, whole - side)) for whole, side in zip(photograph.size, size, strict=True))
        path = folder / f"{number // 1000:04}" / f"{number:07}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"compress_level": 1} if ending == "png" else {"quality": 92}
        photograph.crop((left, top, left + size[0], top + size[1])).save(path, **options)


def make_large(folder: Path, megapixels: int) -> None:
    """One square JPEG: a photograph repeated and mirrored, so that tiles differ and seams do not."""
    folder.mkdir(parents=True, exist_ok=True)
    side = round((megapixels * 1e6) ** 0.5)
    with as_file(files("skimage") / "data") as source:
        pixels = np.array(Image.open(source / "retina.jpg").convert("RGB"))
    pad = [(0, max(0, side - n)) for n in pixels.shape[:2]]
    Image.fromarray(np.pad(pixels, [*pad, (0, 0)], mode="symmetric")[:side, :side]).save(folder / "large.jpg", quality=90)


def compress(name: str, folder: Path, count: int) -> Peaks:
    """Compress ``folder``/photos and watch.

    Raises:
        SystemExit: the job failed, or did not code or store every picture.
    """
    report, found = watch(name, ["jobs.compress", str(folder / "photos"), str(folder / "archive"), "--json"], folder, count)
    outcomes = report["tally"]["images"]
    if sum(outcomes.values()) != count or outcomes.get("failed"):
        raise SystemExit(f"{count} pictures, but the outcomes are {outcomes}")
    return found


def evaluate(name: str, folder: Path, count: int) -> Peaks:
    """Evaluate ``folder``/photos and watch.

    Raises:
        SystemExit: the job failed, or did not measure every picture.
    """
    report, found = watch(name, ["jobs.evaluate", str(folder / "photos"), *EVALUATION, "--json"], folder, count)
    if report["tally"]["images"] != {"measured": count}:
        raise SystemExit(f"{count} pictures, but the outcomes are {report['tally']['images']}")
    return found


def watch(name: str, words: list[str], folder: Path, count: int) -> tuple[dict[str, Any], Peaks]:
    """Run ``python -m`` with these words; returns its report and the peaks of its processes."""
    output = folder / "report.json"
    peaks: dict[str, int] = defaultdict(int)
    begin = time.perf_counter()
    with output.open("wb") as file, subprocess.Popen([sys.executable, "-m", *words], stdout=file) as process:
        while process.poll() is None:
            for role, size in _sizes(process.pid):
                peaks[role] = max(peaks[role], size)
            time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"the job on {name} ended with {process.returncode}")
    found = Peaks(name, count, peaks["driver"], peaks["actor"], seconds)
    print(found, file=sys.stderr)
    return json.loads(output.read_text()), found


def _sizes(driver: int) -> Iterator[tuple[str, int]]:
    """(role, bytes) of the driver and of every Ray worker process below it."""
    yield "driver", _memory(driver)
    for pid in _below(driver):
        if _command(pid).startswith("ray::"):
            yield "actor", _memory(pid)


def _below(root: int) -> list[int]:
    """All descendants of a process."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children[_parent(int(entry.name))].append(int(entry.name))
    found = list(children[root])
    for pid in found:
        found += children[pid]
    return found


def _parent(pid: int) -> int:
    """0 where the process is gone."""
    stat = _read(pid, "stat")
    return int(stat.rpartition(")")[2].split()[1]) if stat else 0


def _command(pid: int) -> str:
    return _read(pid, "cmdline")


def _memory(pid: int) -> int:
    sizes = {line.partition(":")[0]: line.split() for line in _read(pid, "smaps_rollup").splitlines()}
    if "Pss" not in sizes:
        return 0
    shared = int(sizes["Pss_Shmem"][1]) if "Pss_Shmem" in sizes else 0
    return (int(sizes["Pss"][1]) - shared) << 10


def _read(pid: int, name: str) -> str:
    """Empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def report(found: list[Peaks]) -> dict[str, Any]:
    """Peaks, the growth from few to many, and what they were measured on."""
    few, many, *large = found
    return {
        "jobs": [asdict(one) for one in found],
        "growth": {"driver": many.driver / few.driver, "actor": many.actor / few.actor},
        "large_bytes": sum(one.driver + one.actor for one in large),
        "targets": {"growth": TARGET_GROWTH, "large_bytes": TARGET_LARGE_BYTES},
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        **hardware(),
    }


def table(found: list[Peaks]) -> str:
    result = report(found)
    lines = [f"{'job':<16} {'images':>8} {'driver MiB':>11} {'actor MiB':>10} {'seconds':>8} {'images/s':>9}"]
    lines += [
        f"{one.name:<16} {one.images:8} {one.driver / 2**20:11.0f} {one.actor / 2**20:10.0f} {one.seconds:8.1f} "
        f"{one.images / one.seconds:9.1f}"
        for one in found
    ]
    growth = result["growth"]
    lines.append(f"many ÷ few: driver {growth['driver']:.2f}, actor {growth['actor']:.2f} (target ≤ {TARGET_GROWTH:g})")
    if len(found) > 2:
        lines.append(
            f"large: driver + actor {result['large_bytes'] / 2**30:.2f} GiB (target < {TARGET_LARGE_BYTES / 2**30:g} GiB)"
        )
    return "\n".join([*lines, f"{result['hardware']}; {result['software']}"])


if __name__ == "__main__":
    main()
