"""Which match a deflate encoder would take: the search of zlib (`deflate.c`, `longest_match`, `deflate_slow`, `deflate_fast`).

Streams that zlib wrote are predicted to the last token, those of others mostly. A prediction that is wrong costs bytes and
never exactness; what matters is that reader and writer make the same ones, so this code never changes what it returns.

State is in arrays: ``head`` and ``chain`` are zlib's hash chains over positions (−1: none); ``place`` is [positions entered,
length of the match found ahead, its distance, whether there is one].
"""

import numba
import numpy as np
from numpy.typing import NDArray

LAZY, FAST, RUNS = 0, 1, 2
"""Look one byte ahead; take the first match; only repeat the byte before."""

MODE, GOOD, MAX_LAZY, NICE, MAX_CHAIN, IS_FILTERED, HASH_BITS, WINDOW_BITS = range(8)
"""Places in the settings: zlib's ``configuration_table``, strategy, ``memLevel`` + 7, and size of the window."""

IS_AHEAD = 3
"""Place in ``place``."""

NUM_SETTINGS = 8
LEVELS = (
    (FAST, 4, 4, 8, 4),
    (FAST, 4, 5, 16, 8),
    (FAST, 4, 6, 32, 32),
    (LAZY, 4, 4, 16, 16),
    (LAZY, 8, 16, 32, 32),
    (LAZY, 8, 16, 128, 128),
    (LAZY, 8, 32, 128, 256),
    (LAZY, 32, 128, 258, 1024),
    (LAZY, 32, 258, 258, 4096),
)
"""Levels of zlib, from 1 to 9: mode, good, lazy, nice, chain."""


def start(settings: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """``head``, ``chain`` and ``place`` before the first byte."""
    head = np.full(1 << int(settings[HASH_BITS]), -1, np.int32)
    return head, np.full(1 << int(settings[WINDOW_BITS]), -1, np.int32), np.zeros(4, np.int64)


def forget(state: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]) -> None:
    """Leave what was found ahead: a stored block follows."""
    state[2][IS_AHEAD] = 0


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _hash(raw, at, bits):  # type: ignore[no-untyped-def]
    shift = (bits + 2) // 3
    mask = (1 << bits) - 1
    return ((raw[at] << shift ^ raw[at + 1]) << shift ^ raw[at + 2]) & mask


@numba.njit(nogil=True, cache=True, boundscheck=True)
def enter(raw, end, settings, head, chain, place):  # type: ignore[no-untyped-def]
    """Enters all positions before ``end`` into the chains."""
    mask = len(chain) - 1
    last = min(end, len(raw) - 2)
    for at in range(place[0], last):
        h = _hash(raw, at, settings[6])
        chain[at & mask] = head[h]
        head[h] = at
    place[0] = max(place[0], end)


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _longest(raw, at, best, depth, settings, head, chain):  # type: ignore[no-untyped-def]
    """Length and distance of the first longest match at ``at`` of over ``best`` bytes; 0 where there is none."""
    most = min(258, len(raw) - at)
    if most < 3:
        return 0, 0
    mask = len(chain) - 1
    reach = len(chain) - 262
    nice = min(settings[3], most)
    found = 0
    candidate = head[_hash(raw, at, settings[6])]
    if candidate <= 0 or at - candidate > reach:
        return 0, 0
    while depth > 0:
        length = 0
        while length < most and raw[candidate + length] == raw[at + length]:
            length += 1
        if length > best:
            best = length
            found = at - candidate
            if length >= nice:
                break
        before = chain[candidate & mask]
        if before <= 0 or before >= candidate or at - before >= reach:
            break
        candidate = before
        depth -= 1
    if found == 0 or best < 3:
        return 0, 0
    return best, found


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _worthwhile(length, distance, settings):  # type: ignore[no-untyped-def]
    if length <= 5 and (settings[5] or (length == 3 and distance > 4096)):
        return 0, 0
    return length, distance


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _run(raw, at):  # type: ignore[no-untyped-def]
    most = min(258, len(raw) - at)
    length = 0
    if at > 0:
        while length < most and raw[at + length] == raw[at - 1]:
            length += 1
    if length < 3:
        return 0, 0
    return length, 1


@numba.njit(nogil=True, cache=True, boundscheck=True)
def predict(raw, at, settings, head, chain, place):  # type: ignore[no-untyped-def]
    """Length and distance of the token expected at ``at``; a literal has length 0."""
    if settings[0] == 2:
        return _run(raw, at)
    enter(raw, at, settings, head, chain, place)
    is_fast = settings[0] == 1
    if place[3]:
        length, distance = place[1], place[2]
    else:
        length, distance = _longest(raw, at, np.int64(2), settings[4], settings, head, chain)
        if not is_fast:
            length, distance = _worthwhile(length, distance, settings)
    place[3] = 0
    if is_fast or 3 <= length < settings[2]:
        enter(raw, at + 1, settings, head, chain, place)
    if is_fast:
        return length, distance
    if length < 3:
        return 0, 0
    if length < settings[2]:
        depth = settings[4] >> 2 if length >= settings[1] else settings[4]
        ahead, far = _longest(raw, at + 1, length, depth, settings, head, chain)
        ahead, far = _worthwhile(ahead, far, settings)
        if ahead > length:
            place[1], place[2], place[3] = ahead, far, 1
            return 0, 0
    return length, distance


@numba.njit(nogil=True, cache=True, boundscheck=True)
def advance(at, length, settings, place):  # type: ignore[no-untyped-def]
    """After a token of ``length`` bytes (0: a literal) at ``at``: forget what was found ahead of another one, and leave out the
    inside of a match where the mode does."""
    if length:
        place[3] = 0
        if settings[0] == 1 and length > settings[2]:
            place[0] = max(place[0], at + length)
