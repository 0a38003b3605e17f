"""Whether the log is what its writers wrote: the live shards against the digest in the newest commit of ours (`commits`).

Other tools may commit, too, and give no digest. Where they changed which files are live, the version before theirs is what
can be checked; the next commit of ours takes over what it meets.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from deltalake import DeltaTable

from cnnbatch.archive.commits import Commit, commit_path, digest_of, read_commit
from cnnbatch.archive.shards import ShardInfo
from cnnbatch.archive.snapshot import LiveShard, Snapshot, delta_faults
from cnnbatch.errors import ArchiveError
from cnnbatch.storage import Store

LOOK_BACK: Final = 100
"""Commits of others that are looked at before the search for one of ours ends."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The digests' verdict on a version. ``live`` is the digest of its shards, ``newest`` the file of its commit, empty where
    only a checkpoint is left of it.

    ``fault``: what does not add up. ``ours``: the newest version that was checked, older than the snapshot where other tools
    changed what is live since; None: nothing of the log says what is live, as in one of an older version of this package.
    """

    live: int
    newest: bytes = b""
    fault: str | None = None
    ours: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The newest version of a log, as Delta reads it, and what its digests say of it."""

    table: DeltaTable
    snapshot: Snapshot
    trust: Trust

    def replaced(self, grace: timedelta = timedelta(0)) -> frozenset[str]:
        """Files that were live before, and have not been for at least ``grace``, in whole hours."""
        hours = -(-grace // timedelta(hours=1))
        with delta_faults(f"version {self.snapshot.version} of the log"):
            return frozenset(self.table.vacuum(retention_hours=hours, dry_run=True, enforce_retention_duration=False))

    @property
    def others(self) -> str | None:
        """A sentence, where tools other than this package changed which files are live since its last commit."""
        ours, version = self.trust.ours, self.snapshot.version
        if ours is None or ours == version:
            return None
        return (
            f"another tool changed which files are live between versions {ours} and {version} of the log: "
            "no digest covers that until the next commit"
        )


def digest_of_live(shards: Iterable[LiveShard | ShardInfo]) -> int:
    """The digest of shards as ``cnnbatch.live`` has it."""
    return digest_of((shard.path, shard.num_bytes, shard.num_rows, shard.min_key, shard.max_key) for shard in shards)


def check_live(store: Store, snapshot: Snapshot, at: Callable[[int], Snapshot | None]) -> Trust:
    """Compare the newest version with what its commit says, or with what the newest commit of ours says; ``at`` reads an
    earlier version.

    Raises:
        StorageError: the store refused.
    """
    live = digest_of_live(snapshot.shards)
    try:
        newest = read_commit(store, snapshot.version)
        commit, others = _newest_of_ours(store, newest)
    except ArchiveError as error:  # Delta needs none that a checkpoint stands for, but its digest is lost
        return Trust(live, fault=str(error))
    data = b"" if newest is None else newest.data
    if commit is None:
        return Trust(live, data)
    path = commit_path(commit.version)
    if not commit.is_as_written:
        return Trust(live, data, f"{path} is not what was written: its digest is another")
    before = at(commit.version) if others else snapshot
    if before is None:
        return Trust(live, data)
    if (digest_of_live(before.shards) if others else live) != commit.live:
        return Trust(live, data, f"what is live in version {before.version} is not what {path} says")
    return Trust(live, data, ours=before.version)


def _newest_of_ours(store: Store, newest: Commit | None) -> tuple[Commit | None, bool]:
    """The newest commit that says what is live, or is not what was written; and whether others changed that since."""
    commit, others = newest, False
    for _ in range(LOOK_BACK):
        if commit is None or commit.live is not None or not commit.is_as_written:
            return commit, others
        if commit.run_id is not None or commit.version == 0:  # an older version of this package, which knew no digests
            break
        others = others or commit.changes_rows
        commit = read_commit(store, commit.version - 1)
    return None, others
