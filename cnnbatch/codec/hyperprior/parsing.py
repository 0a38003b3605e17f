"""Bitstreams that a codec file may decode, parsed."""

from collections.abc import Sequence

from cnnbatch.codec.adaptive_filter.kernels import own_weights
from cnnbatch.codec.container.bitstream import CODEC_PREFIX_BYTES, Bitstream, unpack
from cnnbatch.codec.interface import Limits, Parsed, naming
from cnnbatch.errors import BitstreamError


class BitstreamParser:
    """Parses bitstreams of one codec file within its limits."""

    def __init__(self, file: Parsed, limits: Limits) -> None:
        self.prefix, self._limits = bytes.fromhex(file.id)[:CODEC_PREFIX_BYTES], limits

    def __call__(self, bitstreams: Sequence[bytes]) -> list[Bitstream]:
        """Raises BitstreamError for a bitstream over the limit, of another codec, or whose header is damaged."""
        parsed = []
        for number, data in enumerate(bitstreams):
            with naming(number):
                parsed.append(self._checked(unpack(data)))
        return parsed

    def _checked(self, parsed: Bitstream) -> Bitstream:
        header, pixels = parsed.header, parsed.header.width * parsed.header.height
        if pixels > self._limits.max_pixels:
            raise BitstreamError(f"bitstream of {pixels} pixels, the limit is {self._limits.max_pixels}")
        if header.codec_prefix != self.prefix:
            raise BitstreamError(f"bitstream of codec {header.codec_prefix.hex()}…, but this is codec {self.prefix.hex()}…")
        own_weights([header.own_filter])
        return parsed
