"""Bitstreams and codec files."""

import json
import random
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.container.bitstream import Header, pack, unpack
from cnnbatch.codec.container.sealed import _checksum
from cnnbatch.errors import BitstreamError, CodecFileError
from tests.fuzz.target import Target
from tests.stages.pictures import waves

GOLDEN = Path(__file__).parents[1] / "golden"
MAX_CODED_PIXELS = 1 << 15
SHAPES = ((1, 1), (1, 1), (16, 16), (70, 20), (1030, 3))
ODD_SETTINGS = (0, -1, 1, 2, 8, 64, 1024, 1e9, 1e-9, 1e400, "x", [1, 1], [64, 64], [1e9, 1e-9], None, [], True)


@cache
def tiny_codec() -> Codec:
    """The codec of the golden bitstreams: a decode takes about a millisecond."""
    return Codec.load(GOLDEN / "codec.safetensors", device="cpu", limits=Limits(max_pixels=MAX_CODED_PIXELS))


def bitstreams() -> list[bytes]:
    """The golden ones and a few fresh ones."""
    pictures = [waves(h, w, seed=h) for h, w in ((1, 1), (9, 30), (48, 64))]
    fresh = tiny_codec().compress([*pictures, waves(20, 20, gray=True)], [32, 3, 63, 40], effort=1)
    return [*(path.read_bytes() for path in sorted(GOLDEN.glob("*.bin"))), *fresh]


def decode(data: bytes) -> None:
    try:
        [image] = tiny_codec().reconstruct([data])
    except BitstreamError:
        return
    header = unpack(data).header
    assert image.shape[:2] == (header.height, header.width)


def with_right_crcs(data: bytes, rng: random.Random) -> bytes:
    """A bitstream that reaches the entropy decoder: of the same header where there is one."""
    prefix = bytes.fromhex(tiny_codec().id)[:4]
    try:
        parsed = unpack(data)
        header, tiles = replace(parsed.header, codec_prefix=prefix), [bytes(tile) for tile in parsed.tiles]
    except BitstreamError:
        width, height = rng.choice(SHAPES)
        own_filter = data[: rng.randrange(99)] if rng.randrange(2) else b""
        header = Header(width, height, bool(rng.randrange(2)), rng.randrange(253), prefix, own_filter)
        rows, columns = header.grid()
        size = max(8, len(data) // (4 * rows * columns) * 4)
        tiles = [data[start : start + size].ljust(8, b"\0") for start in range(0, size * rows * columns, size)]
    if rng.randrange(4):
        tiles = [tile[: len(tile) // 4 * 4] for tile in tiles]
    return pack(header, tiles)


def codec_files() -> list[bytes]:
    return [(GOLDEN / "codec.safetensors").read_bytes()]


def load_codec(data: bytes) -> None:
    """Load it, and use it when it loads: whatever its numbers are, they do no harm."""
    try:
        codec = Codec(data, device="cpu")
    except CodecFileError:
        return
    with suppress(BitstreamError):  # weights that are no numbers any more make symbols that are none
        codec.reconstruct(codec.compress([waves(20, 20)], 32, effort=2))


def with_right_checksum(data: bytes, rng: random.Random) -> bytes:
    """The intact file with one of its settings or the bytes of one of its arrays changed."""
    [intact] = codec_files()
    return changed_inside(intact, data, rng)


def changed_inside(intact: bytes, data: bytes, rng: random.Random) -> bytes:
    """A codec file with one of its settings or the bytes of one of its arrays changed, and its checksum right."""
    metadata = json.loads(intact[8 : 8 + int.from_bytes(intact[:8], "little")])["__metadata__"]
    arrays = load(intact)
    if rng.randrange(2):
        settings = json.loads(metadata["settings"])
        settings[rng.choice(sorted(settings))] = rng.choice(ODD_SETTINGS)
        metadata["settings"] = json.dumps(settings)
    else:
        name = rng.choice(sorted(arrays))
        raw = bytearray(arrays[name].tobytes())
        for _ in range(rng.choice((1, 8, len(raw)))):
            raw[rng.randrange(len(raw))] = data[rng.randrange(len(data))] if data else 0xFF
        arrays[name] = np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)
    metadata["checksum"] = _checksum(arrays, metadata)
    return bytes(save(arrays, metadata))


BITSTREAM = Target("bitstream", bitstreams, decode, with_right_crcs, 1 << 13)
CODEC_FILE = Target("codec_file", codec_files, load_codec, with_right_checksum, 1 << 18)
