"""Bitstreams written once and decoded for ever; `tests/golden/make.py` is the only thing that writes them."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cnnbatch.codec import Codec

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = ["one_pixel", "colour_low", "colour_high", "gray", "two_tiles", "escapes"]
CODEC_ID = "7e5d66ff14a0980322983e326e57222d2d7fa346e9a702e9f5c813bc7277ee88"


@cache
def codec() -> Codec:
    return Codec.load(FOLDER / "codec.safetensors", device="cpu")


def test_the_codec_file_is_the_one_of_the_bitstreams() -> None:
    assert codec().id == CODEC_ID


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_bitstream_decodes_to_its_pixels(name: str) -> None:
    with np.load(FOLDER / "pixels.npz") as file:
        expected = file[name]
    found = codec().reconstruct([(FOLDER / f"{name}.bin").read_bytes()])[0]
    assert found.shape == expected.shape
    off = np.abs(found.astype(int) - expected)
    assert off.max() <= 3
    assert np.mean(off > 1) < 1e-3


def test_no_golden_bitstream_is_left_out() -> None:
    assert sorted(p.stem for p in FOLDER.glob("*.bin")) == sorted(NAMES)
