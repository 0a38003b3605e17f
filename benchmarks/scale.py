"""The price of planning a night over an archive of N images: time, memory and disk of the driver, and the log's real size.

Source and archive are made up (`benchmarks.synthetic`), everything else is what a run does. Each step runs in a process of
its own, so that its memory is its own:

- parse: pages of ListObjectsV2 as S3 sends them, through the client's parser
- read: the columns that a diff needs, out of real Parquet shards of 10⁶ images at most; grows with the shards
- quiet: a whole night of `jobs.nightly` over a real archive in which nothing changed; reads no image. Its driver and its Ray
  are apart. Compaction is off: the made-up shards are small, and would all be merged
- night: diff and plan where 5 of 1000 images are new, 5 changed and 2 vanished; the rows of the archive are made up, as
  `read` measures the reading
- first: diff and plan of an empty archive, when every image is new
- log: a Delta log of as many shards: its size, the time and memory to open it and to commit

    python -m benchmarks.scale [--keys 1000000] [--steps parse,read,quiet,night,first,log] [--memory-mib 256] [--folder DIR]
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
import pyarrow as pa

from benchmarks.hardware import hardware
from benchmarks.synthetic import (
    PAGE_KEYS,
    QUIET,
    SHARD_ROWS,
    Night,
    SyntheticSource,
    archived_tables,
    make_archive,
    make_log,
    page_of,
    write_shard,
)  # fmt: skip
from cnnbatch.archive import ArchiveLog, LiveShard
from cnnbatch.spill import Scratch
from cnnbatch.stages.difference import ArchivedRows, compare
from cnnbatch.stages.listing import Scan
from cnnbatch.stages.plan import ShardLimits, plan_shards
from cnnbatch.storage import StorageConfig, open_store
from cnnbatch.storage.local import LocalStore
from cnnbatch.storage.s3_listing import _parse_page
from jobs import compress, nightly
from jobs.night.settings import NightlyConfig
from jobs.settings import Shards

PARSED_PAGES = 200
READ_KEYS = 1_000_000
COMMITS = 5
TARGETS = {"plan_seconds_1e8": 3600, "plan_bytes_1e8": 8e9, "quiet_seconds_1e6": 120, "quiet_bytes_1e6": 1e9}


@dataclass(slots=True)
class Clock:
    """Wall and CPU seconds of phases, and the peak of the process's memory when each ended."""

    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    _wall: float = field(default_factory=time.perf_counter)
    _cpu: float = field(default_factory=time.process_time)

    def end(self, name: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        self.phases[name] = {"seconds": wall - self._wall, "cpu_seconds": cpu - self._cpu, "peak_bytes": peak}
        self._wall, self._cpu = wall, cpu

    def ending(self, name: str, items: Iterable[pa.Table]) -> Iterator[pa.Table]:
        yield from items
        self.end(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000, help="images (default %(default)s)")
    parser.add_argument("--steps", default="parse,read,quiet,night,first,log", help="some of them (default all)")
    parser.add_argument("--memory-mib", type=int, default=256, help="planning.memory_bytes of the run (default %(default)s)")
    parser.add_argument("--folder", help="where archives and scratch go; kept, and used again (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        result = {step: _in_child(step, options, folder) for step in options.steps.split(",")}
    document = {"keys": options.keys, "memory_mib": options.memory_mib, **result, "targets": TARGETS, **hardware()}
    print(json.dumps(document, indent=2) if options.json else table(document))


def _in_child(step: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The step's result; its archive is made first, by another process.

    Raises:
        SystemExit: the step failed.
    """
    keys = min(options.keys, READ_KEYS) if step == "read" else options.keys
    archive = folder / f"{'log' if step == 'log' else 'archive'}-{keys}"
    words = [str(keys), str(archive), str(folder), str(options.memory_mib << 20)]
    command = [sys.executable, "-c", "import sys; from benchmarks import scale; scale.run_step(*sys.argv[1:])"]
    if step in MAKERS and not (archive / "made.json").exists():
        subprocess.run([*command, MAKERS[step], *words], stdout=sys.stderr, check=True)  # stdout is the result
    ended = subprocess.run([*command, step, *words], stdout=subprocess.PIPE, check=False)
    if ended.returncode:
        raise SystemExit(f"the step {step} ended with {ended.returncode}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(step, json.dumps(found), file=sys.stderr)
    return found


def run_step(step: str, keys: str, archive: str, folder: str, memory_bytes: str) -> None:
    """In the child: prints the step's result as JSON."""
    logging.disable(logging.INFO)
    print(json.dumps(STEPS[step](int(keys), Path(archive), Path(folder), int(memory_bytes))))


def make(keys: int, archive: Path, folder: Path, memory_bytes: int, *, maker: Callable[..., list[float]]) -> dict[str, Any]:
    """The archive for the other steps; the seconds of its commits stay with it."""
    (archive / "made.json").write_text(json.dumps({"commit_seconds": maker(archive, keys, QUIET)}))
    return {}


def parse(keys: int, archive: Path, folder: Path, memory_bytes: int) -> dict[str, Any]:
    """Time of the client's parser for a page of 1000 keys."""
    infos = page_of(np.arange(PAGE_KEYS), QUIET)
    items = "".join(
        f"<Contents><Key>{info.key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{info.etag}&quot;"
        f"</ETag><Size>{info.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for info in infos
    )
    page = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}</ListBucketResult>'.encode()
    begin = time.process_time()
    for _ in range(PARSED_PAGES):
        parsed: dict[str, Any] = {}
        _parse_page({"status_code": 200, "body": page}, parsed)
    seconds = time.process_time() - begin
    if len(parsed["CnnbatchObjects"]) != PAGE_KEYS:
        raise SystemExit("the page was not parsed")
    pages = -(-keys // PAGE_KEYS)
    milliseconds = seconds / PARSED_PAGES * 1e3
    return {
        "pages": pages,
        "page_bytes": len(page),
        "cpu_ms_a_page": milliseconds,
        "cpu_seconds_all": milliseconds / 1e3 * pages,
    }


def read(keys: int, archive: Path, folder: Path, memory_bytes: int) -> dict[str, Any]:
    """The archive's columns out of its shards."""
    log = ArchiveLog.open(str(archive))
    shards = log.snapshot().shards
    clock, requests = Clock(), []
    plain = LocalStore.read_range
    with mock.patch.object(LocalStore, "read_range", lambda *args: requests.append(1) or plain(*args)):
        rows = sum(table.num_rows for table in ArchivedRows(log.store, shards))
    clock.end("read")
    if rows != keys:
        raise SystemExit(f"{rows} rows read, there are {keys}")
    milliseconds = clock.phases["read"]["cpu_seconds"] * 1e3 / len(shards)
    return {
        "phases": clock.phases,
        "shards": len(shards),
        "cpu_ms_a_shard": milliseconds,
        "requests_a_shard": len(requests) / len(shards),
    }


def quiet(keys: int, archive: Path, folder: Path, memory_bytes: int) -> dict[str, Any]:
    """A night, its source's listing made up.

    Raises:
        SystemExit: it failed, or found something to do.
    """
    source, empty = SyntheticSource(keys, QUIET), folder / "empty"
    empty.mkdir(exist_ok=True)
    entry = {"source": str(empty), "archive": str(archive)}
    settings = {"archives": [entry], "planning": _planning(folder, memory_bytes), "compact": False}
    clock = Clock()
    with mock.patch.object(compress, "open_store", partial(_open_but, str(empty), source)), RayMemory() as memory:
        quiet_night = nightly.Night(NightlyConfig.model_validate(settings))
        clock.end("start")
        code = quiet_night.execute()
        clock.end("night")
    [report] = quiet_night.report.archives
    steps = {step.name: step for step in report.steps}
    if code or steps["diff"].figures["unchanged"] != keys or report.images:
        raise SystemExit(f"a quiet night ended with {code}, or found something to do: {quiet_night.report.to_json()}")
    return {
        "phases": clock.phases,
        "listing_made_up_cpu_seconds": source.seconds,
        "ray_peak_bytes": memory.peak,
        "verified_shards": steps["verify"].figures["of_the_old_shards"],
        **{f"{name}_seconds": step.seconds for name, step in steps.items()},
    }


def _open_but(url: str, source: SyntheticSource, opened: str, config: StorageConfig | None = None) -> Any:
    return source if opened == url else open_store(opened, config)


class RayMemory:
    """The most memory that the processes below this one took at a time, shared pages counted once; for a ``with`` block."""

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(1):
            self.peak = max(self.peak, sum(map(_pss_bytes, descendants(os.getpid()))))


def descendants(pid: int) -> list[int]:
    """Processes that this one started, and those that they did."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # ended meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _pss_bytes(pid: int) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return 0


def night(keys: int, archive: Path, folder: Path, memory_bytes: int, *, fresh: bool = False) -> dict[str, Any]:
    """Listing, archive, difference and plan, as `CompressJob` does it.

    Raises:
        SystemExit: the counts are not those of the source.
    """
    clock, fate = Clock(), Night()
    shards = () if fresh else [LiveShard("", 0, SHARD_ROWS, "", "")] * -(-keys // SHARD_ROWS)
    source = SyntheticSource(keys, fate)
    scan = Scan(source)  # type: ignore[arg-type]
    planning = _planning(folder, memory_bytes)
    with Scratch(planning["folder"], memory_bytes=memory_bytes) as scratch:
        rows = () if fresh else archived_tables(keys, fate)
        found = compare(
            scratch,
            clock.ending("listing", scan),
            clock.ending("archive", rows),
            num_shards=len(shards),
            hides=scan.hides,
        )
        clock.end("difference")
        limits = ShardLimits(Shards().source_bytes, Shards().images)
        plan = plan_shards(scratch, found, limits, shards=shards)
        clock.end("plan")
        used = sum(path.stat().st_size for path in Path(scratch.path()).parent.iterdir())
    counts = {"unchanged": found.unchanged, "new": found.new, "changed": found.changed, "vanished": found.vanished}
    if counts != _expected(keys, fate, fresh=fresh):
        raise SystemExit(f"wrong: {counts}, expected {_expected(keys, fate, fresh=fresh)}")
    return {
        "phases": clock.phases,
        "listing_made_up_cpu_seconds": source.seconds,
        **counts,
        "archive_shards": len(shards),
        "planned_shards": plan.num_shards,
        "scratch_bytes": used,
    }


def _expected(keys: int, fate: Night, *, fresh: bool) -> dict[str, int]:
    drawn = {"unchanged": 0, "new": 0, "changed": 0, "vanished": 0}
    for start in range(0, keys, 1_000_000):
        names, counts = np.unique(fate.fate(np.arange(start, min(start + 1_000_000, keys))), return_counts=True)
        for name, count in zip(names.tolist(), counts.tolist(), strict=True):
            drawn[name] += count
    if fresh:
        return {"unchanged": 0, "new": keys - drawn["vanished"], "changed": 0, "vanished": 0}
    return drawn


def log(keys: int, archive: Path, folder: Path, memory_bytes: int) -> dict[str, Any]:
    """The log as the commits have left it, then `COMMITS` more of one shard each."""
    files = {path.name: path.stat().st_size for path in (archive / "_delta_log").iterdir() if path.is_file()}
    checkpoints = sorted(name for name in files if name.endswith(".checkpoint.parquet"))
    clock = Clock()
    opened = ArchiveLog.open(str(archive))
    clock.end("open")
    base = opened.snapshot()
    clock.end("snapshot")
    for number in range(COMMITS):
        opened.commit(f"log-{os.getpid()}", number, [write_shard(archive, keys + SHARD_ROWS, QUIET, keys)], base=base)
        keys += SHARD_ROWS
    clock.end("commits")
    made = json.loads((archive / "made.json").read_text())["commit_seconds"]
    return {
        "phases": clock.phases,
        "shards": len(base.shards),
        "version": base.version,
        "log_files": len(files),
        "log_bytes": sum(files.values()),
        "checkpoint_bytes": files[checkpoints[-1]] if checkpoints else 0,
        "seconds_a_commit": clock.phases["commits"]["seconds"] / COMMITS,
        "seconds_a_commit_of_500": made[-1],
    }


def _planning(folder: Path, memory_bytes: int) -> dict[str, Any]:
    return {"memory_bytes": memory_bytes, "folder": str(folder)}


STEPS: dict[str, Callable[[int, Path, Path, int], dict[str, Any]]] = {
    "parse": parse,
    "make": partial(make, maker=make_archive),
    "read": read,
    "quiet": quiet,
    "night": night,
    "first": partial(night, fresh=True),
    "make-log": partial(make, maker=make_log),
    "log": log,
}
MAKERS = {"read": "make", "quiet": "make", "log": "make-log"}


def table(document: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{document['keys']:,} keys, planning.memory_bytes {document['memory_mib']} MiB"]
    lines += [f"{'step':<7} {'phase':<11} {'seconds':>9} {'CPU s':>9} {'peak MiB':>9}"]
    for step in STEPS:
        found = document.get(step, {})
        lines += [
            f"{step:<7} {name:<11} {phase['seconds']:9.1f} {phase['cpu_seconds']:9.1f} {phase['peak_bytes'] / 2**20:9.0f}"
            for name, phase in found.get("phases", {}).items()
        ]
        others = {name: value for name, value in found.items() if name != "phases"}
        if others:
            lines.append(f"{step:<7} " + ", ".join(f"{name} {_shown(value)}" for name, value in others.items()))
    return "\n".join([*lines, f"{document['hardware']}; {document['software']}"])


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


if __name__ == "__main__":
    main()
