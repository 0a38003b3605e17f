"""A power cut on a local disk, simulated: what was not synced when the process died is torn or gone.

A file keeps what it had when it was last synced, or when the run began; of anything written since, an arbitrary part is
left. A name that was made since its folder was last synced may be gone. (A deletion that was not synced is not undone.)
"""

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Synced:
    """The state of the disk before the run: inodes with their sizes, and the names in each folder."""

    files: Mapping[int, int]
    folders: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, root: Path) -> Self:
        paths = [root, *root.rglob("*")]
        files = {path.stat().st_ino: path.stat().st_size for path in paths if path.is_file()}
        folders = {str(path): frozenset(entry.name for entry in path.iterdir()) for path in paths if path.is_dir()}
        return cls(files, folders)


def cut(root: Path, before: Synced, journal: Path, rng: random.Random) -> int:
    """Tear and drop below ``root`` what neither ``before`` nor the journal of `tests.kill.points.Disk` calls synced.

    Returns the highest version of the log that was reported as durable, -1 for none.
    """
    found = json.loads(journal.read_text())
    files = {**before.files, **{int(inode): size for inode, size in found["files"].items()}}
    for path in sorted(root.rglob("*"), reverse=True):
        names = set(before.folders.get(str(path.parent), ())) | set(found["folders"].get(str(path.parent), ()))
        if path.is_dir():
            if path.name not in names and rng.random() < 0.5 and not any(path.iterdir()):
                path.rmdir()
        elif path.name not in names and rng.random() < 0.5:
            path.unlink()
        else:
            _tear(path, files.get(path.stat().st_ino), rng)
    return int(found["version"])


def _tear(path: Path, synced: int | None, rng: random.Random) -> None:
    size = path.stat().st_size
    if synced != size:
        os.truncate(path, rng.choice((0, rng.randint(0, size), size)))
