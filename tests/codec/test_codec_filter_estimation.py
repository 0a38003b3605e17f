"""A picture's own adaptive filter: the encoder finds it, it is worth its bytes, and patches tell nearly as much as the whole
picture."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from cnnbatch.codec.adaptive_filter import estimation as own_filter
from cnnbatch.codec.adaptive_filter.estimation import (
    PATCH_HALO,
    PATCH_SIDE,
    PATCHES,
    Statistics,
    own_numbers,
    patch_places,
    statistics,
)
from cnnbatch.codec.adaptive_filter.filtering import filtered, surrounded
from cnnbatch.codec.adaptive_filter.kernels import AROUND, COLOURS, FEATURES, UNITS, Weights
from cnnbatch.codec.container.bitstream import Header, unpack
from cnnbatch.codec.entropy_coding.exp_golomb import unpacked
from cnnbatch.codec.hyperprior import filter_estimation
from cnnbatch.codec.hyperprior.filter_estimation import FilterSearch, Seen
from cnnbatch.metrics import psnr_db
from tests.codec.models import picture
from tests.codec.test_codec_adaptive_filter import PICTURES, codec, model

NOTHING: Weights = np.zeros((COLOURS, FEATURES), np.float32)


def seen(shown: Tensor, original: Tensor, step: float, *, every: int = 1) -> Statistics:
    """Of pictures [1, H, W, 3]."""
    return statistics(surrounded(shown)[0], original[0], step, every=every)


def numbers_of(found: Statistics, weights: Weights, bits_per_square: float, *, pixels: int | None = None) -> bytes:
    """``pixels``: of a picture that what was found stands for; None: it is all of it."""
    count = found.pixels if pixels is None else pixels
    whole = found.times(count / max(1, found.pixels))
    return own_numbers(whole, weights, pixels=count, step=8.0, bits_per_square=bits_per_square)


def test_statistics_tell_what_weights_would_save() -> None:
    rng = np.random.default_rng(0)
    shown, original = (torch.from_numpy(rng.uniform(0, 255, (1, 37, 41, 3)).astype(np.float32)) for _ in range(2))
    weights = rng.normal(0, 0.02, (COLOURS, FEATURES))
    found = seen(shown, original, 12.0)
    after = filtered(shown, torch.from_numpy(weights).float()[None], torch.tensor([12.0]))
    saved = float((shown - original).square().sum() - (after - original).square().sum())
    assert found.saved(weights) == pytest.approx(saved, rel=1e-3)
    assert found.pixels == 37 * 41
    [planes] = surrounded(shown)
    parts = [statistics(planes[:, a : b + 4], original[0, a:b], 12.0) for a, b in ((0, 20), (20, 37))]
    assert parts[0].plus(parts[1]).saved(weights) == pytest.approx(saved, rel=1e-3)


def test_other_devices_find_the_same_features() -> None:
    [planes] = surrounded(torch.from_numpy(picture(60, 50).astype(np.float32))[None])
    here, elsewhere = torch.zeros(2, COLOURS, FEATURES + 2, 60, 50).unbind()
    own_filter._fill_on_cpu(planes, 9.0, here)
    own_filter._fill_anywhere(planes, 9.0, elsewhere)
    assert float(here.abs().max()) > 100
    torch.testing.assert_close(here, elsewhere, rtol=1e-5, atol=1e-3)


def test_a_part_of_the_rows_stands_for_all() -> None:
    shown = torch.from_numpy(picture(900, 200).astype(np.float32))[None]
    original = shown + torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))
    weights = np.full((COLOURS, FEATURES), 1e-3)
    whole, part = (seen(shown, original, 9.0, every=every) for every in (1, 3))
    assert whole.pixels == 900 * 200 > 2.5 * part.pixels
    assert part.saved(weights) / part.pixels == pytest.approx(whole.saved(weights) / whole.pixels, rel=0.2)


def test_the_best_whole_numbers_save_nearly_what_the_best_weights_save() -> None:
    rng = np.random.default_rng(0)
    shown = torch.from_numpy(picture(200, 220).astype(np.float32))[None]
    true = np.zeros((COLOURS, FEATURES))
    true[:, :AROUND] = rng.normal(0, 0.01, (COLOURS, AROUND))
    original = filtered(shown, torch.from_numpy(true).float()[None], torch.tensor([15.0]))
    found = seen(shown, original, 15.0)
    numbers = unpacked(numbers_of(found, NOTHING, 10.0), COLOURS * FEATURES)
    best = found.saved(true)
    assert found.saved(numbers.reshape(COLOURS, FEATURES) * UNITS) > 0.9 * best > 0


def test_rounding_makes_up_for_itself() -> None:
    """Two features that are nearly the same: rounded apart, their numbers would miss the sum that matters."""
    squares = np.tile(np.eye(FEATURES), (COLOURS, 1, 1)) * 1e6
    squares[:, 0, 1] = squares[:, 1, 0] = 0.999e6
    true = np.zeros((COLOURS, FEATURES))
    true[:, :2] = 1.4 * UNITS[0]
    found = Statistics(squares, np.einsum("ckj,cj->ck", squares, true), 1000)
    numbers = unpacked(numbers_of(found, NOTHING, 1e3), COLOURS * FEATURES).reshape(COLOURS, FEATURES)
    assert (numbers[:, :2].sum(1) == 3).all()
    assert not numbers[:, 2:].any()


def test_what_saves_less_than_it_costs_is_left_out() -> None:
    found = Statistics(np.tile(np.eye(FEATURES), (COLOURS, 1, 1)), np.ones((COLOURS, FEATURES)), 100)
    assert numbers_of(found, NOTHING, 1e-3) == b""
    assert numbers_of(found, NOTHING, 1e3) != b""
    assert numbers_of(found, np.ones((COLOURS, FEATURES), np.float32), 1e3) == b""  # they are the best already


def test_what_few_pixels_say_of_many_is_believed_less() -> None:
    shown = 100 + torch.from_numpy(picture(64, 64).astype(np.float32))[None] / 20  # flatter than common pictures
    original = filtered(shown, torch.full((1, COLOURS, FEATURES), 0.1), torch.tensor([8.0]))
    found = seen(shown, original, 8.0)

    def size(pixels: int) -> int:
        numbers = unpacked(numbers_of(found, NOTHING, 1e3, pixels=pixels), COLOURS * FEATURES)
        return int(np.abs(numbers).sum())

    assert size(64 * 64) > 1.5 * size(64 * 64 * 100) > 0


@pytest.mark.parametrize("sample", [np.nan, np.inf, -1e30, 1e5])
def test_what_is_no_picture_gets_no_filter_of_its_own(sample: float) -> None:
    original = torch.from_numpy(PICTURES[0][None]).float()
    damaged = original + torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    assert numbers_of(seen(damaged, original, 8.0), NOTHING, 1e3) != b""
    damaged[0, 5, 7, 1] = sample
    assert numbers_of(seen(damaged, original, 8.0), NOTHING, 1e3) == b""


def test_weights_that_are_no_numbers_get_none_beside_them() -> None:
    original = torch.from_numpy(PICTURES[0][None]).float()
    found = seen(original + 3, original, 8.0)
    weights = NOTHING.copy()
    assert numbers_of(found, weights, 1e3) != b""
    weights[1, 4] = np.nan
    assert numbers_of(found, weights, 1e3) == b""


@pytest.mark.parametrize("shape", [(6, 6), (6, 64), (11, 7), (64, 64)])
def test_patches_lie_in_their_tile_with_what_is_around_them(shape: tuple[int, int]) -> None:
    found = list(patch_places(shape, PATCHES))
    assert len(found) == PATCHES
    for start, side in zip(np.array(found).T, shape, strict=True):
        assert start.min() >= PATCH_HALO
        assert start.max() <= side - PATCH_SIDE - PATCH_HALO
    if shape == (64, 64):
        assert len({(r // 16, c // 16) for r, c in found}) >= 10  # all over it


@pytest.mark.parametrize("shape", [(5, 64), (64, 5), (1, 1)])
def test_small_tiles_have_no_patches(shape: tuple[int, int]) -> None:
    assert not list(patch_places(shape, PATCHES))


def test_patches_tell_nearly_as_much_as_the_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.tile(picture(448, 640, seed=3), (2, 1, 1))[:, ::-1]

    def better(bitstream: bytes) -> float:
        return psnr_db(image, codec().reconstruct([bitstream])[0]) - plain

    plain = psnr_db(image, codec().reconstruct(codec().compress([image], 40))[0])
    [by_patches] = codec().compress([image], 40, effort=1)
    monkeypatch.setattr(filter_estimation, "WHOLE_PIXELS", image.size)
    [by_all] = codec().compress([image], 40, effort=1)
    assert by_patches != by_all
    assert 0.7 * better(by_all) < better(by_patches) < better(by_all) + 0.01
    assert better(by_all) > 0.02


def test_pictures_of_a_call_get_what_they_get_alone() -> None:
    images = [*(picture(700, 500, seed=n) for n in range(3)), picture(700, 500, seed=9)[..., 0], picture(1100, 300, seed=9)]
    qualities = [10, 30, 63, 50, 40]
    together = codec().compress(images, qualities, effort=1)
    for image, quality, data in zip(images, qualities, together, strict=True):
        [alone] = codec().compress([image], quality, effort=1)
        assert b"" != unpack(data).header.own_filter == unpack(alone).header.own_filter


@pytest.mark.parametrize("shape", [(80, 4000), (4100, 80)])
def test_narrow_pictures_are_decoded_whole(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    whole = FilterSearch.whole

    def noted(*args: Any, **options: Any) -> list[list[Seen]]:
        looks.append(whole(*args, **options))
        return looks[-1]

    monkeypatch.setattr(FilterSearch, "whole", noted)
    [data] = codec().compress([picture(*shape)], 50, effort=1)
    assert len(looks) == -(-max(shape) // 2048)
    assert unpack(data).header.own_filter
    assert codec().reconstruct([data])[0].shape == (*shape, 3)


def test_every_part_counts_by_its_area() -> None:
    """The last 96 columns are a tile of their own: its few patches stand for few pixels."""
    latents, synthesis = codec().coder.encoder.latents, codec().coder.decoder.synthesis
    search = FilterSearch(model().settings, latents, synthesis, [Header(1120, 1024, False, 128, b"abcd")])
    left = Statistics(np.ones((COLOURS, FEATURES, FEATURES)), np.ones((COLOURS, FEATURES)), 10)
    parts = [Seen((0, 64), left.times(96 * 1024 / 10), 96 * 1024), Seen((0, 0), left.times(1024 * 1024 / 10), 1024 * 1024)]
    with mock.patch("cnnbatch.codec.hyperprior.filter_estimation.own_numbers", return_value=b"") as own:
        search.numbers(0, parts)
    [whole], options = own.call_args.args[:1], own.call_args.kwargs
    assert whole.pixels == 20
    assert options["pixels"] == 1120 * 1024
    assert whole.products[0, 0] == pytest.approx(1120 * 1024 / 10)


def test_stripes_of_gray_do_not_stop_it() -> None:
    """Their three colours are equal, and rounding makes the matrix of their squares not quite definite."""
    stripes = np.tile(np.array([0, 255], np.float32), (384, 192))[None, :, :, None].repeat(3, 3)
    for factor in (1, 15):
        shown = torch.from_numpy(stripes * factor)
        found = seen(shown, shown + 1, 7.0)
        assert numbers_of(found, NOTHING, 0.2) != b""


def test_an_effort_finds_a_filter_of_the_pictures_own() -> None:
    images = [*PICTURES, PICTURES[0][..., 1]]
    plain, own = codec().compress(images, 40), codec().compress(images, 40, effort=1)
    for image, a, b in zip(images, plain, own, strict=True):
        header = unpack(b).header
        assert not unpack(a).header.own_filter
        assert 0 < len(header.own_filter) == len(b) - len(a) - 1
        assert psnr_db(image, codec().reconstruct([b])[0]) > psnr_db(image, codec().reconstruct([a])[0]) + 0.02
