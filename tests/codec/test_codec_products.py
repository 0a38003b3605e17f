"""Products of matrices in tiles: exact for whole numbers, whatever the sizes."""

import numpy as np
import pytest

from cnnbatch.codec.runtime.levels import LEVEL_MAX, WEIGHT_MAX
from cnnbatch.codec.transforms.products import COLUMNS, ROWS, multiply, padded, panels, product

SIZES = [(ROWS, 1, 1), (ROWS, 8, COLUMNS), (3 * ROWS, 97, 2 * COLUMNS + 1), (ROWS, 320, 4 * COLUMNS - 1)]


@pytest.mark.parametrize("size", SIZES)
def test_products_of_whole_numbers_are_exact(size: tuple[int, int, int]) -> None:
    rows, k, columns = size
    rng = np.random.default_rng(k)
    left = rng.integers(-LEVEL_MAX, LEVEL_MAX + 1, (rows, padded(k, 2))).astype(np.int16)
    right = rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, (k, columns))
    left[0], right[:, 0] = LEVEL_MAX, -WEIGHT_MAX  # the largest sum there is
    out = np.full((rows, padded(columns, COLUMNS)), -1, np.int32)
    multiply(left, panels(right), out)
    np.testing.assert_array_equal(out[:, :columns], left[:, :k].astype(np.int64) @ right)
    assert (out[:, columns:] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (9, 13)])
def test_vectors_are_multiplied_with_their_gain(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(shape[0], shape[1] + 2, 33)).astype(np.float32)
    gain, right = rng.normal(size=33), rng.normal(size=(33, 3 * COLUMNS)).astype(np.float32)
    found = product(whole[:, 1:-1], gain, panels(right))
    expected = (whole[:, 1:-1].astype(np.float64) * gain).reshape(-1, 33) @ right
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
