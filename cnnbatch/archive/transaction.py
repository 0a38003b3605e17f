"""One commit as deltalake writes it: fenced, named by its run, with the digests of `commits`."""

import json
import time

from deltalake import CommitProperties, Transaction
from deltalake.transaction import AddAction, RemoveAction

from cnnbatch.archive.commits import RUN_ID, Action, digests
from cnnbatch.archive.merge import Change
from cnnbatch.archive.shards import ShardInfo
from cnnbatch.archive.trust import Look, digest_of_live

FENCE = "cnnbatch.fence"
"""The application id that every writer advances."""


def write_commit(look: Look, change: Change, run_id: str, sequence: int) -> None:
    """Write ``change``, which was decided on ``look``, as the version behind it.

    Raises:
        DeltaError, OSError: another commit was faster, or nobody knows.
    """
    now_ms = time.time_ns() // 1_000_000
    adds = [AddAction(s.path, s.num_bytes, {}, now_ms, True, _statistics(s)) for s in change.adds]
    removes = [RemoveAction(shard.path, True, now_ms, shard.num_bytes, {}) for shard in change.removes]
    transactions = [
        Transaction(FENCE, (look.table.transaction_version(FENCE) or 0) + 1),
        Transaction(run_id, sequence),
    ]
    said = digests(
        version=look.snapshot.version + 1,
        actions=[*map(_as_logged, adds), *map(_as_logged, removes), *map(_as_logged, transactions)],
        live=look.trust.live + digest_of_live(change.adds) - digest_of_live(change.removes),
        previous=look.trust.newest,
    )
    properties = CommitProperties(
        custom_metadata={RUN_ID: run_id, "cnnbatch.sequence": sequence, **said},
        max_commit_retries=0,  # Delta's own retry would commit what was decided on an older version
        app_transactions=transactions,
    )
    look.table.create_write_transaction([*adds, *removes], "append", look.table.schema(), commit_properties=properties)


def _as_logged(action: AddAction | RemoveAction | Transaction) -> Action:
    """As the line of the log that deltalake will write."""
    common = {"partitionValues": {}, "dataChange": True}
    match action:
        case AddAction():
            return {
                "add": {
                    "path": action.path,
                    "size": action.size,
                    "modificationTime": action.modification_time,
                    "stats": action.stats,
                    **common,
                }
            }
        case RemoveAction():
            return {
                "remove": {
                    "path": action.path,
                    "size": action.size,
                    "deletionTimestamp": action.deletion_timestamp,
                    **common,
                }
            }
        case _:
            return {"txn": {"appId": action.app_id, "version": action.version}}


def _statistics(shard: ShardInfo) -> str:
    """Only the key has a range: by it readers skip shards; the payload has none, as in the Parquet file."""
    return json.dumps(
        {
            "numRecords": shard.num_rows,
            "minValues": {"key": shard.min_key},
            "maxValues": {"key": shard.max_key},
            "nullCount": {"key": 0},
        },
        ensure_ascii=False,  # deltalake 1.6.6 misreads the escape of U+20000 and skips the shard
    )
