"""Changes to bytes that find bugs in parsers: flipped bits, odd numbers, cuts, copies, and halves of two inputs joined."""

import random
from collections.abc import Callable, Sequence

NUMBERS = [value.to_bytes(size, order, signed=value < 0) for size in (1, 2, 4, 8) for order in ("little", "big")
           for value in (0, 1, -1, 127, -128, 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), 100)]  # fmt: skip
BLOCK = 64


def mutate(rng: random.Random, data: bytes, corpus: Sequence[bytes], *, max_size: int) -> bytes:
    """``data`` with one to eight changes, at most ``max_size`` bytes of it."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
        rng.choice(OPERATIONS)(rng, changed, corpus)
    return bytes(changed[:max_size])


def _flip(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _near_the_start(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Headers are where the claims are."""
    if data:
        data[rng.randrange(min(len(data), 96))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    number = rng.choice(NUMBERS)
    if len(data) >= len(number):
        at = rng.randrange(len(data) - len(number) + 1)
        data[at : at + len(number)] = number


def _delete(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        at = rng.randrange(len(data))
        del data[at : at + rng.randrange(1, BLOCK)]


def _cut(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        del data[rng.randrange(len(data)) :]


def _insert(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randrange(1, BLOCK))


def _repeat(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        start = rng.randrange(len(data))
        block = data[start : start + rng.randrange(1, BLOCK)]
        at = rng.randrange(len(data) + 1)
        data[at:at] = block * rng.choice((1, 1, 2, 20))


def _swap(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    if data:
        a, b, size = rng.randrange(len(data)), rng.randrange(len(data)), rng.randrange(1, BLOCK)
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def _join(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = rng.choice(corpus)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


OPERATIONS: Sequence[Callable[[random.Random, bytearray, Sequence[bytes]], None]] = (
    _flip,
    _flip,
    _replace,
    _near_the_start,
    _near_the_start,
    _number,
    _number,
    _delete,
    _cut,
    _insert,
    _repeat,
    _swap,
    _join,
)
