"""How soon `cnnbatch serve` shows pictures: a folder that nobody looked at before, and tiles of a large picture.

The server is the command itself in a process of its own, asked over HTTP by six connections, as many as a browser opens:

- start: from the command until its indexes are read
- folder: its first page of 200 photographs of 0.8 MP, then the thumbnail of each, every cache of the server empty. A fresh
  server for each round; the median counts
- tiles: different tiles of 512² of one large picture, one after the other, at full size and at every reduction, drafts and of
  the full decoder; the server has shown another tile of each before

    python -m benchmarks.serve [--images 200] [--megapixels 100] [--rounds 3] [--folder DIR] [--json]
"""

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np

import cnnbatch
from benchmarks.hardware import hardware
from benchmarks.job_overhead import make_photographs
from benchmarks.memory import make_large

CONNECTIONS = 6
SCREEN = 30
"""Thumbnails of a first screen."""

SIDES = {"screen": 256, "dense screen": 512}
TILE = 512
TILES = 40
PATIENCE_SECONDS = 60.0
TARGETS = {"folder_seconds": 2.0, "tile_seconds": 0.3}


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of single answers, of all of them together, and of processor time that the server took for them."""

    name: str
    answers: int
    total: float
    processor: float
    p50: float
    p95: float
    most: float

    @classmethod
    def of(cls, name: str, seconds: Sequence[float], total: float, processor: float) -> "Times":
        p50, p95 = np.percentile(seconds, [50, 95])
        return cls(name, len(seconds), total, processor, float(p50), float(p95), max(seconds))


@dataclass(frozen=True, slots=True)
class Client:
    """Asks a server over connections that are kept, one in each thread."""

    host: str
    port: int
    process: int
    local: threading.local = field(default_factory=threading.local)

    def get(self, path: str) -> bytes:
        """Raises SystemExit for any answer but 200."""
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_SECONDS)
        self.local.connection.request("GET", path)
        response = self.local.connection.getresponse()
        body: bytes = response.read()
        if response.status != 200:
            raise SystemExit(f"{path} was answered with {response.status}: {body[:200]!r}")
        return body

    def processor(self) -> float:
        """Seconds of processor time that the server has taken."""
        words = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")

    def seconds(self, path: str) -> float:
        """Until the whole answer is there."""
        begin = time.perf_counter()
        self.get(path)
        return time.perf_counter() - begin


def main() -> None:
    numbers = {
        "images": (200, "photographs in the folder"),
        "megapixels": (100, "of the large picture"),
        "rounds": (3, "servers for the folder"),
    }
    run_benchmark(__doc__, numbers, benchmark, table)


def benchmark(folder: Path, numbers: Mapping[str, int]) -> dict[str, Any]:
    archive = make_archive(folder, numbers["images"], numbers["megapixels"])
    return measure(archive, images=numbers["images"], rounds=numbers["rounds"]) | {"megapixels": numbers["megapixels"]}


def run_benchmark(
    description: str | None,
    numbers: Mapping[str, tuple[int, str]],
    benchmark: Callable[[Path, Mapping[str, int]], dict[str, Any]],
    table: Callable[[dict[str, Any]], list[str]],
) -> None:
    """The command of a benchmark of the server: ``numbers`` are its options; prints what ``benchmark`` measures in a folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, help) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{help} (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the archive is made, or lies from the last time")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as temporary:
        result = benchmark(options["folder"] or Path(temporary), {name: options[name] for name in numbers}) | hardware()
    lines = [*table(result), f"{result['hardware']}; {result['software']}"]
    print(json.dumps(result, indent=2) if options["json"] else "\n".join(lines))


def make_archive(folder: Path, images: int, megapixels: int) -> Path:
    """An archive of ``folder/…`` and ``large.jpg``; one that lies there is taken as it is."""
    archive = folder / "photos"
    if archive.exists():
        return archive
    make_photographs(folder / "source/folder", images)
    make_large(folder / "source", megapixels)
    with cnnbatch.create(archive) as writer:
        for path in sorted((folder / "source").rglob("*.jpg")):
            writer.add(path.relative_to(folder / "source").as_posix(), path.read_bytes())
    return archive


def measure(archive: Path, *, images: int, rounds: int) -> dict[str, Any]:
    """Everything in turn, with servers of its own."""
    starts: list[float] = []
    folders: dict[str, list[Times]] = {}
    screens: list[float] = []
    for name, side in SIDES.items():
        for _ in range(rounds):
            with serving(archive) as (client, start):
                times, screen = ask_folder(client, side, images)
            starts.append(start)
            folders.setdefault(name, []).append(times)
            screens += [screen] if side == min(SIDES.values()) else []
    with serving(archive) as (client, _):
        tiles = [asdict(one) for one in ask_tiles(client)]
    return {
        "start_seconds": statistics.median(starts),
        "screen_seconds": statistics.median(screens),
        "folders": {name: asdict(sorted(found, key=lambda one: one.total)[len(found) // 2]) for name, found in folders.items()},
        "tiles": tiles,
        "targets": TARGETS,
    }


@contextmanager
def serving(archive: Path) -> Iterator[tuple[Client, float]]:
    """The command's server, and the seconds until it was ready."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "cnnbatch", "serve", str(archive), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = urlsplit(process.stderr.readline().strip())
            client = Client(str(address.hostname), int(address.port or 0), process.pid)
            wait_until(lambda: json.loads(replace(client, local=threading.local()).get("/healthz"))["ready"])
            yield client, time.perf_counter() - begin
        finally:
            process.send_signal(signal.SIGTERM)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Raises SystemExit where it does not become so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(SystemExit, OSError):
            if is_so():
                return
        time.sleep(0.05)
    raise SystemExit(f"the server was not ready after {PATIENCE_SECONDS:g} s")


def ask_folder(client: Client, side: int, images: int) -> tuple[Times, float]:
    """The page and all thumbnails of it, in order, and the seconds until those of the first screen are there."""
    begin, processor = time.perf_counter(), client.processor()
    found = json.loads(client.get(f"/api/photos/pictures?{urlencode({'folder': 'folder/', 'limit': 200})}"))
    if found["total"] != images:
        raise SystemExit(f"the folder has {found['total']} pictures, expected {images}")
    paths = [f"/a/photos/thumb?{urlencode({'key': one['key'], 'side': side, 'v': one['v']})}" for one in found["pictures"]]
    arrived: list[float] = []

    def ask(path: str) -> float:
        seconds = client.seconds(path)
        arrived.append(time.perf_counter() - begin)
        return seconds

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        seconds = list(pool.map(ask, paths))
    arrived.sort()
    return Times.of(f"{side}", seconds, arrived[-1], client.processor() - processor), arrived[min(SCREEN, len(arrived)) - 1]


def ask_tiles(client: Client) -> Iterator[Times]:
    """Tiles at random places, each asked for once."""
    places = np.random.default_rng(0)
    for view, name in (("", "draft"), ("~full", "full decoder")):
        base = f"/iiif/photos{view}/large.jpg"
        info = json.loads(client.get(f"{base}/info.json"))
        for by in info["tiles"][0]["scaleFactors"]:
            if view and by > 1:
                continue  # reduced pictures are the same
            across, down = (max(1, info[side] // (TILE * by)) for side in ("width", "height"))
            chosen = places.permutation(across * down)[: TILES + 1].tolist()
            side = TILE * by
            paths = [f"{base}/{n % across * side},{n // across * side},{side},{side}/{TILE},/0/default.jpg" for n in chosen]
            if len(paths) < 2:
                continue
            client.get(paths[0])
            begin, processor = time.perf_counter(), client.processor()
            seconds = [client.seconds(path) for path in paths[1:]]
            yield Times.of(f"{name}, 1/{by}", seconds, time.perf_counter() - begin, client.processor() - processor)


def table(result: dict[str, Any]) -> list[str]:
    def line(name: str, one: dict[str, Any]) -> str:
        times = " ".join(f"{one[part]:7.3f}" for part in ("p50", "p95", "most"))
        return f"{name:32} {one['answers']:7} {one['total']:8.2f} {one['processor']:7.2f} {times}"

    lines = [f"{'':32} answers  total s   CPU s   p50 s   p95 s   most s"]
    lines += [line(f"cold folder, {name}", one) for name, one in result["folders"].items()]
    lines += [line(f"tile of {result['megapixels']} MP, {one['name']}", one) for one in result["tiles"]]
    lines.append(
        f"cold folder {result['folders']['screen']['total']:.2f} s (target ≤ {TARGETS['folder_seconds']:g} s), "
        f"its first {SCREEN} thumbnails {result['screen_seconds']:.2f} s; "
        f"warm tile p95 {result['tiles'][0]['p95']:.3f} s (target ≤ {TARGETS['tile_seconds']:g} s); "
        f"started in {result['start_seconds']:.1f} s"
    )
    return lines


if __name__ == "__main__":
    main()
