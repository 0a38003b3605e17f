"""The learned codec: pixels ↔ bitstreams."""

from cnnbatch.codec.codec import DEFAULT_QUALITY, MAX_QUALITY, Codec, Limits, shipped_codec

__all__ = ["DEFAULT_QUALITY", "MAX_QUALITY", "Codec", "Limits", "shipped_codec"]
