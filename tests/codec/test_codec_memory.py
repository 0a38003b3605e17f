"""Where the device has no memory for a batch, the batch is halved: the same bitstreams and pictures come out."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnnbatch.codec import Codec, Limits
from cnnbatch.errors import BitstreamError
from tests.codec.dense_models import GRAY, dense_codec, pictures
from tests.codec.models import picture, tiny_codec_file


class Small:
    """A transform on a device that holds ``most`` pictures at once."""

    def __init__(self, transform: Callable[..., torch.Tensor], most: int) -> None:
        self.transform, self.most = transform, most
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(x)}")
        return self.transform(x, *others, **options)


def small_codec(most: int) -> tuple[Codec, list[Small]]:
    codec = Codec(tiny_codec_file(), device="cpu", limits=Limits(batch_pixels=1 << 16))
    encoder, synthesis = codec.coder.encoder, codec.coder.decoder.synthesis  # type: ignore[attr-defined]
    encoder.analysis, synthesis.pixels = Small(encoder.analysis, most), Small(synthesis.pixels, most)
    return codec, [encoder.analysis, synthesis.pixels]


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_that_does_not_fit_is_halved_and_the_next_ones_are_smaller(most: int, caplog: pytest.LogCaptureFixture) -> None:
    images = [picture(48, 64, seed=seed) for seed in range(30)]
    whole = Codec(tiny_codec_file(), device="cpu", limits=Limits(batch_pixels=1 << 16))
    codec, transforms = small_codec(most)
    with caplog.at_level(logging.WARNING):
        bitstreams = codec.compress(images, 32)
    assert "trying halves" in caplog.text
    assert transforms[0].sizes[0] > most
    assert sum(size for size in transforms[0].sizes if size <= most) == len(images)  # each once
    assert bitstreams == whole.compress(images, 32)
    for found, expected in zip(codec.reconstruct(bitstreams), whole.reconstruct(bitstreams), strict=True):
        assert np.abs(found.astype(int) - expected).max() <= 1
    transforms[0].sizes.clear()
    codec.compress(images, 32)
    assert max(transforms[0].sizes) <= max(most, 2)  # what was learnt holds


def test_small_pictures_that_do_not_fit_together_are_halved_too() -> None:
    images = pictures(GRAY, 20, seed=3)
    codec, whole = Codec(dense_codec(GRAY).data, device="cpu"), dense_codec(GRAY)
    model = codec.coder.model  # type: ignore[attr-defined]
    small = Small(model.g_s.forward, 3)
    model.g_s.forward = small
    bitstreams = whole.compress(images, 32)
    for found, expected in zip(codec.reconstruct(bitstreams), whole.reconstruct(bitstreams), strict=True):
        assert np.abs(found.astype(int) - expected).max() <= 1
    assert small.sizes[0] == len(images)
    assert sum(size for size in small.sizes if size <= 3) == len(images)


def test_a_picture_that_does_not_fit_alone_is_the_machines_fault() -> None:
    codec, _ = small_codec(0)
    with pytest.raises(torch.OutOfMemoryError):
        codec.compress([picture(48, 64)], 32)


def test_a_bitstream_over_the_limit_on_pixels_is_refused() -> None:
    [data] = Codec(tiny_codec_file(), device="cpu").compress([picture(40, 50)], 32)
    assert Codec(tiny_codec_file(), device="cpu", limits=Limits(max_pixels=2000)).reconstruct([data])[0].shape == (40, 50, 3)
    with pytest.raises(BitstreamError, match="2000 pixels, the limit is 1999"):
        Codec(tiny_codec_file(), device="cpu", limits=Limits(max_pixels=1999)).reconstruct([data])
