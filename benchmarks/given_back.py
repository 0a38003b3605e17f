"""JPEGs given back: bytes and PSNR of files coded as their originals were, beside 4:4:4 at quality 95.

::

    python -m benchmarks.given_back      # photographs of scikit-image, as JPEGs and coded by the default codec file

Each line is of all pictures together: bytes of the originals, of what comes back both ways, and the mean PSNR that each file
has against the decoded picture: what writing a JPEG costs beyond the codec.
"""

import io
from dataclasses import replace

import numpy as np
import skimage.data
from PIL import Image

from cnnbatch.codec import Codec
from cnnbatch.images import decode, encode
from cnnbatch.metrics import psnr_db

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "retina")
CODINGS = ({"quality": 75}, {"quality": 85, "progressive": True}, {"quality": 92, "subsampling": "4:4:4"})
SIDE = 512


def _jpeg(name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(getattr(skimage.data, name)()[:SIDE, :SIDE, :3])).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def main() -> None:
    """The benchmark."""
    codec = Codec.load()
    print(f"{'originals':28} {'bytes':>8} {'4:4:4, quality 95':>28} {'as the original':>28}")
    for options in CODINGS:
        files = [_jpeg(name, **options) for name in NAMES]
        images = [decode(data, max_pixels=1 << 24) for data in files]
        decoded = codec.reconstruct(codec.compress([image.pixels for image in images]))
        columns = []
        for format in ("jpeg", "original"):
            shown = [replace(image, pixels=pixels) for image, pixels in zip(images, decoded, strict=True)]
            back = [encode(image, format=format, max_bytes=len(data)) for image, data in zip(shown, files, strict=True)]
            psnr = [
                psnr_db(decode(data, max_pixels=1 << 24).pixels, image.pixels) for data, image in zip(back, shown, strict=True)
            ]
            size = sum(map(len, back))
            columns.append(f"{size:>9,} {size / sum(map(len, files)) - 1:+7.0%} {np.mean(psnr):6.2f} dB")
        words = ", ".join(f"{name} {value}" for name, value in options.items())
        print(f"{words:28} {sum(map(len, files)):>8,} {columns[0]:>28} {columns[1]:>28}", flush=True)


if __name__ == "__main__":
    main()
