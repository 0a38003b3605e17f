"""Part of a picture: the same pixels, from no more tiles than it needs."""

import numpy as np
import pytest

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.container.bitstream import unpack
from cnnbatch.errors import BitstreamError
from tests.codec.dense_models import GRAY, dense_codec_file, pictures
from tests.codec.models import picture, tiny_codec, tiny_codec_file

LARGE = picture(2100, 1500, seed=7)
[DATA] = tiny_codec().compress([LARGE], 30)
[WHOLE] = tiny_codec().reconstruct([DATA])


@pytest.mark.parametrize(
    "region",
    [(0, 0, 1, 1), (2099, 1499, 1, 1), (5, 7, 100, 90), (1000, 1000, 60, 50), (1020, 0, 16, 1500), (0, 0, 2100, 1500)],
)
def test_a_region_is_what_the_whole_picture_has_there(region: tuple[int, int, int, int]) -> None:
    top, left, height, width = region
    found = tiny_codec().reconstruct_region(DATA, top=top, left=left, height=height, width=width)
    expected = WHOLE[top : top + height, left : left + width]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 1e-3


def test_pieces_of_a_region_meet_without_a_seam() -> None:
    codec = Codec(tiny_codec_file(), device="cpu", limits=Limits(window_side=1024))
    found = codec.reconstruct_region(DATA, top=3, left=2, height=2000, width=1400)
    assert np.abs(found.astype(int) - WHOLE[3:2003, 2:1402]).max() <= 1


def test_damage_outside_of_what_a_region_needs_does_no_harm() -> None:
    last = len(unpack(DATA).tiles) - 1
    damaged = DATA[:-1] + bytes([DATA[-1] ^ 1])
    with pytest.raises(BitstreamError):
        unpack(damaged).check_tile(last)
    found = tiny_codec().reconstruct_region(damaged, top=0, left=0, height=500, width=500)
    assert np.abs(found.astype(int) - WHOLE[:500, :500]).max() <= 1
    with pytest.raises(BitstreamError):
        tiny_codec().reconstruct_region(damaged, top=2050, left=1450, height=20, width=20)


@pytest.mark.parametrize("region", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 1499, 1, 2), (2100, 0, 1, 1)])
def test_a_region_that_is_not_inside_is_refused(region: tuple[int, int, int, int]) -> None:
    top, left, height, width = region
    with pytest.raises(ValueError, match="is not inside an image of 1500 × 2100"):
        tiny_codec().reconstruct_region(DATA, top=top, left=left, height=height, width=width)


def test_a_region_of_a_gray_picture_is_gray() -> None:
    [data] = tiny_codec().compress([LARGE[:200, :200, 0]], 30)
    assert tiny_codec().reconstruct_region(data, top=10, left=20, height=30, width=40).shape == (30, 40)


def test_a_region_of_a_small_picture_is_cut_out() -> None:
    codec = Codec(dense_codec_file(), device="cpu")
    [data] = codec.compress(pictures(GRAY, 1), 32)
    [whole] = codec.reconstruct([data])
    assert (codec.reconstruct_region(data, top=2, left=3, height=4, width=5) == whole[2:6, 3:8]).all()
