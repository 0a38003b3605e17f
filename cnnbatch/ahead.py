"""Rows read ahead of who goes through them, and pictures decoded ahead in batches once one after the other is asked for pixels.

A thread reads the next batch of rows while this one is gone through. Where `STREAK` pictures in a row were made pixels, it also
decodes them, in the way in which the last one was asked for; who asks for a few pictures only pays for those.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from cnnbatch.errors import BitstreamError, CnnbatchError, DamagedRow, UsageError
from cnnbatch.picture import Codecs, Picture

if TYPE_CHECKING:
    from cnnbatch.archive import ArchiveRow
    from cnnbatch.codec.codec import Decoder, Pixels

BATCH_IMAGES: Final = 64
BATCH_PIXELS: Final = 4 << 20
BATCH_BYTES: Final = 32 << 20
"""Bytes of payloads. A picture that is larger than a batch may be has one of its own."""

STREAK: Final = 2

How = tuple["Decoder", float]
"""Decoder and scale."""


class Batch:
    """Rows that were read together; `pixels` of them are decoded together where they are `wanted`."""

    def __init__(self, codecs: Codecs) -> None:
        self.rows: list[ArchiveRow | DamagedRow] = []
        self.error: CnnbatchError | None = None
        """Raised behind the last row."""
        self.is_last = False
        self.how: How | None = None
        """In which it was decoded."""
        self._codecs, self._lock = codecs, threading.Lock()
        self._num_pixels = self._num_bytes = 0
        self._decoded: dict[int, Pixels | BitstreamError] = {}
        self._asked: tuple[int, How] | None = None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A picture is pickled without it."""
        return type(None), ()

    def add(self, row: "ArchiveRow | DamagedRow") -> bool:
        """Takes a row where there is room for it; an empty batch takes any. Returns whether it did."""
        pixels, size = (0, 0) if isinstance(row, DamagedRow) else (_pixels(row), len(row.payload))
        pixels, size = self._num_pixels + pixels, self._num_bytes + size
        if self.rows and (len(self.rows) >= BATCH_IMAGES or pixels > BATCH_PIXELS or size > BATCH_BYTES):
            return False
        self.rows.append(row)
        self._num_pixels, self._num_bytes = pixels, size
        return True

    def decode(self, how: How, start: int = 0) -> None:
        """Decodes the rows from ``start`` on; what cannot be says so where it is asked for."""
        from cnnbatch.stages.restoring import reconstruct_each

        by_codec: dict[str, list[ArchiveRow]] = {}
        for row in self.rows[start:]:
            if not isinstance(row, DamagedRow) and row.codec_id is not None:
                by_codec.setdefault(row.codec_id, []).append(row)
        with self._lock:
            self.how, self._decoded = how, {}
            for codec_id, rows in by_codec.items():
                try:
                    images = reconstruct_each(self._codecs[codec_id], rows, decoder=how[0], scale=how[1])
                except CnnbatchError:  # the codec file's fault: each picture will find it
                    continue
                self._decoded |= {id(row): image for row, image in zip(rows, images, strict=True)}

    def pixels(self, row: "ArchiveRow", how: How) -> "Pixels | BitstreamError | None":
        """The pixels of a row, which are given once; None: it is to be decoded alone."""
        with self._lock:
            self._asked = id(row), how
            return self._decoded.pop(id(row), None) if how == self.how else None

    def how_asked(self, row: "ArchiveRow") -> How | None:
        """In which way the pixels of a row were asked for, if it was the last one that was."""
        return self._asked[1] if self._asked is not None and self._asked[0] == id(row) else None

    def clear(self) -> None:
        """Forgets pixels that nobody asked for."""
        with self._lock:
            self._decoded.clear()


def _pixels(row: "ArchiveRow") -> int:
    return (row.width or 0) * (row.height or 0) if row.outcome == "cnn" else 0


class _Reader:
    """Makes batches of rows, and decodes them where ``how`` says so."""

    def __init__(self, rows: "Iterator[ArchiveRow | DamagedRow]", codecs: Codecs) -> None:
        self.how: How | None = None
        self._rows, self._codecs = rows, codecs
        self._left: ArchiveRow | DamagedRow | None = None
        """The row that did not fit the last batch."""

    def batch(self) -> Batch:
        """The next one."""
        batch = Batch(self._codecs)
        if self._left is not None:
            batch.add(self._left)
            self._left = None
        try:
            for row in self._rows:
                if not batch.add(row):
                    self._left = row
                    break
            else:
                batch.is_last = True
        except CnnbatchError as error:
            batch.error, batch.is_last = error, True
        if self.how is not None:
            batch.decode(self.how)
        return batch


def pictures_ahead(rows: "Iterator[ArchiveRow | DamagedRow]", codecs: Codecs) -> Iterator[Picture | DamagedRow]:
    """Yield the pictures of ``rows`` in order, a damaged row as its error; raise what ``rows`` raises, behind all before it."""
    reader, process = _Reader(rows, codecs), os.getpid()
    how: How | None = None
    streak = 0
    pool = ThreadPoolExecutor(1, thread_name_prefix="cnnbatch-ahead")
    try:
        coming = pool.submit(reader.batch)
        while True:
            batch = coming.result()
            if not batch.is_last:
                coming = pool.submit(reader.batch)
            for place, row in enumerate(batch.rows):
                if isinstance(row, DamagedRow):
                    yield row
                    continue
                if streak >= STREAK and how is not None and batch.how != how:
                    reader.how = how
                    batch.decode(how, place)
                yield Picture(row, codecs, batch)
                if os.getpid() != process:
                    raise UsageError("this iterator was made before the process forked: make a new one here")
                before, how = how, batch.how_asked(row)
                streak = streak + 1 if how is not None and how == before else 0 if how is None else 1
                reader.how = reader.how if streak else None
            batch.clear()
            if batch.error is not None:
                raise batch.error
            if batch.is_last:
                return
    finally:
        if os.getpid() == process:
            pool.shutdown(cancel_futures=True)
