"""A whole run against an archive, in one process: what a compress job does to it, with an exit at any step.

``python -m tests.archive.small_job URL RUN_ID [STEP]``: before and after each call that changes the archive a step is
counted, and at STEP the process ends as if it were killed.
"""

import os
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from deltalake import DeltaTable

from cnnbatch.archive import ArchiveLog, write_shard
from cnnbatch.archive import log as log_module
from cnnbatch.archive.log_table import LogTable
from cnnbatch.archive.snapshot import read_rows
from cnnbatch.storage import StorageConfig, Store, open_store
from tests.archive.rows import CODEC_FILE, LINEAGE, coded

KEYS = [f"{number:02}.png" for number in range(6)]
KEYS_PER_SHARD = 3
KILLED = 77


def run(url: str, run_id: str, config: StorageConfig | None = None) -> None:
    """Bring every key of `KEYS` that is missing into the archive, a shard and a commit at a time."""
    log = ArchiveLog.create_or_open(url, config, codec_files=[CODEC_FILE])
    base = log.snapshot()
    there = {key for shard in base.shards for key in read_rows(log.store, shard, ["key"]).column("key").to_pylist()}
    missing = [key for key in KEYS if key not in there]
    for sequence, start in enumerate(range(0, len(missing), KEYS_PER_SHARD)):
        rows = [coded(key, f"payload of {key}".encode()) for key in missing[start : start + KEYS_PER_SHARD]]
        shard = write_shard(log.store, rows, footer=LINEAGE)
        log.commit(run_id, sequence, [shard], base=base)


def exit_at(step: int, url: str) -> None:
    """Make this process end at the given step."""
    steps = count()

    def tick() -> None:
        if next(steps) == step:
            os._exit(KILLED)

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            tick()
            result = function(*arguments, **keywords)
            tick()
            return result

        return call

    kind: type[Store] = type(open_store(url))
    for owner, name in ((kind, "put"), (kind, "put_if_absent"), (log_module, "_write_commit"), (LogTable, "sync")):
        setattr(owner, name, watched(getattr(owner, name)))
    DeltaTable.create = watched(DeltaTable.create)  # type: ignore[method-assign]


if __name__ == "__main__":
    archive_url, name, *rest = sys.argv[1:]
    if rest:
        exit_at(int(rest[0]), archive_url)
    run(archive_url, name)
