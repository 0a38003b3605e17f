"""Bitstreams and codec files of the architecture `dense`."""

import random
from contextlib import suppress
from functools import cache
from pathlib import Path

from cnnbatch.codec import Codec
from cnnbatch.errors import BitstreamError, CodecFileError
from tests.codec.dense_models import COLOUR, GRAY, pictures
from tests.fuzz.codecs import changed_inside
from tests.fuzz.target import Target, unrepaired

GOLDEN = Path(__file__).parents[1] / "golden" / "dense"
SETTINGS = {"gray": GRAY, "colour": COLOUR}


@cache
def codecs() -> dict[str, Codec]:
    return {kind: Codec.load(GOLDEN / f"{kind}.safetensors", device="cpu") for kind in SETTINGS}


def bitstreams() -> list[bytes]:
    """The golden ones, decoded once: loading codecs and compiling takes longer than an input may."""
    found = [path.read_bytes() for path in sorted(GOLDEN.glob("*.bin"))]
    for data in found:
        decode(data)
    return found


def decode(data: bytes) -> None:
    """A bitstream does not say its codec; what ends in the right state gives a picture of the codec's size."""
    for kind, codec in codecs().items():
        with suppress(BitstreamError):
            [image] = codec.reconstruct([data])
            assert image.shape[:2] == (SETTINGS[kind].height, SETTINGS[kind].width)


def codec_files() -> list[bytes]:
    codecs()  # compiles what an input has no time for
    return [(GOLDEN / f"{kind}.safetensors").read_bytes() for kind in SETTINGS]


def load_codec(data: bytes) -> None:
    """Load it, and use it when it loads: whatever its numbers are, they do no harm."""
    try:
        codec = Codec(data, device="cpu")
    except CodecFileError:
        return
    images = [image for s in SETTINGS.values() for image in pictures(s, 1) if codec.refusal(image) is None]
    with suppress(BitstreamError):  # weights that are no numbers any more make symbols that are none
        codec.reconstruct(codec.compress(images, 32))


def with_right_checksum(data: bytes, rng: random.Random) -> bytes:
    return changed_inside(rng.choice(codec_files()), data, rng)


DENSE = Target("dense", bitstreams, decode, unrepaired, 1 << 10)
DENSE_FILE = Target("dense_file", codec_files, load_codec, with_right_checksum, 1 << 18)
