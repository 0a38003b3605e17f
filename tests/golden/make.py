"""Writes the golden bitstreams anew; run by hand when the format changes on purpose, never by a test.

    python -m tests.golden.make

They say what version 1 of the format means: a reader that no longer decodes them cannot read archives that exist. From the
first release on they are never made again, and a later version gets files of its own.
`tests/codec/test_codec_golden.py` decodes them.
"""

from pathlib import Path

import numpy as np

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.training.adaptive_filter import fit_adaptive_filter
from cnnbatch.training.int8_calibration import calibrate_int8
from tests.codec.models import picture, tiny_model

FOLDER = Path(__file__).parent
CASES = {
    "one_pixel": (picture(1, 1, seed=1), 32),
    "colour_low": (picture(90, 140, seed=2), 3.25),
    "colour_high": (picture(75, 50, seed=3), 63),
    "gray": (picture(50, 61, seed=4)[..., 0], 32),
    "two_tiles": (picture(24, 1040, seed=5), 20),
    "escapes": (np.random.default_rng(6).integers(0, 2, (48, 64, 3), np.uint8) * 255, 63),
}
OWN = ("colour_high", "gray", "two_tiles")
"""Cases with a filter of their own."""


def main() -> None:
    model = tiny_model()
    calibrate_int8(model, [picture(128, 192, seed=n) for n in range(6)])
    fit_adaptive_filter(model, [picture(300, 300, seed=n) for n in range(6)])
    (FOLDER / "codec.safetensors").write_bytes(dump_codec(model, training={}))
    codec = Codec.load(FOLDER / "codec.safetensors", device="cpu")
    pixels = {}
    for name, (image, quality) in CASES.items():
        bitstream = codec.compress([image], quality, effort=int(name in OWN))[0]
        (FOLDER / f"{name}.bin").write_bytes(bitstream)
        pixels[name] = codec.reconstruct([bitstream])[0]
    np.savez_compressed(FOLDER / "pixels.npz", **pixels)


if __name__ == "__main__":
    main()
