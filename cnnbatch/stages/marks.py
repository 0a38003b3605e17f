"""Notes of a job that gives images back, below its destination until it has ended: shards that were begun, and done.

A shard is named by its content, so a mark is never of other images, whatever became of the archive meanwhile.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from cnnbatch.stages.names import ATTEMPTS, MARK_NAME, MARKS
from cnnbatch.stages.records import ShardTask
from cnnbatch.storage import Store, parse_json

_OURS: Final = re.compile(rf"{re.escape(MARKS)}/({MARK_NAME}|{ATTEMPTS}/[^/]+/\d+/[0-9a-f]{{32}})")


def begin(task: ShardTask, destination: Store, format: str) -> datetime | None:
    """Notes that files of a shard are about to be written. Returns when an earlier attempt noted it, by the store's clock."""
    key = _mark_key(task, format, "begun")
    if destination.put_if_absent(key, uuid.uuid4().hex.encode()):
        return None
    info = destination.head(key)
    return None if info is None else info.mtime


def finish(task: ShardTask, destination: Store, format: str, sizes: Mapping[str, int]) -> None:
    """Notes that a shard is done: its files with their sizes."""
    destination.put(_mark_key(task, format, "json"), json.dumps(sizes).encode())


def withdraw(task: ShardTask, destination: Store, format: str) -> None:
    """Takes back that a shard was begun: what was written of it is not to count as there the next time."""
    destination.delete(_mark_key(task, format, "begun"))


def remaining(tasks: Iterable[ShardTask], destination: Store, format: str) -> Iterator[ShardTask]:
    """Tasks that are not done, or whose files are no longer all there with the sizes that were written."""
    marks = {info.key for info in destination.list(MARKS)}
    sizes = {info.key: info.size for info in destination.list()} if marks else {}
    for task in tasks:
        key = _mark_key(task, format, "json")
        if key in marks and _is_done(destination.read(key), sizes):
            continue
        yield task


def clear_marks(destination: Store) -> None:
    """Removes the marks of a finished job, and their folder where a store has folders; what else is in it stays."""
    for info in list(destination.list(MARKS)):
        if _OURS.fullmatch(info.key):
            destination.delete(info.key)
    if destination.url.startswith("/"):
        folder = Path(destination.url, MARKS)
        for empty in (*sorted(folder.rglob("*"), reverse=True), folder):
            with suppress(OSError):  # not ours, or another job has put marks of its own there
                empty.rmdir()


def _mark_key(task: ShardTask, format: str, kind: str) -> str:
    wanted = "" if task.keys is None else "\n".join(task.keys)
    whole = "" if task.whole is None else repr(task.whole)
    digest = hashlib.sha256(f"{task.path} {format} {wanted}{whole}".encode()).hexdigest()
    return f"{MARKS}/{digest[:32]}.{kind}"


def _is_done(mark: bytes, sizes: Mapping[str, int | None]) -> bool:
    try:
        written = parse_json(mark)
        return all(sizes.get(key) == size for key, size in written.items())
    except (ValueError, AttributeError):
        return False
