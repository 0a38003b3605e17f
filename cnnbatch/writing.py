"""Archives written from Python, without Ray and in one process; a folder or a bucket is `jobs.compress`'s.

::

    with cnnbatch.create("s3://bucket/archive", target_ssimulacra2=80) as archive:
        archive.add("2024/a.jpg", Path("a.jpg").read_bytes())           # a file, as it is
        archive.add("2024/b", pixels, label="cat", camera="left")       # uint8 [H, W, 3] or [H, W], or a PIL image

The shards and commits are those of the job: what is added is in the archive once its shard is committed, at the latest when the
``with`` block ends; where the block ends with an error, what was not committed before is not. A key that the archive has
already is replaced.
"""

import io
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import ValidationError

from cnnbatch.archive import ArchiveLog, ArchiveRow, Lease
from cnnbatch.archive.erased import read_erased
from cnnbatch.archive.fields import Field, dump_fields
from cnnbatch.archive.reader import Archive, open_archive
from cnnbatch.archive.shards import write_shard
from cnnbatch.errors import UsageError
from cnnbatch.stages.commit import Committer
from cnnbatch.stages.records import CompressResult, Tally
from cnnbatch.storage import ObjectInfo, StorageConfig, open_store

if TYPE_CHECKING:
    from PIL import Image

    from cnnbatch.codec import Codec
    from cnnbatch.codec.codec import Pixels

SHARD_IMAGES: Final = 2000
SHARD_BYTES: Final = 128 << 20
"""Payloads and metadata of a shard, about."""

TOGETHER_IMAGES: Final = 32
TOGETHER_BYTES: Final = 16 << 20
"""Size of the files that are coded in one call."""

COMMIT_SHARDS: Final = 1

logger = logging.getLogger(__name__)


class ArchiveWriter:
    """Adds images to an archive; see `create`."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        config: StorageConfig | None = None,
        *,
        codec: "Codec | str | None" = None,
        device: str | None = None,
        **compression: Any,
    ) -> None:
        """See `create`."""
        from cnnbatch.codec import Codec, read_codec_file
        from cnnbatch.stages.compress import ShardCompressor
        from cnnbatch.stages.settings import CompressionSettings

        self.url = os.fspath(url)
        try:
            settings = CompressionSettings(**compression)
        except ValidationError as error:
            fault = error.errors()[0]
            raise UsageError(f"{'.'.join(map(str, fault['loc'])) or 'compression'}: {fault['msg']}") from None
        if not isinstance(codec, Codec):
            codec = Codec(read_codec_file(codec), device=device)
        store = open_store(self.url, config)
        store.check_writable()
        self.run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self._log = ArchiveLog.create_or_open(self.url, config, codec_files=[codec.data])
        self._config, self._store = config, store
        self._compressor = ShardCompressor(store, store, codec, settings, run_id=self.run_id)
        self._lease = Lease(store, run_id=self.run_id)
        self._keys: set[str] = set()
        self._waiting: list[tuple[ObjectInfo, bytes, bytes | None, str | None]] = []
        self._rows: list[ArchiveRow] = []
        self._shards = 0
        self._committer: Committer | None = None
        self._base: Archive | None = None

    def __enter__(self) -> Self:
        """Take the archive's lease; raises LeaseHeld where another run has it."""
        self._lease.__enter__()
        self._base = open_archive(self.url, self._config)
        self._committer = Committer(self._log, self.run_id, self._base.snapshot, COMMIT_SHARDS, 0.0)
        self._erased = read_erased(self._store)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._committer = None
            self._lease.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<cnnbatch archive {self.url}, being written: {len(self._keys):,} images added>"

    def add(self, key: str, image: "bytes | Pixels | Image.Image", *, label: str | None = None, **fields: Any) -> None:
        """Add one image under ``key``: the bytes of a file, or pixels, which count as the PNG file of them.

        ``label`` and ``fields`` (text, numbers, bytes, None) lie beside it, as those of a data set do. What cannot be coded
        faithfully is kept as it is, as in a job.

        Raises:
            UsageError: the key was added before, or erased from the archive, or is empty; a file that is too large.
            ValueError: an array or a PIL image that is not 8-bit gray, RGB or one of both with alpha.
        """
        if self._committer is None:
            raise UsageError("images are added inside `with cnnbatch.create(url) as archive:`")
        if not key or key in self._keys or key in self._erased:
            fault = "is empty" if not key else "was added before" if key in self._keys else "was erased from this archive"
            raise UsageError(f"the key {key[:200]!r} {fault}")
        data = bytes(image) if isinstance(image, bytes | bytearray | memoryview) else _png(image)
        if len(data) > (limit := self._compressor.settings.max_source_bytes):
            raise UsageError(f"{key!r} has {len(data):,} bytes, the limit is {limit:,}")
        beside = dump_fields([Field(name, value) for name, value in fields.items()])
        self._keys.add(key)
        self._waiting.append((ObjectInfo(key, len(data), mtime=datetime.now(UTC)), data, beside, label))
        if len(self._waiting) >= TOGETHER_IMAGES or sum(len(one[1]) for one in self._waiting) >= TOGETHER_BYTES:
            self._code()
        if len(self._rows) >= SHARD_IMAGES or sum(len(row.payload) for row in self._rows) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write and commit what was added."""
        self._code()
        if not self._rows or self._committer is None:
            return
        rows, self._rows = self._rows, []
        shard = write_shard(self._store, rows, footer=self._compressor.footer)
        self._shards += 1
        self._committer.add(CompressResult(self._shards, shard, Tally(), ()), self._held([row.key for row in rows]))
        self._committer.flush()

    def _code(self) -> None:
        waiting, self._waiting = self._waiting, []
        rows = self._compressor.rows([(info, data) for info, data, _, _ in waiting])
        for row, (_, _, beside, label) in zip(rows, waiting, strict=True):
            self._rows.append(replace(row, fields=beside, label=label))

    def _held(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Those of the keys that the archive had at the start, with the shard that has each."""
        return dict(self._places(keys))

    def _places(self, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
        assert self._base is not None
        for shard in self._base.shards():
            wanted = {key for key in keys if shard.may_hold(key)}
            if wanted:
                yield from ((key, shard.path) for key in wanted.intersection(self._base.shard_keys(shard)))


def _png(image: "Pixels | Image.Image") -> bytes:
    """An array or a PIL image as a PNG file."""
    import numpy as np
    from PIL import Image

    if not isinstance(image, Image.Image):
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
            raise ValueError(f"an image is uint8 [H, W], [H, W, 3] or [H, W, 4], got {pixels.dtype} {list(pixels.shape)}")
        image = Image.fromarray(pixels)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ValueError(f"a PIL image of the mode {image.mode}: write image.convert('RGB'), or add the bytes of its file")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=image.getexif(), icc_profile=image.info.get("icc_profile"))
    return buffer.getvalue()


def create(
    url: str | os.PathLike[str],
    config: StorageConfig | None = None,
    *,
    codec: "Codec | str | None" = None,
    device: str | None = None,
    **compression: Any,
) -> ArchiveWriter:
    """Make an archive, or go on with one that is there: ``with cnnbatch.create(url) as archive: archive.add(key, image)``.

    ``codec``: a `Codec`, or the name or path of a codec file. ``compression``: ``quality=40``, ``target_ssimulacra2=80``,
    ``lossless=True`` … as the options of ``cnnbatch compress``.

    Raises:
        UsageError: no place for an archive, or a wrong setting.
        StorageError: the store refused.
        LeaseHeld: another run is writing; raised by ``with``.
    """
    return ArchiveWriter(url, config, codec=codec, device=device, **compression)
