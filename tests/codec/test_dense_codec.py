"""`Codec` with a dense codec file: pictures of one size in, the same out; damage, refusals, features."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.dense.settings import DenseSettings
from cnnbatch.errors import BitstreamError
from cnnbatch.metrics import psnr_db
from tests.codec.dense_models import COLOUR, GRAY, dense_codec, dense_model, pictures
from tests.codec.dense_reference import decode
from tests.codec.models import tiny_codec

BOTH = pytest.mark.parametrize("kind", [GRAY, COLOUR], ids=["gray", "colour"])
PROPERTY = settings(deadline=None, max_examples=40)


@BOTH
def test_pictures_come_back_in_their_shape_and_better_at_a_higher_quality(kind: DenseSettings) -> None:
    codec, images = dense_codec(kind), pictures(kind, 50, seed=1)
    sizes, means = [], []
    for quality in (0, 16, 32, 48, 63):
        bitstreams = codec.compress(images, quality)
        decoded = codec.reconstruct(bitstreams)
        assert {(out.shape, out.dtype) for out in decoded} == {(images[0].shape, np.dtype(np.uint8))}
        sizes.append(sum(map(len, bitstreams)))
        means.append(np.mean([psnr_db(a, b) for a, b in zip(images, decoded, strict=True)]))
    assert sizes == sorted(sizes)
    assert means[-1] > means[2] > means[0]


@PROPERTY
@given(st.integers(0, 252), st.integers(0, 2**32 - 1))
def test_any_picture_at_any_quality_decodes_to_what_the_specification_says(steps: int, seed: int) -> None:
    """Noise and hard edges too, far from what the model has seen: symbols escape."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (9, 14), np.uint8) if seed % 2 else (rng.random((9, 14)) < 0.5).astype(np.uint8) * 255
    codec = dense_codec()
    [data] = codec.compress([image], steps / 4)
    values, quality = codec.coder.symbols.decode([data])
    assert values[0].tolist() == decode(data, codec.file.arrays, codec.id)
    assert quality[0] == data[0] == steps


@BOTH
def test_each_picture_has_its_own_quality_and_is_the_same_alone(kind: DenseSettings) -> None:
    codec, images = dense_codec(kind), (pictures(kind, 400, seed=2) * 2)[:600]  # more than one batch
    qualities = [n % 253 / 4 for n in range(600)]
    together = codec.reconstruct(codec.compress(images, qualities))
    for n in (0, 255, 256, 599):
        alone = codec.reconstruct(codec.compress([images[n]], qualities[n]))[0]
        assert psnr_db(together[n], alone) > 35  # a latent half way between two symbols may fall either way


def test_several_threads_give_the_same_bytes() -> None:
    images = pictures(GRAY, 400, seed=3) * 3
    threaded = Codec(dense_codec().data, device="cpu", threads=2)
    bitstreams = threaded.compress(images)
    assert bitstreams == dense_codec().compress(images)
    assert all(
        (a == b).all() for a, b in zip(threaded.reconstruct(bitstreams), dense_codec().reconstruct(bitstreams), strict=True)
    )


def test_no_pictures_are_no_bitstreams() -> None:
    assert dense_codec().compress([]) == []
    assert dense_codec().reconstruct([]) == []
    assert dense_codec().features([]).shape == (0, GRAY.latents)


def test_every_flipped_bit_and_every_cut_is_reported() -> None:
    codec = dense_codec()
    [data] = codec.compress(pictures(GRAY, 1), 40)
    damaged = [bytes([*data[:n], data[n] ^ 1 << bit, *data[n + 1 :]]) for n in range(len(data)) for bit in range(8)]
    damaged += [data[:n] for n in range(len(data))] + [data + b"\0", data + b"\xff" * 9]
    found = sum(not is_refused(codec, attack) for attack in damaged)
    assert found <= 1  # the check has 16 bits


def is_refused(codec: Codec, data: bytes) -> bool:
    try:
        codec.reconstruct([data])
    except BitstreamError:
        return True
    return False


@PROPERTY
@given(st.binary(max_size=80))
def test_any_bytes_are_refused_or_decoded(data: bytes) -> None:
    if not is_refused(dense_codec(), data):
        assert dense_codec().reconstruct([data])[0].shape == (9, 14)


def test_the_damaged_bitstream_of_a_call_is_named() -> None:
    codec = dense_codec()
    bitstreams = codec.compress(pictures(GRAY, 300))
    bitstreams[270] = bitstreams[270][:-1]
    for read in (codec.reconstruct, codec.features):
        with pytest.raises(BitstreamError, match="bitstream 270 of the call"):
            read(bitstreams)


def test_a_bitstream_of_another_codec_is_refused() -> None:
    other = Codec(dump_codec(dense_model(), training={"note": "another"}), device="cpu")
    for data in dense_codec().compress(pictures(GRAY, 20)):
        with pytest.raises(BitstreamError, match="another codec"):
            other.reconstruct([data])


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((9, 14), None), ((14, 9), "other-size"), ((9, 14, 3), "other-mode"), ((1, 1), "other-size"), ((28, 28, 3), "other-mode")],
)
def test_another_size_or_mode_has_its_reason(shape: tuple[int, ...], reason: str | None) -> None:
    image = np.zeros(shape, np.uint8)
    assert dense_codec().refusal(image) == reason
    if reason is not None:
        with pytest.raises(ValueError, match=f"{reason}: gray pictures of 14 × 9 pixels"):
            dense_codec().compress([image])


@pytest.mark.parametrize("image", [np.zeros((9, 14)), np.zeros((9, 14, 4), np.uint8), np.zeros((0, 3), np.uint8)], ids=str)
def test_what_is_no_image_is_an_error(image: np.ndarray) -> None:
    for codec in (dense_codec(), tiny_codec()):
        with pytest.raises(ValueError, match="an image"):
            codec.refusal(image)


@pytest.mark.parametrize("quality", [-1, 63.5, float("nan")])
def test_a_quality_outside_the_range_is_an_error(quality: float) -> None:
    with pytest.raises(ValueError, match="quality is in 0…63"):
        dense_codec().compress(pictures(GRAY, 1), quality)


@BOTH
def test_features_mean_the_same_at_every_quality(kind: DenseSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """And need no synthesis."""
    codec, images = Codec(dense_codec(kind).data, device="cpu"), pictures(kind, 100)
    with torch.no_grad():
        for gain in (codec.coder.model.g_a.conv_gain, codec.coder.model.g_a.hidden_gain):
            gain.anchors.zero_()  # a random one makes another transform of each quality
    monkeypatch.setattr(codec.coder.model.g_s, "forward", None)
    fine, finer = (codec.features(codec.compress(images, quality)) for quality in (56, 63))
    assert (fine.shape, fine.dtype) == ((100, kind.latents), np.float32)
    assert np.corrcoef(fine.ravel(), finer.ravel())[0, 1] > 0.99
    assert np.abs(fine - finer).mean() < 0.2 * np.abs(finer).mean()


def test_features_of_the_hyperprior_are_pooled_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(tiny_codec().data, device="cpu")
    channels = codec.file.settings.latent_channels
    images = [np.asarray(pictures(COLOUR, 1)[0]), np.zeros((70, 40), np.uint8), pictures(COLOUR, 2)[1]]
    monkeypatch.setattr(codec.coder.decoder.synthesis, "pixels", None)
    found = codec.features(codec.compress(images, 50))
    assert (found.shape, found.dtype) == ((3, 3 * channels), np.float32)
    mean, magnitude, largest = np.split(found, 3, axis=1)
    assert (np.abs(mean) <= magnitude + 1e-5).all()
    assert (magnitude <= largest + 1e-5).all()
    other = codec.features(codec.compress(images, 63))
    assert np.corrcoef(found.ravel(), other.ravel())[0, 1] > 0.9
    assert codec.features([]).shape == (0, 3 * channels)
