"""Rows of an archive made pixels and files again."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from cnnbatch.archive.schema import ArchiveRow
from cnnbatch.choices import CONVERTED
from cnnbatch.codec import Codec
from cnnbatch.codec.codec import Decoder, Pixels
from cnnbatch.codec.container.bitstream import MAX_PIXELS
from cnnbatch.codec.geometry import reduced, reduced_size
from cnnbatch.errors import BitstreamError, ImageError
from cnnbatch.images import FORMATS as IMAGE_FORMATS
from cnnbatch.images import DecodedImage, decode, encode
from cnnbatch.images.alpha import decode_alpha, encode_alpha


def reconstruct_each(
    codec: Codec, rows: Sequence[ArchiveRow], *, decoder: Decoder = "full", scale: float = 1
) -> list[Pixels | BitstreamError]:
    """Decodes rows in one batch, as `Codec.reconstruct`; if one is damaged, each alone, so that only the damaged ones fail.

    Batches are made from the sizes in the rows, so a bitstream of another size is a fault, and nothing is allocated for it.
    """
    faults = [_fault_of(codec, row) for row in rows]
    decode = partial(codec.reconstruct, decoder=decoder, scale=scale)
    images = iter(_decode_each(decode, [row for row, fault in zip(rows, faults, strict=True) if fault is None]))
    return [next(images) if fault is None else fault for fault in faults]


def _fault_of(codec: Codec, row: ArchiveRow) -> BitstreamError | None:
    """The fault of a payload's header."""
    try:
        height, width = codec.shape(row.payload)
    except BitstreamError as error:
        return error
    if (width, height) == (row.width, row.height):
        return None
    return BitstreamError(f"{width} × {height} pixels, the row says {row.width} × {row.height}")


def _decode_each(
    decode: Callable[[Sequence[bytes]], list[Pixels]], rows: Sequence[ArchiveRow]
) -> list[Pixels | BitstreamError]:
    try:
        return list(decode([row.payload for row in rows]))
    except BitstreamError as error:
        if len(rows) == 1:
            return [error]
        return [image for row in rows for image in _decode_each(decode, [row])]


def restore_file(row: ArchiveRow, pixels: Pixels | None, *, format: str, by: int = 1) -> bytes:
    """The file that a row gives back; stored rows byte for byte whatever the format.

    Where the sides are divided ``by`` a number, ``pixels`` are already; a stored picture is decoded and made smaller.
    Raises ImageError where a stored payload or the metadata is damaged.
    """
    if row.outcome == "store" and by > 1:
        return encode(_reduced(decode(restore_file(row, None, format=format), max_pixels=MAX_PIXELS), by), format=format)
    if row.outcome == "store":
        from cnnbatch.images.lossless import restore

        data = restore(row.payload, row.payload_coding, num_bytes=row.source_size)
        if row.payload_coding != "verbatim" and hashlib.sha256(data).digest() != row.source_sha256:
            raise ImageError("checksum", f"{row.key!r}: the restored file is not the original")
        return data
    size = row.height or 0, row.width or 0
    if pixels is None or reduced_size(*size, by) != pixels.shape[:2]:
        raise ImageError("size", f"{row.key!r}: {row.width} × {row.height} in the row, another size in the bitstream")
    if format == "original" and row.source_format not in (*IMAGE_FORMATS, *CONVERTED):
        raise ImageError("format", f"{row.key!r}: no image format {row.source_format!r}")
    image = DecodedImage(
        pixels=pixels,
        format=row.source_format,
        mode=row.mode or "",
        alpha=row.alpha,
        exif=row.exif,
        icc=row.icc,
        xmp=row.xmp,
        segments=row.segments,
    )
    if by > 1:
        return encode(_with_means(image, size, by), format=format)
    return encode(image, format=format, max_bytes=row.source_size)


def _reduced(image: DecodedImage, by: int) -> DecodedImage:
    """A decoded picture with its sides divided ``by`` a number."""
    return _with_means(replace(image, pixels=reduced(image.pixels, by)), image.pixels.shape[:2], by)


def _with_means(image: DecodedImage, size: tuple[int, ...], by: int) -> DecodedImage:
    """The alpha of a picture of ``size`` made smaller, and samples of eight bits: means lie between levels of fewer."""
    kind, *words = image.mode.split() or [""]
    kept = [word for word in words if not word.startswith("bits=")]
    small = replace(image, mode=" ".join(["L" if kind == "1" else kind, *kept]))
    if image.alpha is None:
        return small
    return replace(small, alpha=encode_alpha(reduced(decode_alpha(image.alpha, (size[0], size[1])), by)))
