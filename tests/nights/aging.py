"""Makes an archive older: every time that lies in it, as if a day had passed."""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.archive.commits import ACTIONS, PREVIOUS, digest_of_actions
from jobs.night.record import RECORD

DAY = 86_400
_MOMENTS = ("timestamp", "deletionTimestamp", "modificationTime")


def let_a_day_pass(archive: Path) -> None:
    """Of files, in the log's entries (milliseconds), and in the record of the last night."""
    log = archive / "_delta_log"
    times = {path: path.stat() for path in archive.rglob("*")}  # before their contents are written anew
    became: dict[str, str] = {}
    for path in sorted(log.glob("*.json")):
        before = path.read_bytes()
        after = _older_commit(before, became)
        became[sha256(before).hexdigest()] = sha256(after).hexdigest()
        _put(path, after)
    for path in log.glob("*.checkpoint.parquet"):
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist([_older(row) for row in table.to_pylist()], schema=table.schema), path)
    record = archive / RECORD
    if record.exists():
        found = json.loads(record.read_text())
        _put(record, json.dumps(found | {"wall_seconds": found["wall_seconds"] and found["wall_seconds"] - DAY}).encode())
    for path, status in times.items():
        os.utime(path, (status.st_atime - DAY, status.st_mtime - DAY))


def _older_commit(data: bytes, became: Mapping[str, str]) -> bytes:
    """A file of the log whose digests fit its actions and the file before it as well as they did; ``became``: the sha256 that
    each earlier file has now, by that which it had."""
    actions = [json.loads(line) for line in data.splitlines() if line]
    older = [_older(action) for action in actions]
    info = next((action["commitInfo"] for action in older if "commitInfo" in action), {})
    if info.get(ACTIONS) == f"{digest_of_actions(actions):064x}":
        info[ACTIONS] = f"{digest_of_actions(older):064x}"
    if info.get(PREVIOUS) in became:
        info[PREVIOUS] = became[info[PREVIOUS]]
    return "".join(json.dumps(action, ensure_ascii=False) + "\n" for action in older).encode()


def _older(content: Any) -> Any:
    """A log entry with every moment in it a day earlier, whatever action it is part of."""
    if not isinstance(content, dict):
        return content
    return {
        name: value - 1000 * DAY if name in _MOMENTS and isinstance(value, int) else _older(value)
        for name, value in content.items()
    }


def _put(path: Path, data: bytes) -> None:
    """In one step, as another process may read it."""
    temporary = path.with_name(f".{path.name}.older")
    temporary.write_bytes(data)
    temporary.replace(path)
