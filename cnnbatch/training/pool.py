"""Pictures to train on, in bounded memory: all of them where they fit, else windows that a shuffled stream renews.

    source ─► shuffled stream ─► windows of at most 512 × 512 pixels ─► pool of `memory_bytes` ─► crops of every step

The pool mixes what the stream brings one after the other, as a shuffle buffer does, and a window stays in it for as many
crops as it is worth. The next picture is asked for by the number of crops that were drawn and not by the clock, so the same
seed draws the same crops.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

import numpy as np

from cnnbatch.errors import UsageError
from cnnbatch.parallel import ahead
from cnnbatch.training.data import Pixels

WINDOW: Final = 512
"""Pixels a side of a window."""

PIXELS_A_WINDOW: Final = 1 << 20
MOST_WINDOWS: Final = 8
"""One window of every megapixel of a picture, as long as they are not too many of one."""

CROPS_A_WINDOW: Final = 16
"""Crops that are drawn for each window that comes: a quarter of its pixels in crops of 64, all of them in those of 128."""

Read = Callable[[], Iterator[tuple[str, Pixels]]]
"""Reads all pictures once, with their keys, in a shuffled order."""


class Pool:
    """``pictures`` to draw crops from: a list whose oldest ones give way to new ones while it is drawn from."""

    def __init__(self, read: Read, *, memory_bytes: int, seed: Sequence[int]) -> None:
        """Reads until all pictures or ``memory_bytes`` of them are there. Raises UsageError where there is none."""
        self.pictures: list[Pixels] = []
        self.held_bytes = 0
        self._memory_bytes, self._read, self._rng = memory_bytes, read, np.random.default_rng(seed)
        self._undrawn = 0
        self._windows: Iterator[Pixels] | None = None
        """None: all pictures are there, as they are."""
        self._fill()

    @property
    def is_streaming(self) -> bool:
        """Whether there are more pictures than the pool holds."""
        return self._windows is not None

    def drawn(self, crops: int) -> None:
        """Takes note of so many crops; brings in what they make due."""
        if self._windows is None:
            return
        due, self._undrawn = divmod(self._undrawn + crops, CROPS_A_WINDOW)
        for _ in range(due):
            self._admit(next(self._windows))

    def _fill(self) -> None:
        found: list[tuple[str, Pixels]] = []
        first = self._read()
        for key, picture in first:
            found.append((key, picture))
            self.held_bytes += picture.nbytes
            if self.held_bytes > self._memory_bytes:
                self._begin_streaming(found, first)
                return
        self.pictures += [picture for _, picture in sorted(found, key=lambda item: item[0])]

    def _begin_streaming(self, found: list[tuple[str, Pixels]], rest: Iterator[tuple[str, Pixels]]) -> None:
        """Cuts what was read whole to windows, which take less room."""
        self.held_bytes = 0
        found.reverse()
        while found:
            for window in self._cut(found.pop()[1]):
                self._admit(window)
        self._windows = ahead(self._endless(rest), count=MOST_WINDOWS)

    def _endless(self, rest: Iterator[tuple[str, Pixels]]) -> Iterator[Pixels]:
        """Windows of what is left of the first reading, then of one reading after the other."""
        pictures = chain(rest, self._read())
        while True:
            windows = 0
            for _, picture in pictures:
                for window in self._cut(picture):
                    windows += 1
                    yield window
            if not windows:
                raise UsageError("the pictures to train on are gone: none can be read any more")
            pictures = chain(self._read())

    def _cut(self, picture: Pixels) -> Iterator[Pixels]:
        """Windows at random places, copied, so that the picture itself can go."""
        height, width = picture.shape[:2]
        if max(height, width) <= WINDOW:
            yield picture
            return
        for _ in range(max(1, min(MOST_WINDOWS, height * width // PIXELS_A_WINDOW))):
            top, left = (int(self._rng.integers(max(0, side - WINDOW) + 1)) for side in (height, width))
            yield picture[top : top + WINDOW, left : left + WINDOW].copy()

    def _admit(self, window: Pixels) -> None:
        """Adds a window; the oldest ones make room for it."""
        gone = 0
        while gone < len(self.pictures) and self.held_bytes + window.nbytes > self._memory_bytes:
            self.held_bytes -= self.pictures[gone].nbytes
            gone += 1
        del self.pictures[:gone]
        self.pictures.append(window)
        self.held_bytes += window.nbytes
