"""Writes the golden bitstreams of the dense architecture anew, as `tests.golden.make` does those of the hyperprior.

python -m tests.golden.make_dense
"""

from pathlib import Path

import numpy as np

from cnnbatch.codec import Codec
from tests.codec.dense_models import COLOUR, GRAY, Pixels, dense_codec_file, pictures

FOLDER = Path(__file__).parent / "dense"
KINDS = {"gray": GRAY, "colour": COLOUR}
QUALITIES = (0.0, 3.25, 32.0, 63.0)


def images(kind: str) -> list[Pixels]:
    """Usual pictures, and noise whose symbols escape."""
    usual = pictures(KINDS[kind], 3, seed=7)
    noise = (np.random.default_rng(8).random(usual[0].shape) < 0.5).astype(np.uint8) * 255
    return [*usual, noise]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    pixels = {}
    for kind in KINDS:
        (FOLDER / f"{kind}.safetensors").write_bytes(dense_codec_file(KINDS[kind]))
        codec = Codec.load(FOLDER / f"{kind}.safetensors", device="cpu")
        for number, (bitstream, image) in enumerate(compressed(codec, images(kind))):
            (FOLDER / f"{kind}_{number}.bin").write_bytes(bitstream)
            pixels[f"{kind}_{number}"] = image
    np.savez_compressed(FOLDER / "pixels.npz", **pixels)


def compressed(codec: Codec, pictures: list[Pixels]) -> list[tuple[bytes, Pixels]]:
    """Each picture with its own quality: bitstream and what it decodes to."""
    bitstreams = codec.compress(pictures, list(QUALITIES))
    return list(zip(bitstreams, codec.reconstruct(bitstreams), strict=True))


if __name__ == "__main__":
    main()
