"""`cnnbatch serve` over a million pictures: its start, its memory, and how long a page, a search and a jump take.

The archive's shards are real and its rows are whole; the bitstreams of a few small photographs repeat under all keys, which
saves an hour of encoding and costs nothing here: no picture is decoded twice, as every row has an identity of its own. Folders
are days of ten years. Each question is asked once, and then once more, of what is kept.

    python -m benchmarks.serve_scale [--pictures 1000000] [--folder DIR] [--json]
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image

import cnnbatch
from benchmarks.photographs import copy_photographs
from benchmarks.serve import Client, run_benchmark, serving
from cnnbatch.archive import ArchiveLog, ArchiveRow, ShardInfo
from cnnbatch.archive.shards import write_shard
from cnnbatch.codec import Codec
from cnnbatch.storage import open_store

SIZE = (96, 72)
SHARD_ROWS = 2000
SHARDS_A_COMMIT = 100
DAYS = 3650
FIRST_DAY = datetime(2015, 1, 1, tzinfo=UTC)
WORKERS = 2


def main() -> None:
    run_benchmark(__doc__, {"pictures": (1_000_000, "pictures in the archive")}, benchmark, table)


def benchmark(folder: Path, numbers: Mapping[str, int]) -> dict[str, Any]:
    return measure(make_archive(folder, numbers["pictures"]), numbers["pictures"])


def make_archive(folder: Path, pictures: int) -> Path:
    """``folder/photos`` with as many pictures; one that lies there is taken as it is."""
    archive = folder / "photos"
    if archive.exists():
        return archive
    with tempfile.TemporaryDirectory() as few:
        rows = small_rows(Path(few))
        log = ArchiveLog.create_or_open(str(archive), codec_files=[Codec.load(lazy=True).data])
    starts = range(0, pictures, SHARD_ROWS)
    with ProcessPoolExecutor(WORKERS) as pool:
        shards = list(pool.map(partial(make_shard, str(archive), rows, pictures), starts, chunksize=10))
    for number, first in enumerate(range(0, len(shards), SHARDS_A_COMMIT)):
        log.commit("scale", number, shards[first : first + SHARDS_A_COMMIT])
    return archive


def small_rows(folder: Path) -> list[ArchiveRow]:
    """The photographs of scikit-image, made small and archived."""
    with cnnbatch.create(folder / "few") as writer:
        for path in copy_photographs(folder / "source"):
            writer.add(path.name, Image.open(path).convert("RGB").resize(SIZE))
    return [picture.row for picture in cnnbatch.open(folder / "few").values()]


def make_shard(archive: str, rows: list[ArchiveRow], pictures: int, start: int) -> ShardInfo:
    """The shard of the pictures from number ``start`` on."""
    numbers = range(start, min(start + SHARD_ROWS, pictures))
    return write_shard(open_store(archive), [row_of(rows, number, pictures) for number in numbers], footer={})


def row_of(rows: list[ArchiveRow], number: int, pictures: int) -> ArchiveRow:
    """One of ``rows`` under the key, time, size and quality of a picture."""
    day = FIRST_DAY + timedelta(days=number * DAYS // pictures)
    return replace(
        rows[number % len(rows)],
        key=f"{day:%Y/%m/%d}/IMG_{number:07}.jpg",
        source_mtime=day + timedelta(seconds=number % 86400),
        source_size=30_000 + number * 7919 % 540_000,
        psnr_db=30 + number * 31 % 1200 / 100,
    )


def questions(pictures: int) -> Iterator[tuple[str, str]]:
    """Yields a visitor's questions, each with its path."""
    page = "/api/photos/pictures?"
    yield "first page", page + urlencode({"limit": 200})
    yield "the middle", page + urlencode({"limit": 200, "offset": pictures // 2})
    yield "one folder", page + urlencode({"limit": 200, "folder": "2020/"})
    yield "folders of a folder", "/api/photos/folders?folder=2020%2F"
    yield "search by a glob", page + urlencode({"limit": 200, "glob": "2019/*/IMG_*77.jpg"})
    yield "search by a word", page + urlencode({"limit": 200, "glob": "img_0123"})
    yield "PSNR and date", page + urlencode({"limit": 200, "psnr_min": 35, "since": "2018-01-01"})
    yield "all by PSNR", page + urlencode({"limit": 200, "sort": "psnr", "descending": 1})
    yield "a condition on fields", page + urlencode({"limit": 200, "where": "width > 90 and psnr_db < 31"})
    yield "dashboard", "/api/photos/figures"
    yield "manifest", "/presentation/photos/2020%2F/1/manifest.json"


def measure(archive: Path, pictures: int) -> dict[str, Any]:
    """Start, memory, and every question twice."""
    with serving(archive) as (client, start):
        started = memory_bytes(client)
        asked = {}
        for name, path in questions(pictures):
            asked[name] = (client.seconds(path), client.seconds(path))
        listed = json.loads(client.get(f"/api/photos/pictures?{urlencode({'offset': pictures // 2, 'limit': 200})}"))
        if listed["total"] != pictures:
            raise SystemExit(f"there are {listed['total']} pictures, expected {pictures}")
        thumbnails = [
            client.seconds(f"/a/photos/thumb?{urlencode({'key': one['key'], 'v': one['v']})}") for one in listed["pictures"]
        ]
        return {
            "pictures": pictures,
            "start_seconds": start,
            "memory_bytes_started": started,
            "memory_bytes_after": memory_bytes(client),
            "asked_seconds": asked,
            "thumbnail_seconds": dict(zip(("p50", "p95"), np.percentile(thumbnails, [50, 95]).tolist(), strict=True)),
        }


def memory_bytes(client: Client) -> int:
    """Memory of the server that is its own, without libraries that others map."""
    lines = Path(f"/proc/{client.process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))


def table(result: dict[str, Any]) -> list[str]:
    lines = [f"{'':24} once s  again s"]
    lines += [f"{name:24} {once:6.3f} {again:8.3f}" for name, (once, again) in result["asked_seconds"].items()]
    lines.append(
        f"{result['pictures']:,} pictures: ready in {result['start_seconds']:.1f} s, "
        f"{result['memory_bytes_started'] / 2**20:.0f} MiB, in the end {result['memory_bytes_after'] / 2**20:.0f} MiB; "
        f"a thumbnail p50 {result['thumbnail_seconds']['p50']:.3f} s, p95 {result['thumbnail_seconds']['p95']:.3f} s"
    )
    return lines


if __name__ == "__main__":
    main()
