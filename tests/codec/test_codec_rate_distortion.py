"""The shipped codec files on a photograph: bands with two sides, so that a gain is noticed and written down too.

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
from cnnbatch.ssimulacra2 import ssimulacra2

KODAK = Path(__file__).parents[3] / "shared" / "data" / "kodak"

BANDS = {
    # (codec, quality): (bpp from, to, and from, to of its measure) of skimage's astronaut, 512 × 512
    ("eye", 4): (0.105, 0.12, 18.0, 24.0),
    ("eye", 20): (0.25, 0.275, 52.5, 57.0),
    ("eye", 40): (0.765, 0.845, 79.5, 83.0),
    ("eye", 52): (1.52, 1.7, 87.0, 91.0),
    ("psnr", 4): (0.142, 0.158, 27.9, 28.7),
    ("psnr", 20): (0.315, 0.35, 31.7, 32.5),
    ("psnr", 36): (0.67, 0.74, 35.6, 36.4),
    ("psnr", 52): (1.31, 1.44, 38.7, 39.5),
}
MEASURES = {"eye": ssimulacra2, "psnr": psnr_db}


@cache
def point(name: str, quality: float) -> tuple[float, float]:
    """bpp, and the score or the PSNR in dB that the codec is made for."""
    codec, image = Codec.load(name, device="cpu"), data.astronaut()
    bitstream = codec.compress([image], quality)[0]
    return 8 * len(bitstream) / (image.shape[0] * image.shape[1]), MEASURES[name](image, codec.reconstruct([bitstream])[0])


@pytest.mark.parametrize(("name", "quality"), BANDS)
def test_rate_and_distortion_are_inside_their_band(name: str, quality: float) -> None:
    bpp, measured = point(name, quality)
    bpp_from, bpp_to, measured_from, measured_to = BANDS[name, quality]
    print(f"{name}, quality {quality}: {bpp:.3f} bpp, {measured:.2f}")
    assert bpp_from <= bpp <= bpp_to
    assert measured_from <= measured <= measured_to


@pytest.mark.parametrize("name", MEASURES)
def test_rate_and_fidelity_rise_with_quality(name: str) -> None:
    points = [point(*case) for case in sorted(BANDS) if case[0] == name]
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
    codec, image = Codec.load("psnr", device="cpu"), data.coffee()
    samples, lmbda = image.size, float(codec.file.settings.lmbda(torch.tensor(float(quality))))
    costs, bits = [], []
    for effort in (0, 1):
        [bitstream] = codec.compress([image], quality, effort=effort)
        error = 255.0**2 / 10 ** (psnr_db(image, codec.reconstruct([bitstream])[0]) / 10)
        bits.append(8 * len(bitstream))
        costs.append(bits[-1] + lmbda / 3 * samples * error)
    assert costs[1] < costs[0] - 0.03 * bits[0]


@pytest.mark.parametrize(("quality", "least"), [(20, 0.06), (40, 0.06)])
def test_effort_takes_fewer_bits_for_the_same_score(quality: float, least: float) -> None:
    codec, image = Codec.load("eye", device="cpu"), data.astronaut()[:256, 128:384]
    found = []
    for effort, q in ((0, quality), (0, quality + 4), (1, quality)):
        [bitstream] = codec.compress([image], q, effort=effort)
        found.append((ssimulacra2(image, codec.reconstruct([bitstream])[0]), len(bitstream)))
    (low, fewest), (high, most), (score, size) = found
    needed = np.exp(np.interp(score, (low, high), np.log((fewest, most))))
    print(f"quality {quality}: {size / needed - 1:.2%} bits at equal score")
    assert low < score < high
    assert size < (1 - least) * needed


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
