"""The shipped codec file on a photograph: bands with two sides, so that a gain is noticed and written down too.

After a new codec file is shipped, run this file: each failure prints the measured point to put into `BANDS`.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from benchmarks.rate_distortion import curve
from cnnbatch.codec import Codec
from cnnbatch.evaluation.bd_rate import rate_points
from cnnbatch.evaluation.codecs import library_codec
from cnnbatch.evaluation.ours import CnnCodec
from cnnbatch.metrics import psnr_db

KODAK = Path(__file__).parents[3] / "shared" / "data" / "kodak"

BANDS = {
    # quality: (bpp from, to, PSNR from, to in dB) of skimage's astronaut, 512 × 512
    4: (0.142, 0.158, 27.9, 28.7),
    20: (0.315, 0.35, 31.7, 32.5),
    36: (0.67, 0.74, 35.6, 36.4),
    52: (1.31, 1.44, 38.7, 39.5),
}


@cache
def point(quality: float) -> tuple[float, float]:
    """(bpp, PSNR in dB)."""
    codec, image = Codec.load(device="cpu"), data.astronaut()
    bitstream = codec.compress([image], quality)[0]
    return 8 * len(bitstream) / (image.shape[0] * image.shape[1]), psnr_db(image, codec.reconstruct([bitstream])[0])


@pytest.mark.parametrize("quality", BANDS)
def test_rate_and_distortion_are_inside_their_band(quality: float) -> None:
    bpp, psnr = point(quality)
    bpp_from, bpp_to, psnr_from, psnr_to = BANDS[quality]
    print(f"quality {quality}: {bpp:.3f} bpp, {psnr:.2f} dB")
    assert bpp_from <= bpp <= bpp_to
    assert psnr_from <= psnr <= psnr_to


def test_rate_and_psnr_rise_with_quality() -> None:
    points = [point(q) for q in sorted(BANDS)]
    assert all(a[0] < 0.8 * b[0] for a, b in pairwise(points))
    assert all(a[1] + 1 < b[1] for a, b in pairwise(points))


def test_a_gray_photograph_costs_less_than_the_same_in_colour() -> None:
    codec, image = Codec.load(device="cpu"), data.astronaut()[:256, :256]
    gray = image.mean(2).round().astype(np.uint8)
    colour_bytes, gray_bytes = (len(codec.compress([i], 32)[0]) for i in (image, gray))
    assert gray_bytes < 0.97 * colour_bytes


@pytest.mark.parametrize("quality", [20, 36])
def test_a_filter_of_its_own_is_worth_more_than_its_bytes(quality: float) -> None:
    """In bits, with a squared error at what λ says."""
    codec, image = Codec.load(device="cpu"), data.coffee()
    samples, lmbda = image.size, float(codec.file.settings.lmbda(torch.tensor(float(quality))))
    costs, bits = [], []
    for effort in (0, 1):
        [bitstream] = codec.compress([image], quality, effort=effort)
        error = 255.0**2 / 10 ** (psnr_db(image, codec.reconstruct([bitstream])[0]) / 10)
        bits.append(8 * len(bitstream))
        costs.append(bits[-1] + lmbda / 3 * samples * error)
    assert costs[1] < costs[0] - 0.03 * bits[0]


@pytest.mark.shared
def test_fewer_bits_than_jpeg_at_every_rate_from_02_to_2_bpp_on_kodak() -> None:
    if not KODAK.is_dir():
        pytest.skip(f"no Kodak images beside the checkout ({KODAK.name})")
    images = [(path.stem, np.asarray(Image.open(path).convert("RGB"))) for path in sorted(KODAK.glob("*.png"))[::6]]
    ours = rate_points(curve(images, CnnCodec(Codec.load(device="cpu")), (0, 12, 24, 36, 48)), "psnr_db")
    jpeg = rate_points(curve(images, library_codec("jpeg444"), (3, 8, 20, 40, 60, 80, 92)), "psnr_db")
    bpp = np.linspace(0.2, 2.0, 19)
    gains_db = [np.interp(np.log(bpp), np.log([b for b, _ in points]), [db for _, db in points]) for points in (ours, jpeg)]
    assert (gains_db[0] - gains_db[1] > 0.8).all(), (gains_db[0] - gains_db[1]).round(2)
