"""Bitstreams written once and decoded for ever; `tests/golden/make.py` is the only thing that writes them."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cnnbatch.codec import Codec

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = ["one_pixel", "colour_low", "colour_high", "gray", "two_units", "escapes"]
CODEC_IDS = {
    ".": "f19dadd12bfdfbbb72e22978ffe4d51e731fe67073d1ab0746c94a811eb33691",
    "lapped": "2dce7d253e5ec48b0ad08dba803810e8979c27f866b9543d741731dde7d6dd1d",
    "hyper_context": "554c3aacdbb16a9451d780d9f118938f5e7df50b9156209601d0e99e806c45b8",
    "dependent": "faa9eedc8d983047ef6874b62d297629fa9c32fd4e1f231e931ff63e4010c082",
    "eight_bits": "261fc0f302d90eb7f46562436849b828925c9d3c348518a19ab096dd7c0b5e92",
    "states": "07313dca707c47ba95b45c28e3e4ac52aa1991867dfd69e44ecab5a1e7ccf89a",
    "post_filter": "16e477296e1825f3e0f963a4146267d25efda461883e7aa1c25f1906c35667a4",
    "integer_means": "d5c6c27f6296499b6f598e70f25c2bbffff6282e002027c30db97491c3201053",
}
"""Folder → id of its codec file: plain blocks; lapped ones, with a context; then also one of the hyper-latents; then also
dependent quantisation; then also a synthesis in eight bits and no blocks in the analysis; then also 64 states; then also a
post-filter; then also means of integers."""


@cache
def codec(folder: str) -> Codec:
    return Codec.load(FOLDER / folder / "codec.safetensors", device="cpu")


@pytest.mark.parametrize("folder", CODEC_IDS)
def test_the_codec_file_is_the_one_of_the_bitstreams(folder: str) -> None:
    assert codec(folder).id == CODEC_IDS[folder]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", CODEC_IDS)
def test_a_golden_bitstream_decodes_to_its_pixels(folder: str, name: str) -> None:
    with np.load(FOLDER / folder / "pixels.npz") as file:
        expected = file[name]
    found = codec(folder).reconstruct([(FOLDER / folder / f"{name}.bin").read_bytes()])[0]
    assert found.shape == expected.shape
    off = np.abs(found.astype(int) - expected)
    assert off.max() <= (3 if folder in ("eight_bits", "states", "post_filter", "integer_means") else 1)
    assert np.mean(off > 1) < 1e-3


@pytest.mark.parametrize("folder", CODEC_IDS)
def test_no_golden_bitstream_is_left_out(folder: str) -> None:
    assert sorted(p.stem for p in (FOLDER / folder).glob("*.bin")) == sorted(NAMES)
