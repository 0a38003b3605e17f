"""Windows: every position once, tiles in order, and a halo that is wide enough and not a position wider."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec.adaptive_filter.filtering import filtered
from cnnbatch.codec.adaptive_filter.kernels import COLOURS, FEATURES
from cnnbatch.codec.container.bitstream import TILE_SIDE, Header
from cnnbatch.codec.geometry import BLOCK
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.windows import TILE, Span, Window, halo, latent_shape, window_pixels, windows
from tests.codec.models import TINY, picture, tiny_model

PROPERTY = settings(deadline=None)
SIDES = st.sampled_from([TILE_SIDE, 2 * TILE_SIDE, 5 * TILE_SIDE])
SHAPES = st.tuples(st.integers(1, 700), st.integers(1, 700))


@PROPERTY
@given(SHAPES, SIDES, st.integers(0, 40))
def test_tiles_cover_every_position_exactly_once(shape: tuple[int, int], side: int, width: int) -> None:
    count = np.zeros(shape, int)
    for window in windows(shape, side=side, halo=width):
        r, c = window.rows, window.columns
        count[r.inner_start : r.inner_stop, c.inner_start : c.inner_stop] += 1
    assert (count == 1).all()


@PROPERTY
@given(SHAPES, SIDES, st.integers(0, 40))
def test_a_tile_has_its_halo_and_its_bounds(shape: tuple[int, int], side: int, width: int) -> None:
    for window in windows(shape, side=side, halo=width):
        for span, length in zip((window.rows, window.columns), shape, strict=True):
            assert span.start == max(0, span.inner_start - width) or span.start == 0
            assert span.stop >= min(length, span.inner_stop + width)
            assert 0 <= span.start <= span.inner_start < span.inner_stop <= span.stop <= length
            assert span.stop - span.start <= side // BLOCK + 2 * width


@PROPERTY
@given(SHAPES, SIDES, st.integers(0, 40))
def test_the_tiles_of_all_tiles_are_those_of_the_bitstream_in_order(shape: tuple[int, int], side: int, width: int) -> None:
    found = {}
    for window in windows(shape, side=side, halo=width):
        places = [place for place, _ in window.tile_slices()]
        assert places == sorted(places)
        for place, (rows, columns) in window.tile_slices():
            assert place not in found
            found[place] = (window.rows.start + rows.start, window.columns.start + columns.start)
    grid = Header(shape[1] * BLOCK, shape[0] * BLOCK, False, 0, b"abcd").grid()
    assert sorted(found) == list(itertools.product(*map(range, grid)))
    assert all(start == (TILE * row, TILE * column) for (row, column), start in found.items())


@PROPERTY
@given(st.integers(1, 200), st.integers(1, 200), st.booleans())
def test_a_window_repeats_the_last_pixel(height: int, width: int, gray: bool) -> None:
    image = picture(height, width)[..., 0] if gray else picture(height, width)
    rows, columns = latent_shape(height, width)
    window = Window(Span(0, rows, 0, rows), Span(0, columns, 0, columns))
    window = window_pixels(image, window)
    assert window.shape == (BLOCK * rows, BLOCK * columns, 3)
    expected = image[np.arange(len(window)).clip(max=height - 1)][:, np.arange(window.shape[1]).clip(max=width - 1)]
    assert (window == (expected[..., None] if gray else expected)).all()


def test_the_halo_is_just_wide_enough() -> None:
    """A synthesis that needs the whole halo sees nothing beyond it, and something up to it."""
    settings = TINY.model_copy(update={"synthesis_blocks": (4, 1)})
    assert halo(settings) == 4
    latents = torch.randn(1, 16, 16, 16, generator=torch.manual_seed(0)) * 20
    assert difference(shown(tiny_model(settings=settings)), latents, distance=4) > 1e-5
    assert difference(shown(tiny_model(settings=settings)), latents, distance=5) == 0


def test_the_analysis_needs_one_position_of_the_halo() -> None:
    pixels = torch.randn(1, 16 * BLOCK, 16 * BLOCK, 3, generator=torch.manual_seed(0)) * 20
    analysis = partial(tiny_model().g_a, quality=QUALITY)
    assert difference(analysis, pixels, distance=1) > 1e-5
    assert difference(analysis, pixels, distance=2) == 0


QUALITY = torch.tensor([40.0])


def shown(model: Hyperprior) -> Callable[[torch.Tensor], torch.Tensor]:
    """The picture of latents, filtered."""
    weights = torch.full((1, COLOURS, FEATURES), 0.1)
    return lambda y_hat: filtered(model.g_s(y_hat, QUALITY), weights, model.settings.step(QUALITY))


@torch.inference_mode()
def difference(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, *, distance: int) -> float:
    """How much what the first of 16 positions gives changes with the position ``distance`` beside it."""
    changed = x.clone()
    changed[:, :, distance * x.shape[2] // 16 :] += 100
    before, after = function(x), function(changed)
    return float((before - after)[:, :, : before.shape[2] // 16].abs().max())
