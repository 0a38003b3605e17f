"""The archive: rows ↔ a folder with a Delta log and Parquet shards.

Writing: `ArchiveLog`, `write_shard`, `rewrite_without`, `Lease`. Reading: `open_archive`, `read_shard`.
"""

from typing import TYPE_CHECKING

from cnnbatch.lazy import lazily

if TYPE_CHECKING:
    from cnnbatch.archive.carrying import rewrite_without
    from cnnbatch.archive.figures import ArchiveInfo
    from cnnbatch.archive.lease import Lease
    from cnnbatch.archive.log import ArchiveLog, CommitResult
    from cnnbatch.archive.reader import Archive, open_archive
    from cnnbatch.archive.schema import SCHEMA, ArchiveRow, check_row
    from cnnbatch.archive.shard_reading import read_footer, read_shard, read_summary
    from cnnbatch.archive.shards import ShardInfo, ShardSummary, write_shard
    from cnnbatch.archive.snapshot import LiveShard, Snapshot
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "SCHEMA",
    "Archive",
    "ArchiveInfo",
    "ArchiveLog",
    "ArchiveRow",
    "CommitResult",
    "Lease",
    "LiveShard",
    "ShardInfo",
    "ShardSummary",
    "Snapshot",
    "check_row",
    "open_archive",
    "read_footer",
    "read_shard",
    "read_summary",
    "rewrite_without",
    "write_shard",
]
