"""PSNR against its definition, and where integers could overflow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.metrics import LOSSLESS_DB, psnr_db


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.booleans(), st.integers(0, 2**32))
def test_psnr_is_what_its_definition_says(height: int, width: int, gray: bool, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, height, width) if gray else (2, height, width, 3), np.uint8)
    mse = np.mean((a.astype(np.float64) - b) ** 2)
    expected = LOSSLESS_DB if mse == 0 else 10 * math.log10(255**2 / mse)
    assert psnr_db(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 100_000, 3), (100_000, 1), (3000, 50, 3), (1, 1 << 17)])
def test_the_largest_differences_do_not_overflow(shape: tuple[int, ...]) -> None:
    assert psnr_db(np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)) == 0


def test_equal_images_have_a_finite_psnr() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    assert psnr_db(image, image) == LOSSLESS_DB


def test_a_view_that_is_not_contiguous_is_fine() -> None:
    a = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    assert psnr_db(a[:, ::-1], a[:, ::-1] ^ 1) == psnr_db(a, a ^ 1)


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        psnr_db(np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8))
