"""Runs jobs in a mount namespace of their own, where a disk may be full or read-only: the process of `test_faults_local`.

    unshare --mount python -m tests.faults.contained FOLDER

FOLDER/source has pictures; for each scenario FOLDER/disk becomes a small disk. Prints what each run ended with, as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from jobs import compress, engine, reconstruct, verify
from jobs.command import run_command
from tests.faults.conftest import CODEC, SETTINGS
from tests.jobs.conftest import run_inline

FULL_AT_KIB = (100, 148, 160, 172, 184, 196)
"""Sizes at which the disk is full in another step each: codec file, table, shard, commit, report."""

ROOMY = "size=64m,nr_inodes=10000"
Ended = tuple[int, str]


class Disk:
    """A file system in memory, of the size that the scenario wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "disk" / "archive"

    def mount(self, options: str) -> None:
        self._call("-t", "tmpfs", "-o", options, "tmpfs")

    def remount(self, options: str) -> None:
        self._call("-o", f"remount,{options}")

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder / "disk")], check=True)

    def _call(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.folder / "disk")], check=True)

    def compress(self) -> Ended:
        return call(compress.main, self.folder / "source", self.archive, "--codec", CODEC, *SETTINGS)

    def reconstruct(self) -> Ended:
        return call(reconstruct.main, self.archive, self.folder / "disk" / "back", "workers.pauses_seconds=[0.1]")

    def verify(self) -> Ended:
        return call(verify.main, self.archive, "--source", self.folder / "source", "--level", "source")


def call(main: Callable[[list[str]], int], *words: object) -> Ended:
    """A command's exit code, and its last line on stderr; a traceback is what it is."""
    stderr = StringIO()
    with redirect_stderr(stderr), redirect_stdout(StringIO()):
        code = run_command(main, [str(word) for word in words])
    return code, (stderr.getvalue().strip().splitlines() or [""])[-1]


def full(disk: Disk, *, options: str) -> list[Ended]:
    """Too small for the archive, then roomy."""
    disk.mount(options)
    ended = disk.compress()
    disk.remount(ROOMY)
    return [ended, disk.compress(), disk.verify()]


def read_only(disk: Disk) -> list[Ended]:
    """Read-only from the first finished shard on, then from the start, then writable."""
    disk.mount(ROOMY)

    def run_then_lock(tasks: Iterable[Any], build: Callable[[], Any], pool: engine.Pool) -> Iterator[Any]:
        for number, result in enumerate(run_inline(tasks, build, pool)):
            yield result
            if number == 0:
                disk.remount("ro")

    engine.run = run_then_lock  # type: ignore[assignment]
    in_the_middle = disk.compress()
    engine.run = run_inline
    from_the_start = disk.compress()
    disk.remount("rw")
    return [in_the_middle, from_the_start, disk.compress(), disk.verify()]


def full_destination(disk: Disk) -> list[Ended]:
    """Room for the archive and not for what it gives back."""
    disk.mount(ROOMY)
    before = disk.compress()
    used = sum(path.stat().st_blocks for path in (disk.folder / "disk").rglob("*")) // 2
    disk.remount(f"size={used + 24}k")
    ended = disk.reconstruct()
    disk.remount(ROOMY)
    return [before, ended, disk.reconstruct()]


SCENARIOS: dict[str, Callable[[Disk], list[Ended]]] = {
    **{f"full at {size} KiB": partial(full, options=f"size={size}k") for size in FULL_AT_KIB},
    "no inodes": partial(full, options="size=8m,nr_inodes=20"),
    "read-only": read_only,
    "full destination": full_destination,
}


def main(folder: Path) -> None:
    engine.connect = lambda: None
    engine.size_pool = lambda workers: engine.Pool(1, 1, 2, 0, 0, workers.pauses_seconds)  # type: ignore[assignment]
    engine.run = run_inline
    from cnnbatch.archive import log

    log.COMMIT_SECONDS = 2.0
    (folder / "disk").mkdir()
    found = {}
    for name, scenario in SCENARIOS.items():
        disk = Disk(folder)
        found[name] = scenario(disk)
        disk.unmount()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
