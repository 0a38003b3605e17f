"""Gives one shard back: read and check rows → decode → encode in the wanted format → write below the destination."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain

from cnnbatch.archive.reader import Archive
from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.archive.shard_reading import read_shard
from cnnbatch.codec.codec import Pixels
from cnnbatch.errors import ArchiveError, BitstreamError, DamagedRow, ImageError
from cnnbatch.stages.batches import in_batches
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.isolation import KILLS_WORKER, Keyed, unwatched
from cnnbatch.stages.names import names_taken
from cnnbatch.stages.records import Failure, ShardResult, ShardTask, Tally
from cnnbatch.stages.restoring import reconstruct_each, restore_file
from cnnbatch.stages.settings import ReconstructionSettings
from cnnbatch.stages.shard_files import ShardFiles, Written
from cnnbatch.stages.whole_files import KINDS, KeysOf, WholeFile, is_of
from cnnbatch.storage import Store

WRITE_TOGETHER = 64
WRITE_BYTES = 1 << 18
"""Decoded; what is larger is written as soon as it is encoded."""

Files = ShardFiles | WholeFile

_Image = tuple[ArchiveRow, Pixels | None]
"""A row and its pixels; None: it was stored."""


class ShardReconstructor:
    """Gives one shard after the other back on one worker; loads each codec the rows name once."""

    def __init__(self, archive: Store, destination: Store, codecs: CodecShelf, settings: ReconstructionSettings) -> None:
        self.archive, self.destination, self.codecs, self.settings = archive, destination, codecs, settings
        self.watch: Callable[[Keyed], AbstractContextManager[None]] = unwatched

    def __call__(self, task: ShardTask) -> ShardResult:
        """Every row of ``task`` is written, was there already, or is a failure."""
        failures: list[Failure] = []
        files = self._files(task)
        with ThreadPoolExecutor(self.settings.write_threads, thread_name_prefix="write") as pool:
            return self._finish(task, files, self._outputs(task, files, pool, failures), failures)

    def one_by_one(self, task: ShardTask, restore: Callable[[ArchiveRow], bytes | None]) -> ShardResult:
        """The same with each file made by ``restore``: None where that killed its process. One row in memory at a time."""
        failures: list[Failure] = []
        files = self._files(task)
        outputs = ((row, self._restored(row, files, restore)) for row in self._rows(task, failures))
        return self._finish(task, files, outputs, failures)

    def file_of(self, row: ArchiveRow) -> bytes:
        """The file of one row alone. Raises BitstreamError, ImageError."""
        pixels = None
        if row.codec_id is not None:
            [image] = reconstruct_each(self.codecs[row.codec_id], [row], decoder=self.settings.decoder)
            if isinstance(image, BitstreamError):
                raise image
            pixels = image
        return restore_file(row, pixels, format=self.settings.format)

    def _files(self, task: ShardTask) -> Files:
        format, force = self.settings.format, self.settings.force
        if task.whole is not None:
            return KINDS[task.whole.kind](self.destination, task, format, force=force)
        return ShardFiles(self.destination, task, format, force=force, columns=self.settings.layout == "folder")

    def _outputs(
        self, task: ShardTask, files: Files, pool: ThreadPoolExecutor, failures: list[Failure]
    ) -> Iterator[tuple[ArchiveRow, Written | Failure]]:
        rows = self._rows(task, failures)
        for batch in in_batches(rows, pixels=lambda row: row.coded_pixels, max_pixels=self.settings.batch_pixels):
            decoded = self._decode(batch, failures)
            outcomes = chain.from_iterable(pool.map(partial(self._write, files), _small_together(decoded)))
            yield from zip([row for row, _ in decoded], outcomes, strict=True)

    def _restored(self, row: ArchiveRow, files: Files, restore: Callable[[ArchiveRow], bytes | None]) -> Written | Failure:
        try:
            data = restore(row)
        except (BitstreamError, ImageError) as error:
            return Failure.of(row.key, "decode", error)
        killed = Failure(row.key, "decode", "kills-worker", KILLS_WORKER)
        [outcome] = files.write([row], [killed if data is None else data])
        return outcome

    def _finish(
        self,
        task: ShardTask,
        files: Files,
        outputs: Iterable[tuple[ArchiveRow, Written | Failure]],
        failures: list[Failure],
    ) -> ShardResult:
        """Counts the files; marks the shard where none failed."""
        counts: Counter[str] = Counter()
        sizes: dict[str, int] = {}
        written_bytes = payload_bytes = pixels = 0
        started = time.monotonic()
        for row, outcome in outputs:
            if isinstance(outcome, Failure):
                failures.append(outcome)
                continue
            counts["skipped" if outcome.was_there else "written"] += 1
            sizes[files.name(row)] = outcome.num_bytes
            written_bytes += 0 if outcome.was_there else outcome.num_bytes
            payload_bytes += len(row.payload)
            pixels += row.coded_pixels
        closed = files.close(sizes, failed=bool(failures))
        failures += closed.failures
        if closed.was_there:
            counts, written_bytes = Counter(skipped=counts.total()), 0
        if failures:
            counts["failed"] = len(failures)
        tally = Tally(
            images=dict(counts),
            reasons=dict(Counter(f.error for f in failures)),
            source_bytes=written_bytes,
            payload_bytes=payload_bytes,
            pixels=pixels,
            seconds={"reconstruct": time.monotonic() - started},
        )
        return ShardResult(task.number, tally, tuple(failures))

    def _rows(self, task: ShardTask, failures: list[Failure]) -> Iterator[ArchiveRow]:
        keys = None if task.keys is None else frozenset(task.keys)
        wanted = keys if task.whole is None or task.whole.container is None else KeysOf(task.whole)
        for path, num_bytes in ((task.path, task.num_bytes),) if task.whole is None else task.whole.shards:
            try:
                for row in read_shard(self.archive, path, keys=wanted, num_bytes=num_bytes):
                    if isinstance(row, DamagedRow):
                        failures.append(Failure.of(path, "read", row))
                    elif task.whole is None or is_of(row, task.whole):
                        yield row
            except ArchiveError as error:  # no row of it can be read: the other shards can
                failures.append(Failure.of(path, "read", error))

    def _decode(self, batch: Sequence[ArchiveRow], failures: list[Failure]) -> list[tuple[ArchiveRow, Pixels | None]]:
        """Rows with their pixels (None: stored); rows that cannot be decoded become failures."""
        decoded: list[tuple[ArchiveRow, Pixels | None]] = [(row, None) for row in batch if row.outcome == "store"]
        by_codec: dict[str, list[ArchiveRow]] = {}
        for row in batch:
            if row.codec_id is not None:
                by_codec.setdefault(row.codec_id, []).append(row)
        for codec_id, rows in by_codec.items():
            codec = self.codecs[codec_id]
            with self.watch(rows[0]):
                images = reconstruct_each(codec, rows, decoder=self.settings.decoder)
            for row, image in zip(rows, images, strict=True):
                if isinstance(image, BitstreamError):
                    failures.append(Failure.of(row.key, "decode", image))
                else:
                    decoded.append((row, image))
        return decoded

    def _write(self, files: Files, images: Sequence[_Image]) -> list[Written | Failure]:
        """Makes and writes one file for each."""
        return files.write([row for row, _ in images], [self._file(row, pixels) for row, pixels in images])

    def _file(self, row: ArchiveRow, pixels: Pixels | None) -> bytes | Failure:
        try:
            with self.watch(row):
                return restore_file(row, pixels, format=self.settings.format)
        except ImageError as error:
            return Failure.of(row.key, "write", error)


def _small_together(images: Iterable[_Image]) -> Iterator[list[_Image]]:
    """In parts that are written together: many small ones, or a large one alone."""
    part: list[_Image] = []
    size = 0
    for row, pixels in images:
        part.append((row, pixels))
        size += len(row.payload) if pixels is None else pixels.nbytes
        if size > WRITE_BYTES or len(part) == WRITE_TOGETHER:
            yield part
            part, size = [], 0
    if part:
        yield part


def plan_tasks(archive: Archive, pattern: str, *, format: str | None = None) -> list[ShardTask]:
    """One task for each shard that holds a key matching ``pattern``; ``format``: of the files that are written of them."""
    tasks: list[ShardTask] = []
    taken = {} if format is None else names_taken(archive, format)
    for shard in archive.shards():
        try:
            keys = None if pattern == "*" else tuple(archive.shard_keys(shard, pattern))
        except ArchiveError:  # nobody knows which of them it has; its worker will say so
            tasks.append(ShardTask(len(tasks), shard.path, shard.num_bytes, 0, (), ()))
            continue
        if keys is None or keys:
            count = shard.num_rows if keys is None else len(keys)
            tasks.append(ShardTask(len(tasks), shard.path, shard.num_bytes, count, keys, taken.get(shard.path, ())))
    return tasks
