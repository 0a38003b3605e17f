"""Commits finished shards in small batches while a run is under way.

An image that changed has a row in an old shard. That shard is rewritten without it, in the very commit that brings the
new row, so that a reader sees the old picture or the new one, never both or none. A changed image that could not be read
keeps its old row, and so does one whose old shard cannot be written again, because other rows in it cannot be read.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from cnnbatch.archive.carrying import rewrite_without
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.shards import ShardInfo
from cnnbatch.archive.snapshot import Snapshot
from cnnbatch.errors import DamagedRow
from cnnbatch.stages.records import CompressResult

logger = logging.getLogger(__name__)

SLOW_COMMIT = 1.0
"""Seconds. In an archive of 10⁸ images a commit reads a log of 77,000 shards; then more shards wait for the next one …"""

COMMIT_SHARE = 10
"""… so that not more than a tenth of the driver's time goes into commits."""


@dataclass(slots=True)
class Committer:
    """Collects results, and commits each with the removal of the rows that its images had in ``base``."""

    log: ArchiveLog
    run_id: str
    base: Snapshot
    every_shards: int
    every_seconds: float
    commits: int = 0
    superseded: list[str] = field(default_factory=list)
    """Keys another writer brought first; his rows stay."""
    blocked: list[str] = field(default_factory=list)
    """Keys whose old shard has rows that cannot be read, so that it must not go: their old rows stay."""
    _waiting: list[ShardInfo] = field(default_factory=list)
    _leaving: dict[str, str] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    _took: float = 0.0
    _num_rows: dict[str, int] = field(init=False)
    _successor: dict[str, str | None] = field(default_factory=dict)
    _sequence: int = 0

    def __post_init__(self) -> None:
        self._num_rows = {shard.path: shard.num_rows for shard in self.base.shards}

    def add(self, result: CompressResult, held: Mapping[str, str]) -> None:
        """Takes one shard's result; commits when enough have come together.

        ``held``: those of its inputs that have a row in ``base``, each with the path of the shard that has it.
        """
        if result.shard is not None:
            failed = {failure.key for failure in result.failures}
            self._waiting.append(result.shard)
            self._leaving |= {key: shard for key, shard in held.items() if key not in failed}
        waited = time.monotonic() - self._since
        enough = len(self._waiting) >= self.every_shards and (self._took < SLOW_COMMIT or waited > COMMIT_SHARE * self._took)
        if enough or waited > self.every_seconds:
            self.flush()

    def flush(self) -> None:
        """Commits what is waiting."""
        adds, leaving = self._waiting, self._leaving
        self._waiting, self._leaving = [], {}
        started = time.monotonic()
        if adds:
            self._commit(adds, leaving)
        self._since = time.monotonic()
        self._took = self._since - started

    def remove(self, keys: Mapping[str, str]) -> None:
        """Takes rows out of the archive (``--mirror-deletes``): each key with the shard that held it in ``base``."""
        if keys:
            self._commit([], keys)

    def _commit(self, adds: list[ShardInfo], leaving: Mapping[str, str]) -> None:
        by_shard: dict[str, set[str]] = defaultdict(set)
        for key, old in leaving.items():
            shard = self._now(old)
            if shard is not None:
                by_shard[shard].add(key)
        rests = self._rewrite(by_shard)
        self._successor |= {path: None if rest is None else rest.path for path, rest in rests.items()}
        adds = [*adds, *(rest for rest in rests.values() if rest is not None)]
        removes = [path for path, rest in rests.items() if rest is None]
        blocked = {key for path, keys in by_shard.items() if path not in rests for key in keys}
        self._sequence += 1
        result = self.log.commit(self.run_id, self._sequence, adds, removes=removes, base=self._base_but(by_shard, rests))
        self.commits += 1
        self.blocked += sorted(blocked)
        stale = (key for path in result.stale for key in by_shard[path])
        self.superseded += [key for key in dict.fromkeys([*result.dropped, *stale]) if key not in blocked]
        logger.info("commit %d: %d shards, log version %d", self._sequence, len(result.added), result.version)

    def _rewrite(self, by_shard: Mapping[str, Collection[str]]) -> dict[str, ShardInfo | None]:
        """Each shard without those keys, None where no row is left; without the shards that cannot be written again."""
        rests: dict[str, ShardInfo | None] = {}
        for path, keys in by_shard.items():
            if len(keys) == self._num_rows[path]:  # no need to read it
                rests[path] = None
                continue
            try:
                rests[path] = rest = rewrite_without(self.log.store, path, keys)
                self._num_rows |= {} if rest is None else {rest.path: rest.num_rows}
            except DamagedRow as error:
                logger.warning("%d images keep their old rows because their shard cannot be rewritten: %s", len(keys), error)
        return rests

    def _base_but(self, by_shard: Collection[str], rests: Collection[str]) -> Snapshot:
        """``base`` without the shards that must stay: the commit compares with them, and leaves out what they still hold."""
        stay = set(by_shard).difference(rests)
        return replace(self.base, shards=tuple(shard for shard in self.base.shards if shard.path not in stay))

    def _now(self, shard: str) -> str | None:
        """The shard that carries on the rows of ``shard`` after this run's own commits."""
        current: str | None = shard
        while current is not None and current in self._successor:
            current = self._successor[current]
        return current
