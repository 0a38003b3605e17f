"""The tasks of giving images back, by the files that they are to be in."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from cnnbatch.archive.damage import damage_as_archive_error, or_fault
from cnnbatch.archive.parquet import open_parquet
from cnnbatch.archive.reader import Archive
from cnnbatch.archive.snapshot import DEFAULT_THREADS
from cnnbatch.errors import ArchiveError, UsageError
from cnnbatch.parallel import map_parallel
from cnnbatch.stages.reconstruct import plan_tasks
from cnnbatch.stages.records import ShardTask, Whole
from cnnbatch.stages.whole_files import container_kind_and_key

PER_SHARD = {"webdataset": ("samples", "tar"), "parquet": ("table", "parquet")}
"""Layouts of one file for each shard: kind and ending."""

_Held = tuple[str | None, str]
"""The column ``container`` of a row, and its key."""


def plan_layout(archive: Archive, pattern: str, *, format: str, layout: str) -> list[ShardTask]:
    """The tasks of a run.

    Raises:
        UsageError: a tar or table of other formats than its own.
    """
    tasks = plan_tasks(archive, pattern, format=format)
    if layout in PER_SHARD:
        kind, ending = PER_SHARD[layout]
        return [
            replace(task, whole=Whole(kind, f"{task.number:06}.{ending}", ((task.path, task.num_bytes),))) for task in tasks
        ]
    if layout == "folder":
        return tasks
    return _original(archive, tasks, pattern, format)


def _original(archive: Archive, tasks: Sequence[ShardTask], pattern: str, format: str) -> list[ShardTask]:
    """Files of their own for what was one; for each container a task, whatever shards hold its rows."""
    planned: list[ShardTask] = []
    wholes: dict[tuple[str, str], Whole] = {}
    counts: Counter[tuple[str, str]] = Counter()
    read = partial(or_fault, partial(_held, archive))
    for task, held in zip(tasks, map_parallel(read, tasks, threads=DEFAULT_THREADS), strict=True):
        if isinstance(held, ArchiveError) or not held:
            planned.append(task)
            continue
        wanted = None if task.keys is None else set(task.keys)
        loose: list[str] = []
        found: Counter[tuple[str, str]] = Counter()
        for column, key in held:
            if wanted is not None and key not in wanted:
                continue
            container = container_kind_and_key(column)
            if container is None:
                loose.append(key)
            else:
                found[container] += 1
        if loose:
            planned.append(replace(task, keys=tuple(loose), num_images=len(loose)))
        for container in found:
            whole = wholes.get(container, Whole(container[0], container[1], (), container[1], pattern))
            wholes[container] = replace(whole, shards=(*whole.shards, (task.path, task.num_bytes)))
        counts += found
    if wholes and format != "original":
        first = min(key for _, key in wholes)
        raise UsageError(f"{first} and the like can only come back in their own formats: use --layout folder")
    for container, whole in sorted(wholes.items()):
        planned.append(ShardTask(0, *whole.shards[0], counts[container], None, whole=whole))
    return [replace(task, number=number) for number, task in enumerate(planned)]


def _held(archive: Archive, task: ShardTask) -> list[_Held]:
    """The container of each row of a shard, and its key; nothing where all were files of their own."""
    return list(_read_held(archive, task))


def _read_held(archive: Archive, task: ShardTask) -> Iterator[_Held]:
    file = open_parquet(archive.store, task.path, num_bytes=task.num_bytes)
    with damage_as_archive_error(archive.store, task.path):
        groups = range(file.metadata.num_row_groups)
        columns = [file.read_group(group, ["container"]).column("container") for group in groups]
        if all(column.null_count == len(column) for column in columns):
            return
        for group, column in zip(groups, columns, strict=True):
            keys = file.read_group(group, ["key"]).column("key").to_pylist()
            yield from zip(column.to_pylist(), keys, strict=True)
