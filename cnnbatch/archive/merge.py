"""What a commit may still do on the version it meets: the one place that keeps keys unique.

Between a diff and its commit other writers may have committed. Three rules decide, and none loses a row:

1. What replaces a shard that is not live any more is left out, and so is every removal that depended on it.
2. A key of a new shard that is live by now is left out: the first writer wins, and the next diff sees the difference.
3. A shard that carries on a live shard's rows needs no check: those keys are nowhere else.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.shards import ShardInfo, rewrite_without
from cnnbatch.archive.snapshot import LiveShard, Snapshot
from cnnbatch.errors import ArchiveError
from cnnbatch.storage import Store


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction's content on one version of the log; see `CommitResult` for ``dropped`` and ``stale``."""

    adds: tuple[ShardInfo, ...]
    removes: tuple[LiveShard, ...]
    dropped: tuple[str, ...]
    stale: tuple[str, ...]


class KeyCache:
    """The keys of shards, read once a commit."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._keys: dict[str, pa.ChunkedArray] = {}

    def keys(self, shard: ShardInfo | LiveShard) -> pa.ChunkedArray:
        if shard.path not in self._keys:
            table = read_columns(self.store, shard.path, ["key"], num_bytes=shard.num_bytes)
            self._keys[shard.path] = table.column("key")
        return self._keys[shard.path]


def resolve(
    cache: KeyCache, snapshot: Snapshot, *, adds: Sequence[ShardInfo], removes: Sequence[str], known: Collection[str]
) -> Change:
    """Decide what of a commit is still right on ``snapshot``.

    ``known`` are the shards that the added keys were compared with already. A new shard that loses keys is written
    again without them.

    Raises:
        ArchiveError: an added shard is live already.
    """
    live = {shard.path: shard for shard in snapshot.shards}
    for shard in adds:
        if shard.path in live:
            raise ArchiveError(f"{shard.path} is live already, added by another commit")
    wanted = set(removes).union(*(shard.replaces for shard in adds))
    rewritten, leaving = _still_replaceable([shard for shard in adds if shard.replaces], wanted, live)
    newcomers = [shard for shard in snapshot.shards if shard.path not in known and shard.path not in leaving]
    fresh, dropped = _without_live_keys(cache, [shard for shard in adds if not shard.replaces], newcomers, rewritten)
    return Change(
        adds=(*rewritten, *fresh),
        removes=tuple(live[path] for path in sorted(leaving)),
        dropped=tuple(dropped),
        stale=tuple(sorted(wanted - leaving)),
    )


def _still_replaceable(
    rewritten: Sequence[ShardInfo], wanted: set[str], live: Collection[str]
) -> tuple[list[ShardInfo], set[str]]:
    """Rule 1. Leaving one replacement out keeps its shards, which may take another replacement with them."""
    kept, leaving = list(rewritten), wanted & set(live)
    while lost := [shard for shard in kept if not leaving.issuperset(shard.replaces)]:
        kept = [shard for shard in kept if shard not in lost]
        leaving = leaving.difference(*(shard.replaces for shard in lost))
    return kept, leaving


def _without_live_keys(
    cache: KeyCache, fresh: Sequence[ShardInfo], newcomers: Sequence[LiveShard], rewritten: Sequence[ShardInfo]
) -> tuple[list[ShardInfo], list[str]]:
    """Rule 2, and the same among the added shards themselves."""
    others: list[ShardInfo | LiveShard] = [*newcomers, *rewritten]
    kept: list[ShardInfo] = []
    dropped: list[str] = []
    for shard in fresh:
        shared = _shared_keys(cache, shard, others)
        left = shard
        if shared:
            dropped += shared
            rest = rewrite_without(cache.store, shard.path, set(shared), num_bytes=shard.num_bytes)
            if rest is None:
                continue
            left = replace(rest, replaces=())
        kept.append(left)
        others.append(left)
    return kept, dropped


def _shared_keys(cache: KeyCache, shard: ShardInfo, others: Sequence[ShardInfo | LiveShard]) -> list[str]:
    shared: set[str] = set()
    for other in others:
        if other.min_key <= shard.max_key and shard.min_key <= other.max_key:
            mine = cache.keys(shard)
            shared.update(mine.filter(pc.is_in(mine, value_set=cache.keys(other))).to_pylist())
    return sorted(shared)
