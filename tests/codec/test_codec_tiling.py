"""Tiles: every position once, units in order, and a halo that is wide enough and not a position wider."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.bitstream import UNIT_SIDE, Header
from cnnbatch.codec.hyperprior_settings import BLOCK
from cnnbatch.codec.tiling import UNIT, Span, Tile, halo, latent_shape, tiles, window_pixels
from tests.codec.models import TINY, picture, tiny_model

PROPERTY = settings(deadline=None)
SIDES = st.sampled_from([UNIT_SIDE, 2 * UNIT_SIDE, 5 * UNIT_SIDE])
SHAPES = st.tuples(st.integers(1, 700), st.integers(1, 700))


@PROPERTY
@given(SHAPES, SIDES, st.integers(0, 40))
def test_tiles_cover_every_position_exactly_once(shape: tuple[int, int], side: int, width: int) -> None:
    count = np.zeros(shape, int)
    for tile in tiles(shape, side=side, halo=width):
        r, c = tile.rows, tile.columns
        count[r.inner_start : r.inner_stop, c.inner_start : c.inner_stop] += 1
    assert (count == 1).all()


@PROPERTY
@given(SHAPES, SIDES, st.integers(0, 40))
def test_a_tile_has_its_halo_and_its_bounds(shape: tuple[int, int], side: int, width: int) -> None:
    for tile in tiles(shape, side=side, halo=width):
        for span, length in zip((tile.rows, tile.columns), shape, strict=True):
            assert span.start == max(0, span.inner_start - width) or span.start == 0
            assert span.stop >= min(length, span.inner_stop + width)
            assert 0 <= span.start <= span.inner_start < span.inner_stop <= span.stop <= length
            assert span.stop - span.start <= side // BLOCK + 2 * width


@PROPERTY
@given(SHAPES, SIDES, st.integers(0, 40))
def test_the_units_of_all_tiles_are_those_of_the_bitstream_in_order(shape: tuple[int, int], side: int, width: int) -> None:
    found = {}
    for tile in tiles(shape, side=side, halo=width):
        places = [place for place, _ in tile.unit_slices()]
        assert places == sorted(places)
        for place, (rows, columns) in tile.unit_slices():
            assert place not in found
            found[place] = (tile.rows.start + rows.start, tile.columns.start + columns.start)
    grid = Header(shape[1] * BLOCK, shape[0] * BLOCK, False, 0, b"abcd").grid()
    assert sorted(found) == list(itertools.product(*map(range, grid)))
    assert all(start == (UNIT * row, UNIT * column) for (row, column), start in found.items())


@PROPERTY
@given(st.integers(1, 200), st.integers(1, 200), st.booleans())
def test_a_window_repeats_the_last_pixel(height: int, width: int, gray: bool) -> None:
    image = picture(height, width)[..., 0] if gray else picture(height, width)
    rows, columns = latent_shape(height, width)
    tile = Tile(Span(0, rows, 0, rows), Span(0, columns, 0, columns))
    window = window_pixels(image, tile)
    assert window.shape == (BLOCK * rows, BLOCK * columns, 3)
    expected = image[np.arange(len(window)).clip(max=height - 1)][:, np.arange(window.shape[1]).clip(max=width - 1)]
    assert (window == (expected[..., None] if gray else expected)).all()


@pytest.mark.parametrize(("lapped", "blocks_8"), [(True, 3), (False, 4)])
@pytest.mark.parametrize("transform", ["analysis", "synthesis"])
def test_the_halo_is_just_wide_enough(transform: str, lapped: bool, blocks_8: int) -> None:
    """A model whose both transforms need the whole halo sees nothing beyond it, and something up to it."""
    blocks = {"analysis_blocks": (blocks_8, 1), "synthesis_blocks": (blocks_8, 1)}
    settings = TINY.model_copy(update={"lapped": lapped, **blocks})
    assert halo(settings) == 3
    model, quality = tiny_model(settings=settings), torch.tensor([40.0])
    assert difference(model, quality, transform, distance=3) > 1e-5
    assert difference(model, quality, transform, distance=4) == 0


@torch.inference_mode()
def difference(model: torch.nn.Module, quality: torch.Tensor, transform: str, distance: int) -> float:
    """How much the first latent position changes with the position ``distance`` beside it."""
    size, function = {"analysis": ((16 * BLOCK, 16 * BLOCK, 3), model.g_a), "synthesis": ((16, 16, 16), model.g_s)}[transform]
    x = torch.randn(1, *size, generator=torch.manual_seed(0)) * 20
    changed = x.clone()
    scale = size[0] // 16
    changed[:, :, distance * scale :] += 100
    unit = BLOCK // scale
    return float((function(x, quality) - function(changed, quality))[:, :, :unit].abs().max())
