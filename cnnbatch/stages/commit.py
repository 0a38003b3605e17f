"""Commits finished shards in small batches while a run is under way.

An image that changed has a row in an old shard. That shard is rewritten without it, in the very commit that brings the
new row, so that a reader sees the old picture or the new one, never both or none. A changed image that could not be read
keeps its old row.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.shards import ShardInfo, rewrite_without
from cnnbatch.archive.snapshot import Snapshot
from cnnbatch.stages.records import CompressResult

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Committer:
    """Collects results; ``held`` (columns key, shard) says where the changed keys are held in ``base``."""

    log: ArchiveLog
    run_id: str
    base: Snapshot
    held: pa.Table
    every_shards: int
    every_seconds: float
    commits: int = 0
    superseded: list[str] = field(default_factory=list)
    """Keys another writer brought first; his rows stay."""
    _waiting: list[CompressResult] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)
    _shard_of: dict[str, str] = field(init=False)
    _successor: dict[str, str | None] = field(default_factory=dict)
    _sequence: int = 0

    def __post_init__(self) -> None:
        keys, shards = self.held.column("key").to_pylist(), self.held.column("shard").to_pylist()
        self._shard_of = dict(zip(keys, shards, strict=True))

    def add(self, result: CompressResult) -> None:
        """Takes one shard's result; commits when enough have come together."""
        self._waiting.append(result)
        if len(self._waiting) >= self.every_shards or time.monotonic() - self._since > self.every_seconds:
            self.flush()

    def flush(self) -> None:
        """Commits what is waiting."""
        results, self._waiting, self._since = self._waiting, [], time.monotonic()
        adds = [result.shard for result in results if result.shard is not None]
        keys = [key for result in results for key in result.taken if key in self._shard_of]
        if adds:
            self._commit(adds, keys)

    def remove(self, keys: Iterable[str], shards: Iterable[str]) -> None:
        """Takes rows out of the archive (``--mirror-deletes``): each key with the shard that held it in ``base``."""
        pairs = dict(zip(keys, shards, strict=True))
        self._shard_of.update(pairs)
        if pairs:
            self._commit([], list(pairs))

    def _commit(self, adds: list[ShardInfo], leaving: list[str]) -> None:
        by_shard: dict[str, set[str]] = defaultdict(set)
        for key in leaving:
            shard = self._now(self._shard_of[key])
            if shard is not None:
                by_shard[shard].add(key)
        removes: list[str] = []
        for path, keys in by_shard.items():
            rest = rewrite_without(self.log.store, path, keys)
            self._successor[path] = None if rest is None else rest.path
            removes += [path] if rest is None else []
            adds = adds if rest is None else [*adds, rest]
        self._sequence += 1
        result = self.log.commit(self.run_id, self._sequence, adds, removes=removes, base=self.base)
        self.commits += 1
        stale = (key for path in result.stale for key in by_shard[path])
        self.superseded += dict.fromkeys([*result.dropped, *stale])
        logger.info("commit %d: %d shards, log version %d", self._sequence, len(result.added), result.version)

    def _now(self, shard: str) -> str | None:
        """The shard that carries on the rows of ``shard`` after this run's own commits."""
        current: str | None = shard
        while current is not None and current in self._successor:
            current = self._successor[current]
        return current
