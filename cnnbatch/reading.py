"""Pictures out of an archive, or out of a ``.cnb`` file, as arrays and as files.

::

    archive = cnnbatch.open("s3://bucket/archive")
    len(archive), "2024/a.jpg" in archive
    for key in archive.keys("2024/*"):             # a glob in which * crosses /
        picture = archive[key]
    picture.image()                                # uint8 [H, W, 3] or [H, W], as stored
    picture.image(scale=1 / 8)                     # a preview, in less time; decoder="draft": nearly the same, in a third
    picture.file()                                 # the bytes of a file of the original's format
    picture.row                                    # everything the archive knows of it

Codec files are taken out of the archive itself; torch is imported with the first picture that needs a network.
"""

import hashlib
import io
import os
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from cnnbatch import archive
from cnnbatch.archive import ArchiveInfo, ArchiveRow
from cnnbatch.archive.reader import PAYLOAD_BYTES, Kind, matcher
from cnnbatch.archive.where import Condition
from cnnbatch.errors import BitstreamError, CodecFileError, DamagedRow, ImageError
from cnnbatch.stages.codecs import CodecShelf
from cnnbatch.storage import StorageConfig
from cnnbatch.text import visible

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from cnnbatch.codec import Codec
    from cnnbatch.codec.codec import Decoder, Pixels

MAX_PIXELS = 1 << 30
"""A larger stored picture is not decoded, though its file can be had; the limit of a bitstream, too."""

LISTED = (
    *("key", "label", "source_format", "source_size", "width", "height", "outcome", "reason"),
    *("quality", "psnr_db", "ssimulacra2", "codec_id"),
)
"""The small columns that `Archive.listing` gives of every picture."""


LISTED_KEYS = 5
"""How many keys a notebook shows of an archive."""

OUTCOMES = {"cnn": "Coded", "store": "Kept as they were"}


class Codecs(Protocol):
    """Where the codec of a picture comes from."""

    def __getitem__(self, codec_id: str) -> "Codec":
        """Raises CodecFileError if it is not to be had."""


PREVIEW_PIXELS = 1 << 20
"""About as many a notebook shows."""


@dataclass(frozen=True, slots=True, repr=False)
class Picture:
    """One picture: ``row`` is all that is stored of it."""

    row: ArchiveRow
    codecs: Codecs

    @property
    def key(self) -> str:
        """Its path in the source."""
        return self.row.key

    def __repr__(self) -> str:
        row = self.row
        size = f"{row.width} × {row.height} " if row.width else ""
        how = row.reason if row.quality is None else f"quality {row.quality:g}"
        return f"<cnnbatch picture {self.key!r}: {size}{row.source_format}, {row.outcome}, {how}>"

    def __array__(self, dtype: "npt.DTypeLike | None" = None, copy: bool | None = None) -> "npt.NDArray[Any]":
        """Give its pixels to ``np.asarray(picture)``; see `image`."""
        import numpy as np

        if copy is False:
            raise ValueError("a picture is decoded anew for each array")
        return np.asarray(self.image(), dtype=dtype)

    def pil(self) -> "Image.Image":
        """It as a PIL image, RGB or L; see `image`."""
        from PIL import Image

        return Image.fromarray(self.image())

    def _repr_png_(self) -> bytes | None:
        """A preview for notebooks; None where nothing here can decode it."""
        from PIL import Image

        from cnnbatch.codec.geometry import SCALES

        pixels = (self.row.width or 0) * (self.row.height or 0)
        by = next((number for number in SCALES if pixels <= PREVIEW_PIXELS * number**2), SCALES[-1])
        buffer = io.BytesIO()
        try:
            Image.fromarray(self.image(scale=1 / by)).save(buffer, "PNG")
        except ImageError:
            return None
        return buffer.getvalue()

    def image(self, *, max_pixels: int = MAX_PIXELS, decoder: "Decoder" = "full", scale: float = 1) -> "Pixels":
        """Its colours as uint8 [H, W, 3] or [H, W] gray, neither turned by its orientation nor blended with its alpha.

        ``decoder``, ``scale``: see `Codec.reconstruct`; a stored picture is decoded whole and made smaller.

        Raises:
            ImageError: an original that was stored because nothing here can decode it (`file` gives it back).
            BitstreamError: the coded bytes are damaged.
            CodecFileError: the codec file is missing or damaged.
        """
        if self.row.outcome == "cnn":
            return self._reconstruct(decoder, scale)
        from cnnbatch.codec.geometry import divisor, reduced
        from cnnbatch.images import decode

        return reduced(decode(self.file(), max_pixels=max_pixels).pixels, divisor(scale))

    def region(
        self, *, top: int, left: int, height: int, width: int, decoder: "Decoder" = "full", scale: float = 1
    ) -> "Pixels":
        """Part of `image` with the same ``decoder`` and ``scale``, of which no more is decoded than needed; errors as there.

        Raises ValueError for a region that is not inside the picture.
        """
        if self.row.outcome == "cnn":
            return self.codecs[self.row.codec_id or ""].reconstruct_region(
                self.row.payload, top=top, left=left, height=height, width=width, decoder=decoder, scale=scale
            )
        from cnnbatch.codec.geometry import Region

        return Region(top, left, height, width).cut(self.image(scale=scale))

    def file(self, format: str = "original", *, decoder: "Decoder" = "full", scale: float = 1) -> bytes:
        """It as a file: ``original`` (coded as its original, never larger), ``png``, ``webp`` or ``jpeg`` (4:4:4, quality 95).

        A stored original comes back byte for byte, whatever ``format`` says, but for a ``scale`` below 1.

        Raises:
            ImageError: damaged metadata, or a picture too large for the format.
            BitstreamError, CodecFileError: as `image`.
        """
        from cnnbatch.codec.geometry import divisor
        from cnnbatch.stages.restoring import restore_file

        pixels = self._reconstruct(decoder, scale) if self.row.outcome == "cnn" else None
        return restore_file(self.row, pixels, format=format, by=divisor(scale))

    def _reconstruct(self, decoder: "Decoder", scale: float) -> "Pixels":
        from cnnbatch.stages.restoring import reconstruct_each

        [pixels] = reconstruct_each(self.codecs[self.row.codec_id or ""], [self.row], decoder=decoder, scale=scale)
        if isinstance(pixels, BitstreamError):
            raise BitstreamError(f"{self.key!r}: {pixels}") from pixels
        return pixels


class Keys(KeysView[str]):
    """Keys that match a glob; they are read each time that somebody goes through them."""

    def __init__(self, archive: "Archive", pattern: str) -> None:
        super().__init__(archive)
        self._archive, self._pattern = archive, pattern

    def __iter__(self) -> Iterator[str]:
        return self._archive.rows.keys(self._pattern)

    def __len__(self) -> int:
        return len(self._archive) if self._pattern == "*" else sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and matcher(self._pattern)(key) and key in self._archive

    def __repr__(self) -> str:
        return f"<keys {self._pattern!r} of {self._archive!r}>"


class Pictures(ValuesView[Picture]):
    """The pictures, shard by shard; a damaged one raises when it is reached."""

    def __init__(self, archive: "Archive") -> None:
        super().__init__(archive)
        self._archive = archive

    def __iter__(self) -> Iterator[Picture]:
        for picture in self._archive.pictures():
            if isinstance(picture, DamagedRow):
                raise picture
            yield picture


class Items(ItemsView[str, Picture]):
    """Keys and pictures, shard by shard."""

    def __init__(self, archive: "Archive") -> None:
        super().__init__(archive)
        self._archive = archive

    def __iter__(self) -> Iterator[tuple[str, Picture]]:
        return ((picture.key, picture) for picture in self._archive.values())


class Archive(Mapping[str, Picture]):
    """One version of an archive, as it was when it was opened; a mapping from keys to pictures."""

    __eq__ = object.__eq__  # that of a mapping would read all of both
    __hash__ = object.__hash__

    def __init__(self, rows: archive.Archive, *, device: str | None = None) -> None:
        """``rows``: the archive's table; ``device``: where codecs run, by default a GPU if there is one."""
        self.rows = rows
        self._codecs = CodecShelf(rows.store, device=device, lazy=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.rows.store.url

    @property
    def codecs(self) -> Codecs:
        """The codecs that its rows name, each loaded once."""
        return self._codecs

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return self.rows.keys()

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def __getitem__(self, key: str) -> Picture:
        """Read one picture, with a few small requests whatever the size of its shard.

        Raises:
            KeyError: there is none of this key.
            DamagedRow: its checksum or metadata is wrong.
        """
        return Picture(self.rows[key], self._codecs)

    def __repr__(self) -> str:
        return f"<cnnbatch archive {self.url}: {len(self)} images>"

    def _repr_html_(self) -> str:
        """Its contents as a table, for a notebook: figures from the shards' footers, and the keys that come first."""
        info, shards = self.info(), self.rows.shards()
        first = self.rows.shard_keys(shards[0])[:LISTED_KEYS] if shards else []
        table = {
            "Pictures": f"{info.num_images:,}",
            **{OUTCOMES.get(outcome, outcome): f"{count:,}" for outcome, count in sorted(info.outcomes.items())},
            "Originals": f"{info.source_bytes / 1e6:,.1f} MB",
            "Archive": f"{info.archive_bytes / 1e6:,.1f} MB, ratio {info.ratio:.2f}",
            "Shards": f"{info.num_shards:,}, log version {info.log_version}",
            "First keys": ", ".join(first) + (" …" if len(first) < info.num_images else ""),
        }
        rows = (f"<tr><th>{escape(visible(name))}</th><td>{escape(visible(value))}</td></tr>" for name, value in table.items())
        return f"<table><caption>{escape(visible(self.url))}</caption>{''.join(rows)}</table>"

    def locate(self, key: str) -> tuple[str, int, int]:
        """Where a picture's payload is: file of the archive, offset, length. Raises KeyError, ArchiveError."""
        return self.rows.locate(key)

    def keys(self, pattern: str = "*") -> Keys:
        """The keys that match a glob in which ``*`` crosses ``/``, in shard order."""
        return Keys(self, pattern)

    def values(self) -> Pictures:
        """The pictures, as `pictures` reads them."""
        return Pictures(self)

    def items(self) -> Items:
        """Keys and pictures, as `pictures` reads them."""
        return Items(self)

    def pictures(self, pattern: str = "*") -> Iterator[Picture | DamagedRow]:
        """Yield the pictures whose key matches, shard by shard, which is faster than key by key; a damaged one as its error."""
        for row in self.rows.rows(pattern):
            yield row if isinstance(row, DamagedRow) else Picture(row, self._codecs)

    def listing(
        self, pattern: str = "*", condition: Condition | None = None, *, columns: Sequence[str] = (*LISTED, PAYLOAD_BYTES)
    ) -> Iterator[dict[str, Any]]:
        """Yield these columns of the pictures whose key matches, and of which ``condition`` holds; no payload is read."""
        if condition is None:
            yield from self.rows.columns(columns, pattern)
            return
        for row in self.rows.columns(tuple({*columns, *condition.columns}), pattern):
            if condition.holds(row):
                yield {name: row[name] for name in columns}

    def info(self) -> ArchiveInfo:
        """Add up the archive's figures: about one small request a shard."""
        return self.rows.info()

    def kinds(self) -> list[Kind]:
        """Count images by format, outcome and reason: a few small requests a shard."""
        return self.rows.kinds()


@dataclass(frozen=True, slots=True)
class CodecFiles:
    """The codec files that come with the package, and the bytes of another one: for what is outside of an archive.

    ``Picture(parse_cnb(data), CodecFiles())`` is the picture of a ``.cnb`` file.
    """

    given: bytes | None = field(default=None, repr=False)
    device: str | None = None

    def __getitem__(self, codec_id: str) -> "Codec":
        """Raises CodecFileError if none is the one."""
        from cnnbatch.codec import Codec, shipped_codec_of

        is_given = self.given is not None and hashlib.sha256(self.given).hexdigest() == codec_id
        data = self.given if is_given else shipped_codec_of(codec_id)
        if data is not None:
            return Codec(data, device=self.device, lazy=True)
        also = ": name its file with --codec" if self.given is None else ", nor the one that was given"
        raise CodecFileError(f"the codec {codec_id} is none that comes with this cnnbatch{also}")


def open(url: str | os.PathLike[str], config: StorageConfig | None = None, *, device: str | None = None) -> Archive:
    """Open the newest version of an archive; without ``config`` the environment counts. This is ``cnnbatch.open``.

    Raises:
        ArchiveError: there is none, or one of an unknown format.
        StorageError: the store refused.
        UsageError: not a URL of an archive.
    """
    return Archive(archive.open_archive(os.fspath(url), config), device=device)
