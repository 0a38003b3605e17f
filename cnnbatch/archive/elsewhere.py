"""The log, read by a fresh process for one that was forked, in which deltalake does not work (`cnnbatch.processes`)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from cnnbatch.archive.snapshot import LiveShard, Snapshot
from cnnbatch.errors import ArchiveError, CnnbatchError, StorageError, UsageError
from cnnbatch.storage import StorageConfig

_PROGRAM: Final = "from cnnbatch.archive.elsewhere import answer; answer()"
_ERRORS: Final = {kind.__name__: kind for kind in (ArchiveError, StorageError, UsageError)}


def snapshot_elsewhere(url: str, config: StorageConfig | None) -> Snapshot:
    """The newest version, as `ArchiveLog.snapshot` gives it, with its errors."""
    request = json.dumps([url, None if config is None else config.as_plain()])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM], input=request, stdout=subprocess.PIPE, env=environment, text=True, check=False
    )
    if ended.returncode:
        raise StorageError(f"cannot read the log of {url}: its reader for a forked process ended with {ended.returncode}")
    reply = json.loads(ended.stdout)
    if "error" in reply:
        name, text = reply["error"]
        raise _ERRORS.get(name, CnnbatchError)(text)
    return Snapshot(reply["version"], tuple(LiveShard(*shard) for shard in reply["shards"]))


def answer() -> None:
    """The program of that process: a request on stdin, a reply on stdout."""
    from cnnbatch.archive.log import ArchiveLog  # which imports this module

    url, config = json.load(sys.stdin)
    try:
        found = ArchiveLog(url, None if config is None else StorageConfig(**config)).snapshot()
    except CnnbatchError as error:
        json.dump({"error": [type(error).__name__, str(error)]}, sys.stdout)
        return
    shards = [(shard.path, shard.num_bytes, shard.num_rows, shard.min_key, shard.max_key) for shard in found.shards]
    json.dump({"version": found.version, "shards": shards}, sys.stdout)
