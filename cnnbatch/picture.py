"""One picture: its row, and the codec that makes pixels of it."""

import hashlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cnnbatch.errors import BitstreamError, CodecFileError, ImageError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from cnnbatch.archive import ArchiveRow
    from cnnbatch.codec import Codec
    from cnnbatch.codec.codec import Decoder, Pixels
    from cnnbatch.codec.interface import Keep

MAX_PIXELS = 1 << 30
"""A larger stored picture is not decoded, though its file can be had; the limit of a bitstream, too."""

LISTED = (
    *("key", "label", "source_format", "source_size", "width", "height", "outcome", "reason"),
    *("quality", "psnr_db", "ssimulacra2", "codec_id"),
)
"""The small columns that `Archive.listing` gives of every picture."""

PREVIEW_PIXELS = 1 << 20
"""About as many a notebook shows."""


class Codecs(Protocol):
    """Where the codec of a picture comes from."""

    def __getitem__(self, codec_id: str) -> "Codec":
        """Raises CodecFileError if it is not to be had."""


class Ahead(Protocol):
    """Where pixels of a picture may be that were decoded with others; see `cnnbatch.ahead`."""

    def pixels(self, row: "ArchiveRow", how: "tuple[Decoder, float]") -> "Pixels | BitstreamError | None":
        """They, or why there are none; None where it is to be decoded alone."""


@dataclass(frozen=True, slots=True, repr=False)
class Picture:
    """One picture: ``row`` is all that is stored of it."""

    row: "ArchiveRow"
    codecs: Codecs
    _ahead: Ahead | None = field(default=None, compare=False)

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
        self,
        *,
        top: int,
        left: int,
        height: int,
        width: int,
        decoder: "Decoder" = "full",
        scale: float = 1,
        keep: "Keep | None" = None,
    ) -> "Pixels":
        """Part of `image` with the same ``decoder`` and ``scale``, of which no more is decoded than needed; errors as there.

        ``keep``: see `Codec.reconstruct_region`.

        Raises ValueError for a region that is not inside the picture.
        """
        if self.row.outcome == "cnn":
            return self.codecs[self.row.codec_id or ""].reconstruct_region(
                self.row.payload, top=top, left=left, height=height, width=width, decoder=decoder, scale=scale, keep=keep
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

        pixels = None if self._ahead is None else self._ahead.pixels(self.row, (decoder, scale))
        if pixels is None:
            [pixels] = reconstruct_each(self.codecs[self.row.codec_id or ""], [self.row], decoder=decoder, scale=scale)
        if isinstance(pixels, BitstreamError):
            raise BitstreamError(f"{self.key!r}: {pixels}") from pixels
        return pixels


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
        raise CodecFileError(f"the codec {codec_id} does not come with this cnnbatch{also}")
