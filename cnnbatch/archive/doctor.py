"""What is wrong with an archive's log and files, and what of it can be mended without losing a row.

A power cut can tear what a local disk had not written yet: the last commit, or a checkpoint. A torn last commit was never
reported as done, and a checkpoint only repeats commits, so both may go; they are moved to ``_cnnbatch/quarantine/``.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.layout import read_format
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.orphans import DATA, GRACE, Orphan, faults_of_shards, find_orphans
from cnnbatch.errors import ArchiveError
from cnnbatch.storage import StorageConfig, Store

LOG: Final = "_delta_log"
LAST_CHECKPOINT: Final = f"{LOG}/_last_checkpoint"
QUARANTINE: Final = "_cnnbatch/quarantine"
_COMMIT = re.compile(rf"{LOG}/(\d{{20}})\.json")
_CHECKPOINT = re.compile(rf"{LOG}/(\d{{20}})\.checkpoint(?:\.[0-9.]+)?\.parquet")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where (a file), a stable word for what, and a sentence. ``mended``: it was put right."""

    where: str
    kind: str
    message: str
    mended: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of an archive. ``log_version`` is None where the log cannot be read at all, or was never finished."""

    faults: tuple[Fault, ...]
    orphans: tuple[Orphan, ...]
    log_version: int | None
    num_images: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong (any more). Orphans are no fault."""
        return all(fault.mended for fault in self.faults)


def examine(url: str, config: StorageConfig | None = None, *, mend: bool = False, grace: timedelta = GRACE) -> Diagnosis:
    """Look at the log, then at the files it names; with ``mend``, first put right what can be.

    Raises:
        ArchiveError: there is no archive, or one of an unknown format.
        StorageError: the store refused.
    """
    log = ArchiveLog(url, config)
    read_format(log.store)
    faults = _examine_log(log.store, mend=mend)
    try:
        snapshot = log.snapshot()
    except ArchiveError as error:
        if not _is_unmade(log.store):
            faults.append(Fault(LOG, "unreadable-log", str(error)))
        return Diagnosis(tuple(faults), (), None)
    faults += [Fault(*fault) for fault in faults_of_shards(log.store, snapshot)]
    return Diagnosis(tuple(faults), tuple(find_orphans(log, grace=grace)), snapshot.version, snapshot.num_rows)


def _examine_log(store: Store, *, mend: bool) -> list[Fault]:
    """Checkpoints first: a sound one makes the commits up to it superfluous."""
    names = sorted(info.key for info in store.list(LOG))
    commits = {int(match[1]): name for name in names if (match := _COMMIT.fullmatch(name))}
    checkpoints = [(int(match[1]), name) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    bad = [(version, name) for version, name in checkpoints if not _is_parquet(store, name)]
    sound = [version for version, name in checkpoints if (version, name) not in bad]
    faults = [_bad_checkpoint(store, name, _can_go(commits, sound), mend=mend) for _, name in bad]
    if not bad and LAST_CHECKPOINT in names and not _names_a_checkpoint(store, {version for version, _ in checkpoints}):
        faults.append(_put_away(store, [LAST_CHECKPOINT], "bad-checkpoint", "names no checkpoint that is there", mend=mend))
    faults += _torn_commits(store, commits, max(sound, default=-1), mend=mend)
    return faults


def _bad_checkpoint(store: Store, name: str, can_go: bool, *, mend: bool) -> Fault:
    if not can_go:
        return Fault(name, "bad-checkpoint", "is no Parquet file, and commits before it are gone: it cannot be dropped")
    present = [LAST_CHECKPOINT] if store.head(LAST_CHECKPOINT) is not None else []
    return _put_away(store, [*present, name], "bad-checkpoint", "is no readable Parquet file", mend=mend)


def _can_go(commits: dict[int, str], sound: Sequence[int]) -> bool:
    """Whether the log can be read without the bad checkpoints: every commit from the last sound one on is there."""
    first = max((version for version in sound), default=-1) + 1
    return all(version in commits for version in range(first, max(commits, default=-1) + 1))


def _torn_commits(store: Store, commits: dict[int, str], covered: int, *, mend: bool) -> list[Fault]:
    """Only the highest commit may go: a later one was decided on all before it."""
    highest = max(commits, default=-1)
    torn = [version for version in sorted(commits) if version > covered and not _is_commit(store, commits[version])]
    faults = [
        Fault(commits[version], "damaged-commit", "cannot be read, and later commits build on it")
        for version in torn
        if version != highest
    ]
    if highest in torn and highest > 0:
        message = "is torn: the write that was under way was never reported as done"
        faults.append(_put_away(store, [commits[highest]], "torn-commit", message, mend=mend and not faults))
    elif highest in torn and _is_empty(store, DATA):
        message = "is torn: the table was being made, and nothing has ever been in it"
        faults.append(_put_away(store, [commits[highest]], "torn-commit", message, mend=mend))
    elif highest in torn:
        faults.append(Fault(commits[highest], "damaged-commit", "cannot be read, and it is the one that made the table"))
    return faults


def _is_unmade(store: Store) -> bool:
    """Whether a run died before it had made the table: the next one makes it, and there is nothing that could be lost."""
    return _is_empty(store, LOG) and _is_empty(store, DATA)


def _is_empty(store: Store, folder: str) -> bool:
    return next(iter(store.list(folder)), None) is None


def _put_away(store: Store, names: Sequence[str], kind: str, message: str, *, mend: bool) -> Fault:
    """Move them to the quarantine. Only on a local disk: an object store's PUT is whole or absent, so its damage is another."""
    mend = mend and store.url.startswith("/")
    if mend:
        folder = f"{QUARANTINE}/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        for name in names:
            store.put(f"{folder}/{name.rpartition('/')[2]}", store.read(name))
            store.delete(name)
        message = f"{message}; moved to {folder}"
    return Fault(names[-1], kind, message, mended=mend)


def _is_commit(store: Store, name: str) -> bool:
    """A commit is lines of JSON objects, at least one; ours end with the transaction that their first line announces."""
    try:
        actions = [json.loads(line) for line in store.read(name).decode().split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return False
    if not actions or not all(isinstance(action, dict) for action in actions):
        return False
    announced = {_of(action, "commitInfo").get("cnnbatch.run_id") for action in actions} - {None}
    return announced <= {_of(action, "txn").get("appId") for action in actions}


def _of(action: dict[str, Any], kind: str) -> dict[str, Any]:
    found = action.get(kind)
    return found if isinstance(found, dict) else {}


def _is_parquet(store: Store, name: str) -> bool:
    try:
        pq.ParquetFile(pa.BufferReader(store.read(name)), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


def _names_a_checkpoint(store: Store, versions: set[int]) -> bool:
    try:
        found: Any = json.loads(store.read(LAST_CHECKPOINT))
        return found["version"] in versions
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
