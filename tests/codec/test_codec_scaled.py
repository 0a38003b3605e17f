"""Reduced pictures: what the full decoder's picture is after a box filter, from the latents."""

from collections.abc import Callable, Hashable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from cnnbatch.codec import SHIPPED, Codec
from cnnbatch.codec.container.bitstream import unpack
from cnnbatch.codec.geometry import divisor, reduced
from cnnbatch.errors import BitstreamError
from cnnbatch.metrics import psnr_db
from tests.codec.dense_models import GRAY, dense_codec_file, pictures
from tests.codec.models import picture, tiny_codec

SCALES = [1 / 2, 1 / 4, 1 / 8, 1 / 16]
LARGE = picture(1100, 1300, seed=7)


@cache
def large() -> bytes:
    return tiny_codec().compress([LARGE], 30)[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reduced_photograph_is_the_reduced_photograph(name: str) -> None:
    codec = Codec.load(name, device="cpu")
    image = data.astronaut()[:384, 64:500]
    [bitstream] = codec.compress([image], 32)
    [full] = codec.reconstruct([bitstream])
    for scale in SCALES:
        [found] = codec.reconstruct([bitstream], scale=scale)
        expected = reduced(full, round(1 / scale))
        assert found.shape == expected.shape
        assert psnr_db(expected, found) >= 38, scale


@pytest.mark.parametrize("shape", [(1, 1), (15, 33), (16, 16), (17, 47, 3), (80, 64, 3)], ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_any_size_and_gray(shape: tuple[int, ...], scale: float) -> None:
    by = round(1 / scale)
    image = picture(*shape[:2]) if len(shape) == 3 else picture(*shape[:2])[..., 1]
    [bitstream] = tiny_codec().compress([image], 60)
    [found] = tiny_codec().reconstruct([bitstream], scale=scale)
    assert found.shape == reduced(image, by).shape
    # the edges too: there blocks are not lapped
    whole = tiny_codec().reconstruct([bitstream], decoder="draft")[0][: shape[0] // by * by, : shape[1] // by * by]
    if by <= 4 and whole.size:
        inner = found[: whole.shape[0] // by, : whole.shape[1] // by]
        assert np.abs(inner.astype(int) - reduced(whole, by)).mean() < 4


@pytest.mark.parametrize("scale", SCALES)
def test_windows_and_regions_are_parts_of_the_same(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    [whole] = tiny_codec().reconstruct([large()], scale=scale)
    monkeypatch.setattr("cnnbatch.codec.hyperprior.linear_decoder.WINDOW_SIDE", 1 << 20)
    [at_once] = tiny_codec().reconstruct([large()], scale=scale)
    assert np.abs(whole.astype(int) - at_once).max() <= 1
    height, width = whole.shape[:2]
    for top, left, h, w in [(0, 0, 1, 1), (height - 3, width - 5, 3, 5), (height // 2, width // 3, 11, 9)]:
        found = tiny_codec().reconstruct_region(large(), top=top, left=left, height=h, width=w, scale=scale)
        assert np.abs(found.astype(int) - whole[top : top + h, left : left + w]).max() <= 1
    with pytest.raises(ValueError, match=f"is not inside an image of {width} × {height}"):
        tiny_codec().reconstruct_region(large(), top=0, left=width, height=1, width=1, scale=scale)


def test_regions_share_the_tiles_that_are_kept() -> None:
    """Two regions on the same four tiles: each tile is decoded once, and both regions are as they are without."""
    kept: dict[Hashable, npt.NDArray[np.float32]] = {}
    made: list[Hashable] = []

    def keep(name: Hashable, make: Callable[[], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        if name not in kept:
            made.append(name)
            kept[name] = make()
        return kept[name]

    codec = Codec(tiny_codec().data, device="cpu", threads=2)
    for top in (1000, 1010):
        place = {"top": top, "left": 1010, "height": 40, "width": 50}
        found = codec.reconstruct_region(large(), **place, decoder="draft", keep=keep)
        assert np.array_equal(found, codec.reconstruct_region(large(), **place, decoder="draft"))
    assert len(made) == len(kept) == 4


def test_a_region_needs_no_other_tile() -> None:
    damaged = large()[:-1] + bytes([large()[-1] ^ 1])
    with pytest.raises(BitstreamError):
        unpack(damaged).check_tile(3)
    tiny_codec().reconstruct_region(damaged, top=0, left=0, height=60, width=60, scale=1 / 8)
    for scale in SCALES:  # a sixteenth does not read to the end of a stream, but checks all of it
        with pytest.raises(BitstreamError, match="bitstream 0 of the call: tile 3"):
            tiny_codec().reconstruct([damaged], scale=scale)


def test_a_sixteenth_reads_the_beginning_of_a_stream() -> None:
    quick = tiny_codec().quick_decoder
    assert quick._scaled(16).tiles.wanted == tiny_codec().file.settings.predicted_channels  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", [0.3, 0, -1, 2, 1 / 32, float("nan")])
def test_other_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale is one of 1, 1/2, 1/4, 1/8, 1/16"):
        tiny_codec().reconstruct([large()], scale=scale)
    assert [divisor(s) for s in (1, *SCALES)] == [1, 2, 4, 8, 16]


def test_means_of_squares_are_those_of_what_is_there() -> None:
    image = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert reduced(image, 4).tolist() == [[12, 16], [30, 33]]
    assert reduced(image, 1).tolist() == image.tolist()
    assert (reduced(np.full((9, 5, 3), 255, np.uint8), 2) == 255).all()


def test_a_small_picture_of_one_size_is_reduced_after_decoding() -> None:
    codec = Codec(dense_codec_file(), device="cpu")
    bitstreams = codec.compress(pictures(GRAY, 2), 32)
    [full, _], [found, _] = codec.reconstruct(bitstreams), codec.reconstruct(bitstreams, scale=1 / 4)
    assert (found == reduced(full, 4)).all()
    part = codec.reconstruct_region(bitstreams[0], top=1, left=1, height=2, width=3, scale=1 / 4)
    assert (part == found[1:3, 1:4]).all()
