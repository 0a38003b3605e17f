"""The Adaptive filter: what it computes, that a picture's own is worth its bytes, and that every reader sees the same."""

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.adaptive_filter.filtering import features, filtered
from cnnbatch.codec.adaptive_filter.kernels import AROUND, COLOURS, FEATURES, LIMITS, REACH, filter_planes, repeat_edges
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.container.bitstream import pack, unpack
from cnnbatch.codec.entropy_coding.exp_golomb import LARGEST_NUMBER, packed, unpacked
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.errors import BitstreamError
from cnnbatch.metrics import psnr_db
from cnnbatch.training.adaptive_filter import fit_adaptive_filter
from tests.codec.models import picture, tiny_codec, tiny_model

PICTURES = [picture(128, 192, seed=n) for n in range(4)]
PROPERTY = settings(deadline=None, max_examples=50)

Floats = npt.NDArray[np.floating]


@cache
def model() -> Hyperprior:
    made = tiny_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnbatch.training.adaptive_filter.PICTURES", 24)
        fit_adaptive_filter(made, [picture(300, 300, seed=n) for n in range(4)])
    return made


@cache
def codec(limits: Limits | None = None) -> Codec:
    return Codec(dump_codec(model(), training={}), device="cpu", limits=limits)


def by_definition(image: Floats, weights: Floats, step: float) -> Floats:
    """docs/format.md, *Adaptive filter*, sample by sample."""
    height, width, _ = image.shape
    offsets = [(0, 1), (0, 2), *((r, c) for r in (1, 2) for c in (-2, -1, 0, 1, 2))]
    out = image.astype(np.float64).copy()

    def at(i: int, j: int, c: int) -> float:
        return float(image[min(max(i, 0), height - 1), min(max(j, 0), width - 1), c])

    for i, j, c in np.ndindex(*image.shape):
        x = at(i, j, c)
        features = [
            sum(min(max(at(i + s * r, j + s * k, c) - x, -t * step), t * step) for s in (-1, 1))
            for t in (0.1, 0.8)
            for r, k in offsets
        ]
        near = [(r, k) for r in (-1, 0, 1) for k in (-1, 0, 1)]
        features += [sum(at(i + r, j + k, d) for r, k in near) - 9 * at(i, j, d) for d in range(3)]
        features += [at(i, j, 0) - at(i, j, 1), at(i, j, 2) - at(i, j, 1), 16.0]
        out[i, j, c] += float(np.dot(weights[c], features))
    return out


def compiled(image: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], step: float) -> npt.NDArray[np.uint8]:
    height, width, _ = image.shape
    planes = np.full((COLOURS, height + 2 * REACH, width + 2 * REACH), np.nan, np.float32)
    planes[:, REACH:-REACH, REACH:-REACH] = image.transpose(2, 0, 1)
    repeat_edges(planes)
    pixels = np.empty(image.shape, np.uint8)
    filter_planes(planes, weights, (step * np.array(LIMITS)).astype(np.float32), pixels)
    return pixels


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 4), (19, 6)])
def test_it_computes_what_the_specification_says(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(-5, 260, (*shape, 3)).astype(np.float32)
    weights = rng.normal(0, 0.03, (COLOURS, FEATURES)).astype(np.float32)
    expected = by_definition(image, weights, 20.0)
    found = filtered(torch.from_numpy(image)[None], torch.from_numpy(weights)[None], torch.tensor([20.0]))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    rounded = np.floor(expected.clip(0, 255) + 0.5).clip(0, 255)
    off = np.abs(compiled(image, weights, 20.0) - rounded)
    assert (off[np.abs(expected % 1 - 0.5) > 0.01] == 0).all()
    assert off.max() <= 1


def test_without_weights_nothing_changes() -> None:
    image = picture(40, 50).astype(np.float32)
    assert (compiled(image, np.zeros((COLOURS, FEATURES), np.float32), 9.0) == image).all()


def test_what_is_around_a_flat_picture_says_nothing() -> None:
    flat = torch.full((1, 3, 20, 20), 77.0)
    found = features(flat, torch.tensor([9.0]))
    assert not found[:, :, :AROUND].any()


@PROPERTY
@given(st.lists(st.integers(-LARGEST_NUMBER, LARGEST_NUMBER), min_size=1, max_size=99))
def test_numbers_come_back(numbers: list[int]) -> None:
    data = packed(np.array(numbers))
    assert unpacked(data, len(numbers)).tolist() == numbers


@PROPERTY
@given(st.binary(max_size=60))
def test_random_bytes_never_do_more_than_raise(data: bytes) -> None:
    try:
        numbers = unpacked(data, 20)
    except BitstreamError:
        return
    assert packed(numbers) == data


@pytest.mark.parametrize("data", [b"", b"\x00" * 1000, packed(np.array([3, 4])) + b"\0", packed(np.array([1] * 30))])
def test_damaged_numbers_are_refused(data: bytes) -> None:
    with pytest.raises(BitstreamError, match="filter"):
        unpacked(data, 2)


@pytest.mark.parametrize("quality", [5, 32, 60])
def test_a_fitted_filter_makes_pictures_better(quality: int) -> None:
    without = tiny_codec()
    assert not without.file.arrays["g_s.adaptive_filter.anchors"].any()
    better = []
    for image in PICTURES:
        [a], [b] = (one.compress([image], quality) for one in (without, codec()))
        assert len(a) == len(b)  # it has no part in encoding
        better.append(psnr_db(image, codec().reconstruct([b])[0]) - psnr_db(image, without.reconstruct([a])[0]))
    assert np.mean(better) > 0.1


def test_windows_batches_and_regions_show_the_same() -> None:
    image = picture(1100, 1040)
    in_windows, whole = codec(Limits(window_side=1024)), codec()
    [bitstream] = in_windows.compress([image], 45, effort=1)
    other = whole.compress([PICTURES[0]], 20)[0]
    [alone] = whole.reconstruct([bitstream])
    assert unpack(bitstream).header.own_filter
    for found in (in_windows.reconstruct([bitstream])[0], whole.reconstruct([other, bitstream])[1]):
        assert int(np.abs(found.astype(int) - alone).max()) <= 1
    part = whole.reconstruct_region(bitstream, top=1000, left=900, height=90, width=130)
    assert int(np.abs(part.astype(int) - alone[1000:1090, 900:1030]).max()) <= 1


def test_pictures_with_and_without_their_own_go_together() -> None:
    images = PICTURES[:3]
    bitstreams = [codec().compress([image], 40, effort=effort)[0] for image, effort in zip(images, (0, 1, 1), strict=True)]
    together = codec().reconstruct(bitstreams)
    for bitstream, found in zip(bitstreams, together, strict=True):
        assert int(np.abs(found.astype(int) - codec().reconstruct([bitstream])[0]).max()) <= 1


def test_a_filter_of_too_few_numbers_is_refused() -> None:
    [data] = codec().compress([PICTURES[0]], 20)
    parsed = unpack(data)
    damaged = pack(replace(parsed.header, own_filter=b"\xff"), [bytes(tile) for tile in parsed.tiles])
    with pytest.raises(BitstreamError, match="filter"):
        codec().reconstruct([damaged])
