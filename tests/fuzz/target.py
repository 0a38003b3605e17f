"""What a fuzz target is."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A reader of untrusted bytes.

    ``run`` catches what the reader may raise, so whatever comes out of it is a bug. ``repair`` makes checksums and lengths of
    a changed input right again, as far as it can be read, so that the change is seen by what lies behind them.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes], None]
    repair: Callable[[bytes, random.Random], bytes]
    max_size: int = 1 << 16


def unrepaired(data: bytes, rng: random.Random) -> bytes:
    """For formats without checksums."""
    return data
