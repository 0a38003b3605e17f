"""All fuzz targets by name."""

import hashlib
import os

from tests.fuzz.archives import CNB, LOG, PARQUET
from tests.fuzz.codecs import BITSTREAM, CODEC_FILE
from tests.fuzz.dense import DENSE, DENSE_FILE
from tests.fuzz.entropy import ENTROPY
from tests.fuzz.pictures import IMAGES
from tests.fuzz.target import Target, unrepaired

BOMB_BYTES = 320 << 20


def planted(data: bytes) -> None:
    """Bugs that the harness has to find: its own test."""
    match data[:1]:
        case b"r":
            raise ZeroDivisionError("planted")
        case b"d":
            os.abort()
        case b"h":
            while True:
                hashlib.sha256(bytes(4096)).digest()
        case b"g":
            len(b"\1" * BOMB_BYTES)


PLANTED = Target("planted", lambda: [b"sound", b"raise", b"die", b"hang", b"grow"], planted, unrepaired)
TARGETS = {
    target.name: target for target in (BITSTREAM, ENTROPY, CODEC_FILE, DENSE, DENSE_FILE, LOG, PARQUET, IMAGES, CNB, PLANTED)
}
