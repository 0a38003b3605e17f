"""Diagnosis and repair of the files of the log.

A power cut can tear what a local disk had not written yet: the last commit, or a checkpoint. A torn last commit was never
reported as done, and a checkpoint only repeats commits, so both may go; they are moved to ``_cnnbatch/quarantine/``. A commit
with one flipped bit is written again as it was, where a digest proves which bit that is (`commits`).
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.commits import LOG, MAX_COMMIT_BYTES, Commit, commit_path, parse_commit, unflipped
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.orphans import DATA
from cnnbatch.archive.trust import Look
from cnnbatch.errors import TooLarge
from cnnbatch.storage import Store, parse_json

LAST_CHECKPOINT: Final = f"{LOG}/_last_checkpoint"
QUARANTINE: Final = "_cnnbatch/quarantine"
MAX_POINTER_BYTES: Final = 1 << 20
_COMMIT = re.compile(rf"{LOG}/(\d{{20}})\.json")
_CHECKPOINT = re.compile(rf"{LOG}/(\d{{20}})\.checkpoint(?:\.[0-9.]+)?\.parquet")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where (a file), a stable word for what, and a sentence. ``mended``: it was put right."""

    where: str
    kind: str
    message: str
    mended: bool = False


def examine_log(store: Store, *, mend: bool) -> list[Fault]:
    """Checkpoints first: a sound one makes the commits up to it superfluous."""
    names = sorted(info.key for info in store.list(LOG))
    commits = {int(match[1]): name for name in names if (match := _COMMIT.fullmatch(name))}
    checkpoints = _checkpoints(names)
    bad = [(version, name) for version, name in checkpoints if not _is_parquet(store, name)]
    sound = [version for version, name in checkpoints if (version, name) not in bad]
    faults = [_bad_checkpoint(store, name, _can_go(commits, sound), mend=mend) for _, name in bad]
    if not bad and LAST_CHECKPOINT in names and not _names_a_checkpoint(store, {version for version, _ in checkpoints}):
        faults.append(put_away(store, [LAST_CHECKPOINT], "bad-checkpoint", "names no checkpoint that is there", mend=mend))
    return faults + _examine_commits(store, commits, max(sound, default=-1), mend=mend)


def _checkpoints(names: Iterable[str]) -> list[tuple[int, str]]:
    return [(int(match[1]), name) for name in names if (match := _CHECKPOINT.fullmatch(name))]


def _bad_checkpoint(store: Store, name: str, can_go: bool, *, mend: bool) -> Fault:
    if not can_go:
        return Fault(name, "bad-checkpoint", "is no Parquet file, and commits before it are gone: it cannot be dropped")
    return put_away(store, [*_pointer(store), name], "bad-checkpoint", "is no readable Parquet file", mend=mend)


def _pointer(store: Store) -> list[str]:
    return [LAST_CHECKPOINT] if store.head(LAST_CHECKPOINT) is not None else []


def _can_go(commits: Collection[int], sound: Sequence[int]) -> bool:
    """Whether the log can be read without the bad checkpoints: every commit from the last sound one on is there."""
    first = max((version for version in sound), default=-1) + 1
    return all(version in commits for version in range(first, max(commits, default=-1) + 1))


def mend_live(log: ArchiveLog, found: Look, *, mend: bool) -> tuple[Look, list[Fault]]:
    """The live shards are not those of the newest commit, although every commit is as it was written: a bit of what it says has
    flipped, or a checkpoint is wrong."""
    version, live = found.snapshot.version, found.trust.live
    right = unflipped(version, found.trust.newest, lambda c: c.recorded is not None and c.live == live)
    names = [info.key for info in log.store.list(LOG)]
    commits = {int(match[1]) for name in names if (match := _COMMIT.fullmatch(name))}
    *earlier, (_, checkpoint) = [(-1, ""), *sorted(_checkpoints(names))]
    if right is not None:
        fault = _unflip(log.store, right, mend=mend)
    elif checkpoint and _can_go(commits, [version for version, _ in earlier]):
        message = f"does not hold what is live: {found.trust.fault}"
        fault = put_away(log.store, [*_pointer(log.store), checkpoint], "bad-checkpoint", message, mend=mend)
    else:
        return found, [Fault(LOG, "damaged-log", str(found.trust.fault))]
    found = log.look() if fault.mended else found
    if fault.mended and found.trust.fault is not None:
        return found, [fault, Fault(LOG, "damaged-log", found.trust.fault)]
    return found, [fault]


def _examine_commits(store: Store, commits: dict[int, str], covered: int, *, mend: bool) -> list[Fault]:
    """Those that readers need: all behind the last checkpoint, and the newest, which says what is live."""
    highest = max(commits, default=-1)
    faults: list[Fault] = []
    following: Commit | None = None
    for version in sorted(commits, reverse=True):
        if version <= covered and version != highest:
            break
        data, commit = _commit(store, version)
        if commit is None or not _fits(commit, following):
            commit, fault = _mended(store, version, data, commit, following, is_highest=version == highest, mend=mend)
            faults.append(fault)
        following = commit
    return faults[::-1]


def _fits(commit: Commit, following: Commit | None) -> bool:
    return commit.is_as_written and (following is None or following.previous in (None, commit.sha256))


def _mended(
    store: Store,
    version: int,
    data: bytes,
    commit: Commit | None,
    following: Commit | None,
    *,
    is_highest: bool,
    mend: bool,
) -> tuple[Commit | None, Fault]:
    """The kind of this commit, None where nobody can tell; the flipped bit may also be in what the one after says of it."""
    expected = None if following is None else following.previous
    right = unflipped(version, data, lambda c: c.recorded is not None if expected is None else c.sha256 == expected)
    if right is not None:
        return right, _unflip(store, right, mend=mend)
    if commit is not None and commit.is_as_written and following is not None:
        sha256 = commit.sha256
        right = unflipped(version + 1, following.data, lambda c: c.recorded is not None and c.previous == sha256)
        if right is not None:
            return commit, _unflip(store, right, mend=mend)
    return None, _hopeless(store, commit_path(version), version, data, is_highest=is_highest, mend=mend)


def _commit(store: Store, version: int) -> tuple[bytes, Commit | None]:
    try:
        data = store.read(commit_path(version), max_bytes=MAX_COMMIT_BYTES)
    except (TooLarge, FileNotFoundError):  # the latter: a pipe, say
        return b"", None
    try:
        return data, parse_commit(version, data)
    except ValueError:
        return data, None


def _unflip(store: Store, right: Commit, *, mend: bool) -> Fault:
    """One bit is wrong, which a digest proves."""
    name = commit_path(right.version)
    fault = put_away(store, [name], "flipped-commit", "has one flipped bit", mend=mend)
    if fault.mended:
        store.put(name, right.data)
    return fault


def _hopeless(store: Store, name: str, version: int, data: bytes, *, is_highest: bool, mend: bool) -> Fault:
    """Only the highest commit may go, and only where it was torn: a later one was decided on all before it."""
    if not (is_highest and _is_torn(version, data)):
        return Fault(name, "damaged-commit", "is not what was written, and what it did cannot be told from anything else")
    if version > 0:
        message = "is torn: the write that was under way was never reported as done"
        return put_away(store, [name], "torn-commit", message, mend=mend and store.url.startswith("/"))
    if _is_empty(store, DATA):
        message = "is torn: the table was being made, and nothing has ever been in it"
        return put_away(store, [name], "torn-commit", message, mend=mend and store.url.startswith("/"))
    return Fault(name, "damaged-commit", "cannot be read, and it is the one that made the table")


def _is_torn(version: int, data: bytes) -> bool:
    """Whether its end is missing, as after a power cut, rather than something in its middle."""
    *whole, _ = data.rstrip(b"\0\n").split(b"\n")
    try:
        commit = parse_commit(version, b"\n".join(whole)) if whole else None
    except ValueError:
        return b"\0" in data
    return commit is None or not commit.is_as_written


def is_unmade(store: Store) -> bool:
    """Whether a run died before it had made the table: the next one makes it, and there is nothing that could be lost."""
    return _is_empty(store, LOG) and _is_empty(store, DATA)


def _is_empty(store: Store, folder: str) -> bool:
    return next(iter(store.list(folder)), None) is None


def put_away(store: Store, names: Sequence[str], kind: str, message: str, *, mend: bool) -> Fault:
    """Move them to the quarantine."""
    if mend:
        folder = f"{QUARANTINE}/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        for name in names:
            store.put(f"{folder}/{name.rpartition('/')[2]}", store.read(name))
            store.delete(name)
        message = f"{message}; moved to {folder}"
    return Fault(names[-1], kind, message, mended=mend)


def _is_parquet(store: Store, name: str) -> bool:
    try:
        pq.ParquetFile(pa.BufferReader(store.read(name)), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


def _names_a_checkpoint(store: Store, versions: set[int]) -> bool:
    try:
        return parse_json(store.read(LAST_CHECKPOINT, max_bytes=MAX_POINTER_BYTES))["version"] in versions
    except (ValueError, KeyError, TypeError, TooLarge):
        return False
