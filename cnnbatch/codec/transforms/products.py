"""Products of matrices, compiled: of whole numbers of 16 bits, exact and twice as fast as of float32, and of float32.

A library's products start threads of its own beside those that code pictures, and leave their results in memory, where they
are read once more. Here tiles of `ROWS` × `COLUMNS` sums stay in registers, and what calls them works on rows that the caches
still hold.

Shapes: a left matrix has R rows, a multiple of `ROWS`; a right one is packed in panels of `COLUMNS` columns, see `panels`.
"""

from itertools import chain
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

ROWS: Final = 6
"""Rows of a tile: with `COLUMNS` as many sums as a processor with 16 registers holds."""

COLUMNS: Final = 16
"""Columns of a tile: two registers."""

LANES: Final = 8

SIZE: Final = ir.IntType(64)
BYTES: Final = ir.IntType(8).as_pointer()

AT_ONCE: Final = 4 * ROWS
"""Rows of which sums are made before anything is done to them: caches still hold them."""

BLOCK_ROWS: Final = 8 * ROWS
"""Rows of which a product is made at a time."""


def padded(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def panels(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A right matrix [K, C], of float32, or of whole numbers that 16 bits hold → [⌈C/16⌉, K, 16], or of pairs of rows
    [⌈C/16⌉, ⌈K/2⌉, 16, 2]; zeros where there is nothing."""
    together = 1 if matrix.dtype == np.float32 else 2
    k, columns = (padded(size, multiple) for size, multiple in zip(matrix.shape, (together, COLUMNS), strict=True))
    whole = np.zeros((k, columns), np.float32 if together == 1 else np.int16)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    split = whole.reshape(k // together, together, columns // COLUMNS, COLUMNS).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(split[..., 0] if together == 1 else split)


@intrinsic
def _tile(_context, left, right, out, row, panel):  # type: ignore[no-untyped-def]
    """Sums of `ROWS` rows of ``left`` from ``row`` on and one ``panel`` of ``right``, to their place in ``out``."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = signature.args[:3]
        arrays = [context.make_array(kind)(context, builder, value) for kind, value in zip(kinds, arguments[:3], strict=True)]
        _emit_tile(builder, *arrays, *arguments[3:], whole=right.dtype == types.int16)
        return context.get_dummy_value()

    return types.void(left, right, out, types.intp, types.intp), generate


def _emit_tile(builder: Any, left: Any, right: Any, out: Any, row: Any, panel: Any, *, whole: bool) -> None:
    """Emits one loop over numbers, or pairs of them, in which each sum is a value of its own, which gets a register."""
    vector = ir.VectorType(ir.IntType(32) if whole else ir.FloatType(), LANES)
    width, steps = SIZE(4 * COLUMNS), cgutils.unpack_tuple(builder, right.shape)[1]
    lefts, outs = (cgutils.unpack_tuple(builder, array.strides)[0] for array in (left, out))
    left_at, right_at, out_at = (builder.bitcast(array.data, BYTES) for array in (left, right, out))
    left_at = builder.gep(left_at, [builder.mul(row, lefts)])
    right_at = builder.gep(right_at, [builder.mul(panel, builder.mul(steps, width))])
    out_at = builder.gep(out_at, [builder.add(builder.mul(row, outs), builder.mul(panel, width))])

    before, body, behind = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.branch(body)
    builder.position_at_end(body)
    step = builder.phi(SIZE)
    sums = [[builder.phi(vector) for _ in range(COLUMNS // LANES)] for _ in range(ROWS)]
    places = [builder.add(builder.mul(step, width), SIZE(4 * LANES * part)) for part in range(COLUMNS // LANES)]
    weights = [_at(builder, right_at, place, vector) for place in places]
    found = []
    for number, totals in enumerate(sums):
        place = builder.add(builder.mul(lefts, SIZE(number)), builder.mul(step, SIZE(4)))
        value = _repeated(builder, _at(builder, left_at, place, vector.element), vector)
        found.append([_added(builder, t, value, w, whole) for t, w in zip(totals, weights, strict=True)])
    following = builder.add(step, SIZE(1))
    step.add_incoming(SIZE(0), before)
    step.add_incoming(following, body)
    for total, new in zip(chain(*sums), chain(*found), strict=True):
        total.add_incoming(ir.Constant(vector, None), before)
        total.add_incoming(new, body)
    builder.cbranch(builder.icmp_signed("<", following, steps), body, behind)
    builder.position_at_end(behind)
    for number, totals in enumerate(found):
        for part, total in enumerate(totals):
            place = builder.add(builder.mul(outs, SIZE(number)), SIZE(4 * LANES * part))
            builder.store(total, builder.bitcast(builder.gep(out_at, [place]), vector.as_pointer()), align=4)


def _at(builder: Any, start: Any, place: Any, kind: Any) -> Any:
    """Loads the value of this ``kind`` that lies ``place`` bytes behind ``start``."""
    return builder.load(builder.bitcast(builder.gep(start, [place]), kind.as_pointer()), align=4)


def _repeated(builder: Any, value: Any, vector: Any) -> Any:
    nothing = ir.Constant(vector, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(nothing, value, ir.IntType(32)(0)), nothing, lanes)


def _added(builder: Any, total: Any, value: Any, weight: Any, whole: bool) -> Any:
    """``total`` and products: of float32, or of pairs of numbers of 16 bits, for which processors have one instruction."""
    if not whole:
        return builder.fadd(total, builder.fmul(value, weight, flags=("contract",)), flags=("contract",))
    halves, wide = (ir.VectorType(ir.IntType(bits), 2 * LANES) for bits in (16, 32))
    products = builder.mul(*(builder.sext(builder.bitcast(one, halves), wide) for one in (value, weight)))
    nothing, lanes = ir.Constant(wide, ir.Undefined), ir.VectorType(ir.IntType(32), LANES)
    every_second = (ir.Constant(lanes, list(range(first, 2 * LANES, 2))) for first in range(2))
    even, odd = (builder.shuffle_vector(products, nothing, places) for places in every_second)
    return builder.add(total, builder.add(even, odd))


@numba.njit(nogil=True, cache=True)
def multiply(left, right, out):  # type: ignore[no-untyped-def]
    """``out`` [R, 16·panels] = ``left`` [R, K] by the `panels` ``right``: all float32, or int32 sums of int16 and an even K."""
    for panel in range(right.shape[0]):
        for row in range(0, out.shape[0], ROWS):
            _tile(left, right, out, row, panel)


def product(left: npt.NDArray[np.float32], gain: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> Any:
    """Vectors ``left`` [h, w, K] times ``gain`` [K], by the `panels` ``right`` of C columns → float32 [h·w, C].

    C is a multiple of `COLUMNS`.
    """
    size = left.shape[0] * left.shape[1]
    out = np.empty((padded(size, ROWS), right.shape[0] * COLUMNS), np.float32)
    _product(left, gain.astype(np.float32), right, out)
    return out[:size]


@numba.njit(nogil=True, cache=True)
def _product(left, gain, right, out):  # type: ignore[no-untyped-def]
    """Some rows at a time, which stay in the second cache while one panel after the other passes."""
    h, w, k = left.shape
    scaled = np.zeros((BLOCK_ROWS, k), np.float32)
    for first in range(0, len(out), BLOCK_ROWS):
        rows = min(BLOCK_ROWS, len(out) - first)
        for i in range(min(rows, h * w - first)):
            place = first + i
            row, column = place // w, place % w
            for c in range(k):
                scaled[i, c] = left[row, column, c] * gain[c]
        multiply(scaled, right, out[first : first + rows])
