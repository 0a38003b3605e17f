"""The reconciliation of a commit with the version it meets: the one place that keeps keys unique.

Between a diff and its commit other writers may have committed. Four rules decide, and none loses a row:

1. What replaces a shard that is not live any more is left out, and so is every removal that depended on it.
2. A key of a new shard that is live by now is left out: the first writer wins, and the next diff sees the difference.
3. A shard that carries on a live shard's rows needs no check: those keys are nowhere else.
4. A key of a new shard that was erased meanwhile is left out.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.archive.carrying import rewrite_without
from cnnbatch.archive.erased import ErasedKeys, read_erased
from cnnbatch.archive.parquet import read_columns
from cnnbatch.archive.shards import ShardInfo
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
    """The keys of shards that overlap what was committed; each is read once, and forgotten when it is not live."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._keys: dict[str, pa.ChunkedArray] = {}

    def keys(self, shard: ShardInfo | LiveShard) -> pa.ChunkedArray:
        if shard.path not in self._keys:
            table = read_columns(self.store, shard.path, ["key"], num_bytes=shard.num_bytes)
            self._keys[shard.path] = table.column("key")
        return self._keys[shard.path]

    def forget_all_but(self, paths: Collection[str]) -> None:
        self._keys = {path: keys for path, keys in self._keys.items() if path in paths}


def resolve(
    cache: KeyCache, snapshot: Snapshot, *, adds: Sequence[ShardInfo], removes: Sequence[str], known: Collection[str]
) -> Change:
    """Decide what of a commit is still right on ``snapshot``.

    ``known`` are the shards that the added keys were compared with already. A new shard that loses keys is written
    again without them.

    Raises:
        ArchiveError: an added shard is live already.
        ValueError: two added shards carry on the same row.
    """
    live = {shard.path: shard for shard in snapshot.shards}
    cache.forget_all_but(live)
    for shard in adds:
        if shard.path in live:
            raise ArchiveError(f"{shard.path} is live already, added by another commit")
    _refuse_twins(cache, [shard for shard in adds if shard.replaces])
    wanted = set(removes).union(*(shard.replaces for shard in adds))
    rewritten, leaving = _still_replaceable([shard for shard in adds if shard.replaces], wanted, live)
    unchecked = (set(live) - set(known) | (wanted & set(live))) - leaving  # the known ones may stay against the plan
    others = [shard for shard in snapshot.shards if shard.path in unchecked]
    new = [shard for shard in adds if not shard.replaces]
    erased = read_erased(cache.store) if new else ErasedKeys()
    fresh, dropped = _without_live_keys(cache, new, others, rewritten, erased)
    return Change(
        adds=(*rewritten, *fresh),
        removes=tuple(live[path] for path in sorted(leaving)),
        dropped=tuple(dropped),
        stale=tuple(sorted(wanted - leaving)),
    )


def _refuse_twins(cache: KeyCache, rewritten: Sequence[ShardInfo]) -> None:
    for one, other in combinations(rewritten, 2):
        if set(one.replaces) & set(other.replaces) and (shared := _shared_keys(cache, one, [other])):
            raise ValueError(f"{one.path} and {other.path} both carry on {shared[0]!r}")


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
    cache: KeyCache,
    fresh: Sequence[ShardInfo],
    live: Sequence[LiveShard],
    rewritten: Sequence[ShardInfo],
    erased: ErasedKeys,
) -> tuple[list[ShardInfo], list[str]]:
    """Rules 2 and 4, and rule 2 among the added shards themselves."""
    others = _Ranges([*live, *rewritten])
    kept: list[ShardInfo] = []
    dropped: list[str] = []
    for shard in fresh:
        near = [*others.overlapping(shard), *kept]
        shared = sorted({*_shared_keys(cache, shard, near), *_erased_keys(cache, shard, erased)})
        left = shard
        if shared:
            dropped += shared
            rest = rewrite_without(cache.store, shard.path, set(shared), num_bytes=shard.num_bytes)
            if rest is None:
                continue
            left = replace(rest, replaces=())
        kept.append(left)
    return kept, dropped


class _Ranges:
    """Shards by their key ranges: a long run commits against tens of thousands of its own shards, again and again."""

    def __init__(self, shards: Iterable[ShardInfo | LiveShard]) -> None:
        self._shards = sorted(shards, key=lambda shard: shard.min_key)
        self._first = [shard.min_key for shard in self._shards]
        self._last_so_far = list(accumulate((shard.max_key for shard in self._shards), max))

    def overlapping(self, shard: ShardInfo) -> Sequence[ShardInfo | LiveShard]:
        """All that may share a key with ``shard``, and some that do not."""
        return self._shards[bisect_left(self._last_so_far, shard.min_key) : bisect_right(self._first, shard.max_key)]


def _erased_keys(cache: KeyCache, shard: ShardInfo, erased: ErasedKeys) -> list[str]:
    return erased.among(cache.keys(shard).to_pylist()) if erased else []


def _shared_keys(cache: KeyCache, shard: ShardInfo, others: Sequence[ShardInfo | LiveShard]) -> list[str]:
    shared: set[str] = set()
    for other in others:
        if other.min_key <= shard.max_key and shard.min_key <= other.max_key:
            mine = cache.keys(shard)
            shared.update(mine.filter(pc.is_in(mine, value_set=cache.keys(other))).to_pylist())
    return sorted(shared)
