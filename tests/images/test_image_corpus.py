"""The difficult files beside the checkout: each decodes or is refused with a reason, none does anything else."""

import json
from pathlib import Path

import numpy as np
import pytest

from cnnbatch.errors import Undecodable
from cnnbatch.images import decode, encode, restore_jpeg, transcode_jpeg

HARD = Path(__file__).parents[2].parent / "shared" / "data" / "hard"
MANIFEST = HARD / "MANIFEST.json"
FILES = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else []

# Marked "decode" for encoders that may show something near it; ours gives back the same or keeps the original.
REFUSED = {
    "jpg_cmyk_adobe.jpg": "cmyk",
    "jpg_cmyk_icc.jpg": "cmyk",
    "mpo_stereo.mpo": "multi-frame",
    "png_16bit_rgb.png": "16-bit",
    "png_16bit_gray_alpha.png": "16-bit",
    "png_interlaced_16.png": "16-bit",
    "apng_ball.png": "multi-frame",
    "gif_animated.gif": "multi-frame",
    "webp_animated.webp": "multi-frame",
    "webp_animated_97.webp": "multi-frame",
}
REASONS = {
    *REFUSED.values(),
    *("unknown-format", "truncated", "corrupt", "too-many-pixels", "12-bit", "lab", "metadata"),
}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FILES, reason="../shared/data/hard is not beside the checkout"),
]


def outcome(data: bytes) -> str:
    try:
        decode(data, max_pixels=1 << 28)
    except Undecodable as error:
        return error.reason
    return "decoded"


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: str(entry["file"]))
def test_a_difficult_file_decodes_or_is_refused_with_a_known_reason(entry: dict[str, object]) -> None:
    name = str(entry["file"])
    data = (HARD / name).read_bytes()
    if entry["expect"] == "decode" and name not in REFUSED:
        image = decode(data, max_pixels=1 << 28)
        assert image.pixels.dtype == np.uint8
        back = decode(encode(image, format="original"), max_pixels=1 << 28)
        assert (back.format, back.pixels.shape, back.alpha is None) == (
            image.format,
            image.pixels.shape,
            image.alpha is None,
        )
        return
    found = outcome(data)
    assert found in (REASONS if entry["expect"] == "reject" else REASONS | {"decoded"})
    assert found == REFUSED.get(name, found)


@pytest.mark.parametrize("name", [str(e["file"]) for e in FILES if str(e["file"]).endswith(".jpg")])
def test_a_difficult_jpeg_is_transcoded_exactly_or_not_at_all(name: str) -> None:
    data = (HARD / name).read_bytes()
    coded = transcode_jpeg(data)
    assert coded is None or (len(coded) < len(data) and restore_jpeg(coded) == data)
