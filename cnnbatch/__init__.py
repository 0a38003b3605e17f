"""Image archives in object storage, made smaller by a convolutional codec, and every picture given back.

::

    codec = cnnbatch.Codec.load()                          # the codec file that comes with the package
    bitstreams = codec.compress(images, quality=32)        # uint8 arrays [H, W, 3] or [H, W] → bytes
    images = codec.reconstruct(bitstreams)

    archive = cnnbatch.open("s3://bucket/archive")         # see `cnnbatch.reading`
    len(archive), list(archive.keys("2024/*"))
    archive["2024/a.jpg"].image()

    with cnnbatch.create("s3://bucket/archive") as archive:  # see `cnnbatch.writing`
        archive.add("2024/a.jpg", image_or_bytes)

`Codec`, `open` and `create` are imported when they are first used: torch takes seconds.
"""

from typing import TYPE_CHECKING

from cnnbatch.compiled_code import keep_compiled_code
from cnnbatch.errors import (
    ArchiveError,
    BitstreamError,
    CnnbatchError,
    CodecFileError,
    DamagedRow,
    ImageError,
    StorageError,
    UsageError,
)
from cnnbatch.version import VERSION

if TYPE_CHECKING:
    from cnnbatch.codec import Codec
    from cnnbatch.reading import open as open
    from cnnbatch.writing import create

__version__ = VERSION
keep_compiled_code()

__all__ = [
    "ArchiveError",
    "BitstreamError",
    "CnnbatchError",
    "Codec",
    "CodecFileError",
    "DamagedRow",
    "ImageError",
    "StorageError",
    "UsageError",
    "__version__",
    "create",
]
"""Not `open`: ``from cnnbatch import *`` is to leave Python's own where it is."""


def __getattr__(name: str) -> object:
    if name == "Codec":
        from cnnbatch.codec import Codec

        return Codec
    if name == "open":
        from cnnbatch.reading import open

        return open
    if name == "create":
        from cnnbatch.writing import create

        return create
    raise AttributeError(f"module 'cnnbatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "open"})
