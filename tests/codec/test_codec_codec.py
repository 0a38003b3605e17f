"""`Codec`: any image in, the same shape out; batches, tiles and damage."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec import Codec, Limits
from cnnbatch.codec.container.bitstream import MAX_SIDE, pack, unpack
from cnnbatch.codec.hyperprior.coder import is_neutral
from cnnbatch.codec.hyperprior.windows import windows
from cnnbatch.errors import BitstreamError
from cnnbatch.metrics import psnr_db
from tests.codec.models import picture, tiny_codec, tiny_codec_file
from tests.codec.reference import decode_tile, local_steps, parse_container, read_hyper_latents, with_prediction
from tests.codec.reference import means as expected_means

PROPERTY = settings(deadline=None, max_examples=60)
CODEC = tiny_codec()
IMAGES = [
    picture(100, 60),
    picture(33, 200, seed=1),
    picture(100, 60, seed=2),
    picture(70, 45, seed=3)[..., 0],
    np.random.default_rng(4).integers(0, 256, (100, 60, 3), np.uint8),
    picture(1, 1, seed=5),
]


def level_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


@PROPERTY
@given(st.integers(1, 90), st.integers(1, 90), st.booleans(), st.integers(0, 252), st.integers(0, 9))
def test_an_image_of_any_size_comes_back_in_its_shape(height: int, width: int, gray: bool, steps: int, seed: int) -> None:
    image = picture(height, width, seed=seed)
    image = image[..., 1] if gray else image
    data = CODEC.compress([image], quality=steps / 4)[0]
    found = CODEC.reconstruct([data])[0]
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert unpack(data).header.quality == steps / 4


def test_rgb_without_colours_gets_none() -> None:
    gray = picture(70, 90, seed=3)[..., 1]
    neutral = np.repeat(gray[..., None], 3, axis=2)
    both = CODEC.compress([gray, neutral], 8)
    as_gray, as_neutral = CODEC.reconstruct(both)
    assert (as_neutral == as_gray[..., None]).all()
    assert (CODEC.reconstruct_region(both[1], top=3, left=5, height=20, width=30) == as_neutral[3:23, 5:35]).all()
    assert [len(b) for b in both] == [len(both[0])] * 2


def test_one_coloured_pixel_is_not_neutral() -> None:
    image = np.full((40, 50, 3), 90, np.uint8)
    assert is_neutral(image)
    image[37, 20, 2] += 1
    assert not is_neutral(image)
    assert not is_neutral(image[..., 0])


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("quality", [0, 32, 63])
def test_a_flat_image_stays_near_its_colour(value: int, quality: int) -> None:
    image = np.full((40, 50, 3), value, np.uint8)
    codec = Codec.load(device="cpu")
    assert psnr_db(image, codec.reconstruct(codec.compress([image], quality))[0]) > (25 if quality else 18)


def test_noise_survives_at_every_quality() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8)
    sizes = [len(CODEC.compress([noise], quality)[0]) for quality in (0, 20, 40, 63)]
    assert sizes == sorted(sizes)
    assert CODEC.reconstruct(CODEC.compress([noise], 63))[0].shape == noise.shape


def test_no_images_give_no_bitstreams() -> None:
    assert CODEC.compress([]) == []
    assert CODEC.reconstruct([]) == []


def test_mixed_sizes_in_one_call_are_coded_as_alone() -> None:
    together = CODEC.compress(IMAGES, 40)
    alone = [CODEC.compress([image], 40)[0] for image in IMAGES]
    for a, b in zip(together, alone, strict=True):
        assert len(a) == pytest.approx(len(b), rel=1e-3, abs=4)
        x, y = CODEC.reconstruct([a, b])
        assert np.mean(np.abs(x.astype(int) - y) > 1) < 1e-3


def test_mixed_sizes_in_one_call_are_reconstructed_as_alone() -> None:
    data = CODEC.compress(IMAGES, 40)
    for bitstream, together in zip(data, CODEC.reconstruct(data), strict=True):
        assert level_difference(CODEC.reconstruct([bitstream])[0], together) <= 1


def test_every_image_may_have_its_own_quality() -> None:
    qualities = [0, 10.25, 63, 32, 5, 7]
    data = CODEC.compress(IMAGES, qualities)
    assert [unpack(d).header.quality for d in data] == qualities
    assert len(CODEC.compress(IMAGES[:1], 0)[0]) == pytest.approx(len(data[0]), rel=1e-3, abs=4)


def test_the_same_call_twice_gives_the_same_bytes() -> None:
    data = CODEC.compress(IMAGES, 40)
    assert CODEC.compress(IMAGES, 40) == data
    for a, b in zip(CODEC.reconstruct(data), CODEC.reconstruct(data), strict=True):
        assert (a == b).all()


def test_batch_limits_change_nothing_but_memory() -> None:
    one_by_one = tiny_codec(limits=Limits(batch_pixels=1))
    for a, b in zip(
        one_by_one.reconstruct(CODEC.compress(IMAGES)), CODEC.reconstruct(one_by_one.compress(IMAGES)), strict=True
    ):
        assert level_difference(a, b) <= 1


@pytest.mark.parametrize("shape", [(1200, 70), (90, 1130), (1080, 1090)], ids=str)
def test_an_image_in_windows_is_the_whole_one(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    in_windows, whole = tiny_codec(limits=Limits(window_side=1024)), tiny_codec(limits=Limits(window_side=1 << 14))
    positions = tuple(-(-n // 16) for n in shape)
    assert len(windows(positions, side=1024, halo=3)) > 1
    a, b = in_windows.compress([image], 40)[0], whole.compress([image], 40)[0]
    assert len(a) == pytest.approx(len(b), rel=1e-3)
    assert level_difference(in_windows.reconstruct([b])[0], whole.reconstruct([b])[0]) <= 1
    assert np.mean(np.abs(whole.reconstruct([a])[0].astype(int) - whole.reconstruct([b])[0]) > 1) < 1e-3


@pytest.mark.parametrize("side", [0, -1024, 512, 1500])
def test_a_window_that_would_cut_tiles_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match="window_side"):
        Limits(window_side=side)


@pytest.mark.parametrize("shape", [(5, 7), (64, 64), (90, 41)], ids=str)
@pytest.mark.parametrize("step", [0, 130, 252])
def test_the_procedure_of_the_specification_reads_the_symbols(shape: tuple[int, int], step: int) -> None:
    """What docs/format.md says, in plain integers, gives the residuals of which the codec makes ŷ."""
    codec = CODEC
    container = parse_container(codec.compress([picture(*shape)], step / 4)[0])
    positions = -(-shape[0] // 16), -(-shape[1] // 16)
    settings = codec.file.settings.model_dump()
    r = decode_tile(codec.file.arrays, settings, container.tiles[0], positions, container.quality_steps)
    quality = torch.tensor([step / 4])
    with torch.inference_mode():
        y_hat = codec.coder.decoder.latents.decode(container.tiles, positions, quality)[0].numpy()
    z = read_hyper_latents(codec.file.arrays, container.tiles[0], positions, step)
    rows, columns = positions
    steps = local_steps(codec.file.arrays, z)[:rows, :columns]
    means = y_hat / steps - with_prediction(codec.file.arrays, settings, r, container.quality_steps)
    np.testing.assert_allclose(means, expected_means(codec.file.arrays, z, step)[:rows, :columns], atol=1e-3)
    assert np.abs(r).sum() > 0 or step == 0
    assert container.prefix.hex() == codec.id[:8]


def test_one_damaged_bitstream_is_named_and_the_others_decode() -> None:
    data = CODEC.compress(IMAGES[:4])
    good = CODEC.reconstruct(data)
    broken = [*data[:2], data[2][:-1] + bytes([data[2][-1] ^ 1]), data[3]]
    with pytest.raises(BitstreamError, match="bitstream 2 of the call: tile 0 of 1: wrong CRC"):
        CODEC.reconstruct(broken)
    for number in (0, 1, 3):
        assert level_difference(CODEC.reconstruct([broken[number]])[0], good[number]) <= 1


@pytest.mark.parametrize("change", [lambda u: u[:-4], lambda u: u + bytes(4), lambda u: bytes(len(u)), lambda _: b""])
def test_a_stream_of_the_right_checksum_and_wrong_content_is_named(change: object) -> None:
    """Forged, or of a coder with a bug: same size of image, same batch as a good one."""
    data = CODEC.compress([IMAGES[0], IMAGES[2]])
    parsed = unpack(data[1])
    forged = pack(parsed.header, [change(bytes(parsed.tiles[0]))])  # type: ignore[operator]
    with pytest.raises(BitstreamError, match="bitstream 1 of the call: entropy-coded stream"):
        CODEC.reconstruct([data[0], forged])


def test_every_changed_byte_of_a_bitstream_is_found() -> None:
    data = CODEC.compress([picture(30, 40)])[0]
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x11
        with pytest.raises(BitstreamError):
            CODEC.reconstruct([bytes(damaged)])


def test_a_bitstream_of_another_codec_is_refused() -> None:
    other = tiny_codec(1)
    with pytest.raises(BitstreamError, match=f"of codec {other.id[:8]}…, but this is codec {CODEC.id[:8]}…"):
        CODEC.reconstruct(other.compress([IMAGES[0]]))


@pytest.mark.parametrize("quality", [-0.1, 63.01, float("nan"), float("inf"), [1.0, 64.0]])
def test_a_quality_outside_the_range_is_refused(quality: float | list[float]) -> None:
    with pytest.raises(ValueError, match="quality is in 0…63"):
        CODEC.compress(IMAGES[:2], quality)


def test_a_list_of_qualities_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        CODEC.compress(IMAGES[:2], [3.0])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{list(image.shape)}",
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="an image"):
        CODEC.compress([image])


def test_an_image_beyond_the_limits_of_the_format_is_refused() -> None:
    image = np.zeros((1, MAX_SIDE + 1), np.uint8)
    assert CODEC.refusal(image) == "too-large"
    with pytest.raises(ValueError, match="too-large"):
        CODEC.compress([image])


def test_a_view_that_is_not_contiguous_is_coded() -> None:
    image = picture(80, 60)
    assert CODEC.compress([image[::-1, ::2]]) == CODEC.compress([image[::-1, ::2].copy()])


def test_several_threads_may_share_a_codec() -> None:
    expected, results = CODEC.compress(IMAGES[:2]), []

    def work() -> None:
        results.append(CODEC.compress(IMAGES[:2]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_a_codec_loads_from_a_path(tmp_path: object) -> None:
    path = tmp_path / "tiny.safetensors"  # type: ignore[operator]
    path.write_bytes(tiny_codec_file())
    assert Codec.load(path, device="cpu").id == CODEC.id
