"""Estimation of a picture's own adaptive filter: least squares, from all of the picture or a few patches.

An encoder does not decode its picture. Patches of it are enough: thirty weights a colour are looked for, and a patch has
thousands of samples. What they cannot tell, because no patch has it (no red roof, no sharp edge), must not be extrapolated:
squares that pictures commonly have stand in for what was not seen, so that a weight that only helps in the patches stays small.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.adaptive_filter.filtering import ROWS_AT_ONCE, features, middle
from cnnbatch.codec.adaptive_filter.kernels import (
    AROUND,
    COLOURS,
    CONSTANT,
    FEATURES,
    LIMITS,
    PAIRS,
    REACH,
    UNITS,
    Weights,
    clipped,
    sum_around,
)
from cnnbatch.codec.entropy_coding.exp_golomb import LARGEST_NUMBER, Numbers, packed
from cnnbatch.codec.geometry import BLOCK

NUMBER_BITS: Final = 0.05
"""Assumed cost of the square of an own number while they are estimated: next to nothing that is not worth it."""

UNSEEN: Final = 0.1
"""Pixels that count as if they were of a common picture, for each that was not seen. From 0.02 to 0.2 it matters little, 0.4 %
of the bits; at 0 some pictures become ten times as dear."""

COMMON_CLIPPED: Final = (0.006, 0.1)
"""Mean square of the features of each limit in a common picture, in squares of Δ, which varies with quality."""

COMMON_AROUND: Final = 60.0

COMMON_COLOURS: Final = 39.0
"""Root mean square of the features of the 3×3, and of the differences of the colours, in grey levels."""

NO_PICTURE: Final = 4096.0
"""Magnitude of samples that no sound codec file makes: least squares of what is larger would run out of digits."""

ROUNDING: Final = 1e-6
"""Share of all squares together that is added to each: sums in float32 are off by a little of it, so that equal features, as
the colours of a gray picture have, would come out as less than independent."""

SEEN_PIXELS: Final = 1 << 18
"""Pixels of a whole picture that are looked at, about: so many are enough."""

PATCHES: Final = 16
PATCH_SIDE: Final = 4

PATCH_HALO: Final = 1
"""Patches of a picture; their side and what is decoded around them, in latent positions. (Synthesis sees further, but
little.)"""

WHOLE_PIXELS: Final = 2 * PATCHES * ((PATCH_SIDE + 2 * PATCH_HALO) * BLOCK) ** 2
"""Pixels up to which patches would decode half of a picture or more: all of it takes little longer and tells more."""

COLUMNS: Final = FEATURES + 2
"""Columns of the matrix whose products are the statistics: features, error, and nothing; an even number of vectors."""


class Statistics(NamedTuple):
    """Sums over pixels of products of the features and of the errors without the filter."""

    squares: npt.NDArray[np.float64]
    """[3, FEATURES, FEATURES]: of the features of each colour, with each other."""
    products: npt.NDArray[np.float64]
    """[3, FEATURES]: with the errors, original less picture."""
    pixels: int

    @classmethod
    def none(cls) -> "Statistics":
        """Statistics of no pixels."""
        return cls(np.zeros((COLOURS, FEATURES, FEATURES)), np.zeros((COLOURS, FEATURES)), 0)

    def plus(self, other: "Statistics") -> "Statistics":
        """Statistics of both."""
        return Statistics(self.squares + other.squares, self.products + other.products, self.pixels + other.pixels)

    def times(self, factor: float) -> "Statistics":
        """Sums of ``factor`` as many pixels; ``pixels`` says how many were seen."""
        return Statistics(self.squares * factor, self.products * factor, self.pixels)

    def saved(self, weights: npt.NDArray[np.float64]) -> float:
        """By how much ``weights`` [3, FEATURES] lower the sum of squared errors."""
        quadratic = np.einsum("ck,ckj,cj", weights, self.squares, weights)
        return float(2 * (weights * self.products).sum() - quadratic)


def statistics(planes: Tensor, target: Tensor, step: float, *, every: int = 1) -> Statistics:
    """Statistics of one picture, or of one part of ``every`` of its rows; of nothing where it reaches `NO_PICTURE`.

    ``planes`` float32 [3, H + 2·REACH, W + 2·REACH], with the surroundings of the picture; ``target`` [H, W, 3], the
    original; ``step``: Δ(q).
    """
    found = Statistics.none()
    if not bool((planes.abs() < NO_PICTURE).all()):  # nor where it is no number
        return found
    height, width, _ = target.shape
    original = target.permute(2, 0, 1).float()
    sums, seen = np.zeros((COLOURS, COLUMNS, COLUMNS)), 0
    for top in range(0, height, ROWS_AT_ONCE * every):
        rows, wanted = planes[:, top : top + ROWS_AT_ONCE + 2 * REACH], original[:, top : top + ROWS_AT_ONCE]
        columns = _columns(rows, wanted, step).flatten(2)
        sums += (columns @ columns.mT).double().cpu().numpy()
        seen += wanted.shape[1]
    return Statistics(sums[:, :FEATURES, :FEATURES], sums[:, :FEATURES, FEATURES], seen * width)


def _columns(rows: Tensor, wanted: Tensor, step: float) -> Tensor:
    """[3, h + 2·REACH, w + 2·REACH] and [3, h, w] → [3, COLUMNS, h, w]."""
    found = rows.new_zeros((COLOURS, COLUMNS, *wanted.shape[1:]))
    (_fill_on_cpu if rows.device.type == "cpu" else _fill_anywhere)(rows, step, found)
    torch.sub(wanted, middle(rows, 0, 0), out=found[:, FEATURES])
    return found


def _fill_anywhere(rows: Tensor, step: float, found: Tensor) -> None:
    found[:, :FEATURES] = features(rows[None], rows.new_tensor([step]))[0]


def _fill_on_cpu(rows: Tensor, step: float, found: Tensor) -> None:
    limits = np.float32(step) * np.array(LIMITS, np.float32)
    _fill(rows.contiguous().numpy(), limits, found.numpy())


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nnan", "nsz"})
def _fill(planes, limits, found):  # type: ignore[no-untyped-def]
    """The features, [3, FEATURES…, h, w], of ``planes`` [3, h + 2·REACH, w + 2·REACH]."""
    _, _, height, width = found.shape
    half, near, far = len(PAIRS), limits[0], limits[1]
    for c in range(COLOURS):
        for i in range(height):
            row = REACH + i
            here, r = planes[c, row, REACH : REACH + width], planes[0, row, REACH : REACH + width]
            g, b = planes[1, row, REACH : REACH + width], planes[2, row, REACH : REACH + width]
            for pair in range(half):
                down, right = PAIRS[pair]
                before = planes[c, row - down, REACH - right : REACH - right + width]
                behind = planes[c, row + down, REACH + right : REACH + right + width]
                close, wide = found[c, pair, i], found[c, half + pair, i]
                for j in range(width):
                    p, q = before[j] - here[j], behind[j] - here[j]
                    close[j], wide[j] = clipped(p, q, near), clipped(p, q, far)
            for other in range(COLOURS):
                sum_around(planes[other], row, found[c, 2 * half + other, i])
            mixed = found[c, AROUND:, i]
            for j in range(width):
                mixed[0, j], mixed[1, j], mixed[2, j] = r[j] - g[j], b[j] - g[j], np.float32(CONSTANT)


def patch_places(shape: tuple[int, int], count: int) -> Iterator[tuple[int, int]]:
    """Where ``count`` patches of `PATCH_SIDE`² latent positions begin in a tile of ``shape``, with their halo inside it; none
    where it is too small.

    (Spread like the sequence R₂ of Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018.)
    """
    rows, columns = (side - PATCH_SIDE - 2 * PATCH_HALO + 1 for side in shape)
    if rows > 0 and columns > 0:
        for n in range(1, count + 1):
            yield PATCH_HALO + int(n * 0.7548776662 % 1 * rows), PATCH_HALO + int(n * 0.5698402910 % 1 * columns)


def own_numbers(whole: Statistics, weights: Weights, *, pixels: int, step: float, bits_per_square: float) -> bytes:
    """The filter in the header of a picture of ``pixels``: `packed` differences from ``weights`` [3, FEATURES], or nothing
    where they would save fewer bits than they cost.

    ``whole``: sums for all of the picture, however many pixels were seen; ``step``: Δ(q); ``bits_per_square``: that a squared
    error of one sample is worth.
    """
    if not (whole.pixels and np.isfinite(weights).all()):
        return b""
    unseen = UNSEEN * max(0, pixels - whole.pixels) * common_squares(step) * UNITS**2
    ridge = NUMBER_BITS / bits_per_square + unseen
    numbers = np.stack([_rounded(*colour, ridge) for colour in zip(whole.squares, whole.products, weights, strict=True)])
    data = packed(numbers)
    saved = whole.saved(weights + numbers * UNITS) - whole.saved(weights.astype(np.float64))
    return data if saved * bits_per_square > 8 * (len(data) + 1) else b""


def common_squares(step: float) -> npt.NDArray[np.float64]:
    """[FEATURES]: mean square of each feature in a common picture, at Δ(q) = ``step``."""
    near, far = (share * step**2 for share in COMMON_CLIPPED)
    rest = [COMMON_AROUND**2] * COLOURS + [COMMON_COLOURS**2] * 2 + [CONSTANT**2]
    return np.array([near] * len(PAIRS) + [far] * len(PAIRS) + rest)


def _rounded(
    squares: npt.NDArray[np.float64],
    products: npt.NDArray[np.float64],
    weights: Weights,
    ridge: npt.NDArray[np.float64],
) -> Numbers:
    """Least squares of one colour in whole numbers: the feature whose rounding is worst comes first, others make up for it.

    (Babai's nearest plane, "On Lovász' lattice reduction and the nearest lattice point problem", Combinatorica 6, 1986.)
    """
    matrix = squares * (UNITS[:, None] * UNITS)
    matrix[np.diag_indices(FEATURES)] += ridge + ROUNDING * matrix.trace()
    right = (products - squares @ weights) * UNITS
    order = np.argsort(np.diag(matrix))
    lower = np.linalg.cholesky(matrix[np.ix_(order, order)])
    rest = np.linalg.solve(lower, right[order])
    numbers = np.zeros(FEATURES, np.int64)
    for place in range(FEATURES - 1, -1, -1):
        number = np.clip(np.rint(rest[place] / lower[place, place]), -LARGEST_NUMBER, LARGEST_NUMBER)
        rest = rest - lower[place] * number
        numbers[order[place]] = number
    return numbers
