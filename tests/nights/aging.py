"""Makes an archive older: every time that lies in it, as if a day had passed."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.night.record import RECORD

DAY = 86_400
_MOMENTS = ("timestamp", "deletionTimestamp", "modificationTime")


def let_a_day_pass(archive: Path) -> None:
    """Of files, in the log's entries (milliseconds), and in the record of the last night."""
    log = archive / "_delta_log"
    times = {path: path.stat() for path in archive.rglob("*")}  # before their contents are written anew
    for path in log.glob("*.json"):
        actions = [json.loads(line) for line in path.read_text().splitlines() if line]
        _put(path, "".join(json.dumps(_older(action), ensure_ascii=False) + "\n" for action in actions).encode())
    for path in log.glob("*.checkpoint.parquet"):
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist([_older(row) for row in table.to_pylist()], schema=table.schema), path)
    record = archive / RECORD
    if record.exists():
        found = json.loads(record.read_text())
        _put(record, json.dumps(found | {"wall_seconds": found["wall_seconds"] and found["wall_seconds"] - DAY}).encode())
    for path, status in times.items():
        os.utime(path, (status.st_atime - DAY, status.st_mtime - DAY))


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
