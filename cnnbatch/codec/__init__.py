"""The learned codec: pixels ↔ bitstreams."""

from cnnbatch.codec.codec import (
    DEFAULT_QUALITY,
    MAX_QUALITY,
    SHIPPED,
    Codec,
    Limits,
    read_codec_file,
    shipped_codec,
    shipped_codec_of,
)

__all__ = [
    "DEFAULT_QUALITY",
    "MAX_QUALITY",
    "SHIPPED",
    "Codec",
    "Limits",
    "read_codec_file",
    "shipped_codec",
    "shipped_codec_of",
]
