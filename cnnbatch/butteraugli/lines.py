"""Sums along short lines through each pixel: what differs along a line is seen better than what differs here and there.

Lines are nine pixels long at most and symmetric about their middle. Those that begin alike, seen from the middle, share the
sums of what they share, so the lines of a set are a tree, whose steps are pairs of pixels on opposite sides of the middle.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pixel = tuple[int, int]
"""Rows down and columns to the right of the middle."""

REACH: Final = 4

CHUNK: Final = 1 << 17
"""Pixels on a CPU at a time, whose sums stay in the cache."""


class Step:
    """A pair of pixels of lines, weighing the square of the sum so far if a line ends here, and the steps that go on."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.next: dict[Pixel, Step] = {}

    def depth(self) -> int:
        return 1 + max((step.depth() for step in self.next.values()), default=0)


def _tree(*shapes: tuple[float, tuple[Pixel, ...]]) -> Step:
    """The lines of a weight each and half their pixels each, in all their rotations and reflections."""
    root = Step()
    for weight, half in shapes:
        for line in _turned(half):
            step = root
            for pixel in line:
                step = step.next.setdefault(pixel, Step())
            step.weight = weight
    return root


def _turned(half: tuple[Pixel, ...]) -> Iterator[tuple[Pixel, ...]]:
    for sign in (1, -1):
        turned = [(sign * row, column) for row, column in half]
        for line in (turned, [(column, row) for row, column in turned]):
            yield tuple(max(pixel, _opposite(pixel)) for pixel in line)


def _opposite(pixel: Pixel) -> Pixel:
    return -pixel[0], -pixel[1]


FINE: Final = _tree(
    (1.0, ((0, 1), (0, 2), (0, 3), (0, 4))),
    (1.0, ((1, 1), (2, 2), (3, 3))),
    (2.0, ((0, 1), (1, 2), (1, 3), (1, 4))),
    (1.0, ((1, 1), (1, 2), (2, 3))),
)
COARSE: Final = _tree(
    (1.0, ((0, 2), (0, 4))),
    (1.0, ((2, 2), (3, 3))),
    (1.0, ((1, 2), (1, 4))),
    (1.0, ((1, 2), (2, 3))),
    (1.0, ((1, 2), (2, 4))),
)


def squared_sums(planes: Tensor, lines: Step) -> Tensor:
    """[N, H, W] of planes [C, N, H, W]: weighted squares of the sums along lines, added up over lines and planes."""
    squares: Tensor = _SquaredSums.apply(planes, lines)  # type: ignore[no-untyped-call]
    return squares


class _SquaredSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, lines: Step) -> Tensor:
        layout = _Layout(planes.shape)
        x = layout.flat(planes)
        total = torch.zeros_like(x)
        for chunk in layout.chunks(x, lines):
            chunk.add_squares(lines, chunk.of(x), total)
        ctx.save_for_backward(x)
        ctx.layout, ctx.lines = layout, lines
        return layout.planes(total).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        layout, (x,) = ctx.layout, ctx.saved_tensors
        slope = layout.flat(2 * outer[0].expand(layout.shape))
        gradient = torch.zeros_like(x)
        for chunk in layout.chunks(x, ctx.lines):
            chunk.add_gradient(ctx.lines, chunk.of(x), slope, gradient)
        return layout.planes(gradient), None


class _Layout:
    """Planes as one row of pixels, zeros after each line and each plane, so that a step of a line is a shift of the row."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self._line = shape[-1] + REACH
        self._margin = REACH * self._line + REACH
        self._size = shape[:-2].numel() * (shape[-2] + REACH) * self._line

    def flat(self, planes: Tensor) -> Tensor:
        row = planes.new_zeros(self._size + 2 * self._margin)
        self.planes(row).copy_(planes)
        return row

    def planes(self, row: Tensor) -> Tensor:
        """The view of a row as planes."""
        inner = row[self._margin : self._margin + self._size]
        return inner.view(*self.shape[:-2], -1, self._line)[..., : self.shape[-2], : self.shape[-1]]

    def chunks(self, x: Tensor, lines: Step) -> Iterator["_Chunk"]:
        pixels = CHUNK if x.device.type == "cpu" else self._size
        scratch = x.new_empty(lines.depth(), 2, min(pixels, self._size))
        end = self._margin + self._size
        for start in range(self._margin, end, pixels):
            stop = min(start + pixels, end)
            yield _Chunk(x, slice(start, stop), self._line, scratch[..., : stop - start])


class _Chunk:
    """Some pixels of a row ``x``, with scratch memory for each step of a line."""

    def __init__(self, x: Tensor, pixels: slice, line: int, scratch: Tensor) -> None:
        self._x, self._pixels, self._line = x, pixels, line
        self._sums, self._slopes = scratch.unbind(1)

    def of(self, row: Tensor, pixel: Pixel = (0, 0)) -> Tensor:
        """The pixels of a row that lie there, seen from those of the chunk."""
        by = pixel[0] * self._line + pixel[1]
        return row[self._pixels.start + by : self._pixels.stop + by]

    def _extended(self, partial: Tensor, pixel: Pixel, depth: int) -> Tensor:
        """Sums so far and the next pair of pixels."""
        one, other = self.of(self._x, pixel), self.of(self._x, _opposite(pixel))
        return torch.add(partial, one, out=self._sums[depth]).add_(other)

    def add_squares(self, step: Step, partial: Tensor, total: Tensor, depth: int = 0) -> None:
        """Adds the weighted squares of the lines that go on from ``partial``, the sums so far."""
        for pixel, longer in step.next.items():
            sums = self._extended(partial, pixel, depth)
            if longer.weight:
                self.of(total).addcmul_(sums, sums, value=longer.weight)
            self.add_squares(longer, sums, total, depth + 1)

    def add_gradient(self, step: Step, partial: Tensor, outer: Tensor, gradient: Tensor, depth: int = 0) -> None:
        """Adds the gradients of the lines that go on from ``partial`` by their pixels, and by ``partial`` itself."""
        slope = self.of(gradient) if depth == 0 else self._slopes[depth - 1]
        for pixel, longer in step.next.items():
            sums = self._extended(partial, pixel, depth)
            torch.mul(sums, self.of(outer), out=self._slopes[depth])
            if longer.weight != 1:
                self._slopes[depth].mul_(longer.weight)
            self.add_gradient(longer, sums, outer, gradient, depth + 1)
            for row in (self.of(gradient, pixel), self.of(gradient, _opposite(pixel)), slope):
                row.add_(self._slopes[depth])
