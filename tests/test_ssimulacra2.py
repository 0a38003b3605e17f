"""SSIMULACRA2 against the reference program's values and against its definition, written down once more without any haste."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import convolve1d

from cnnbatch.ssimulacra2 import pictures, score, ssimulacra2, weighted_sum
from cnnbatch.ssimulacra2.definition import ABSORBANCE, BIAS, C2, WEIGHTS, taps
from tests.eyes import noisy, reference_pairs, tensor
from tests.stages.pictures import Pixels, waves

REFERENCE_TOLERANCE = 0.05
"""The reference program subtracts squares in float32, which costs it up to 0.04 where little differs."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As on a worker of the jobs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_torch(original: Pixels, picture: Pixels) -> float:
    return float(score(weighted_sum(tensor(original), tensor(picture)))[0])


def as_defined(original: Pixels, picture: Pixels) -> float:
    """In float64, plane by plane, with the definition's own formula of SSIM."""
    light = [linear(image) for image in (original, picture)]
    total = 0.0
    for scale in range(6):
        if min(light[0].shape[:2]) < 8:
            break
        if scale:
            light = [halved(image) for image in light]
        planes = [xyb(image) for image in light]
        for channel in range(3):
            norms = norms_of(*(image[..., channel] for image in planes))
            total += float(np.dot(norms, WEIGHTS[channel][scale]))
    s = total * 0.9562382616834844
    s = 2.326765642916932 * s - 0.020884521182843837 * s**2 + 6.248496625763138e-05 * s**3
    return float(100 - 10 * max(s, 0) ** 0.6276336467831387)


def linear(image: Pixels) -> npt.NDArray[np.float64]:
    v = image / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def halved(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    padded = np.pad(light, [(0, light.shape[0] % 2), (0, light.shape[1] % 2), (0, 0)], "edge")
    rows = padded[::2] + padded[1::2]
    return (rows[:, ::2] + rows[:, 1::2]) / 4


def xyb(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    long, middle, short = np.moveaxis(np.cbrt(light @ np.array(ABSORBANCE).T + BIAS) - np.cbrt(BIAS), -1, 0)
    x, y = (long - middle) / 2, (long + middle) / 2
    return np.stack([14 * x + 0.42, y + 0.01, short - y + 0.55], -1)


def blurred(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return convolve1d(convolve1d(plane, taps(), axis=0, mode="constant"), taps(), axis=1, mode="constant")


def norms_of(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> list[float]:
    mx, my, xx, yy, xy = (blurred(plane) for plane in (x, y, x * x, y * y, x * y))
    structure = (2 * (xy - mx * my) + C2) / (xx - mx**2 + yy - my**2 + C2)
    ssim = np.maximum(0, 1 - (1 - (mx - my) ** 2) * structure)
    edges = (1 + np.abs(y - my)) / (1 + np.abs(x - mx)) - 1
    maps = [ssim, np.maximum(edges, 0), np.maximum(-edges, 0)]
    return [*(float(m.mean()) for m in maps), *(float((m**4).mean() ** 0.25) for m in maps)]


@pytest.mark.shared
def test_scores_are_those_of_the_reference_program() -> None:
    pairs = list(reference_pairs())
    assert len(pairs) == 12
    for original, decoded, entry in pairs:
        for measured in (ssimulacra2(original, decoded), in_torch(original, decoded)):
            assert measured == pytest.approx(entry["ssimulacra2"], abs=REFERENCE_TOLERANCE), entry


PAIRS = {
    "little noise": (waves(120, 150, 1), noisy(waves(120, 150, 1), 3)),
    "much noise": (waves(97, 131, 2), noisy(waves(97, 131, 2), 25)),
    "coarse": (waves(64, 200), waves(64, 200) // 20 * 20),
    "moved": (waves(130, 90), np.roll(waves(130, 90), 1, 1)),
    "tinted": (waves(80, 80), waves(80, 80) // np.array([1, 1, 2]).astype(np.uint8)),
    "smallest": (waves(8, 8), noisy(waves(8, 8), 9)),
    "narrow": (waves(300, 9), noisy(waves(300, 9), 9)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_both_implementations_follow_the_definition(name: str) -> None:
    original, picture = PAIRS[name]
    expected = as_defined(original, picture)
    assert in_torch(original, picture) == pytest.approx(expected, abs=2e-3)
    assert ssimulacra2(original, picture) == pytest.approx(expected, abs=1e-2)  # less what `NO_WEIGHT` leaves out


def test_a_convolution_blurs_like_the_products_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    original, picture = PAIRS["little noise"]
    banded = in_torch(original, picture)
    monkeypatch.setattr("cnnbatch.ssimulacra2.differentiable.BANDED", 0)
    assert in_torch(original, picture) == pytest.approx(banded, abs=1e-3)


def test_known_answers() -> None:
    """So that a change of the definition shows."""
    found = {name: round(ssimulacra2(*pair), 1) for name, pair in PAIRS.items()}
    assert found == {
        "little noise": 88.0,
        "much noise": 21.9,
        "coarse": 71.4,
        "moved": 49.4,
        "tinted": 33.7,
        "smallest": 91.7,
        "narrow": 82.8,
    }


@pytest.mark.parametrize("gray", [False, True])
def test_equal_pictures_score_100(gray: bool) -> None:
    image = waves(50, 70, gray=gray)
    assert ssimulacra2(image, image.copy()) == 100


def test_a_step_of_one_level_in_one_pixel_shows_and_hardly_counts() -> None:
    image = waves(200, 200)
    other = image.copy()
    other[100, 100] ^= 1
    assert 99.5 < ssimulacra2(image, other) < 100


def test_gray_counts_as_three_equal_channels() -> None:
    gray = waves(90, 110, gray=True)
    other = noisy(gray, 6)
    colours = [np.repeat(image[..., None], 3, 2) for image in (gray, other)]
    assert ssimulacra2(gray, other) == pytest.approx(ssimulacra2(*colours), abs=1e-3)
    assert ssimulacra2(gray, other) == pytest.approx(as_defined(*colours), abs=1e-2)


@pytest.mark.parametrize("height", [60, 64, 65, 191])
def test_bands_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch, height: int) -> None:
    original = waves(height, 300, 3)
    picture = noisy(original, 8)
    whole = ssimulacra2(original, picture)
    monkeypatch.setattr(pictures, "BAND", 32)
    assert ssimulacra2(original, picture) == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 30), (30, 7)])
def test_a_picture_too_small_for_the_definition_is_continued(height: int, width: int) -> None:
    original = waves(height, width)
    picture = noisy(original, 9)
    continued = [
        np.pad(image, [(0, max(0, 8 - height)), (0, max(0, 8 - width)), (0, 0)], "edge") for image in (original, picture)
    ]
    assert ssimulacra2(original, picture) == ssimulacra2(*continued)
    with pytest.raises(ValueError, match="at least 8 a side"):
        weighted_sum(tensor(original), tensor(picture))


def test_views_and_pictures_that_cannot_be_written_are_measured_alike() -> None:
    original = waves(60, 80)
    picture = noisy(original, 9)
    turned = [np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2) for image in (original, picture)]
    turned[0].flags.writeable = False
    assert ssimulacra2(*turned) == ssimulacra2(original, picture)


def test_two_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shapes"):
        ssimulacra2(waves(20, 20), waves(20, 21))


def test_gradients_are_those_of_the_function() -> None:
    generator = torch.Generator().manual_seed(0)
    original = 40 + 170 * torch.rand(2, 3, 18, 17, generator=generator, dtype=torch.float64)
    picture = original + 10 * torch.randn(original.shape, generator=generator, dtype=torch.float64)
    ahead = torch.randn(original.shape, generator=generator, dtype=torch.float64)
    step = 1e-5
    slope = (weighted_sum(original, picture + step * ahead) - weighted_sum(original, picture - step * ahead)) / (2 * step)
    picture.requires_grad_()
    weighted_sum(original, picture).sum().backward()
    assert picture.grad is not None
    assert (picture.grad * ahead).flatten(1).sum(1).tolist() == pytest.approx(slope.tolist(), rel=1e-5)


def test_equal_pictures_have_a_finite_gradient() -> None:
    original = tensor(waves(32, 32))
    picture = original.clone().requires_grad_()
    weighted_sum(original, picture).sum().backward()
    assert picture.grad is not None
    assert torch.isfinite(picture.grad).all()


def test_gradients_follow_a_call_without() -> None:
    """What is kept from one call for the next is of use to both."""
    x = tensor(noisy(waves(41, 43), 5))
    with torch.inference_mode():
        weighted_sum(tensor(waves(41, 43)), x)
    x.requires_grad_()
    weighted_sum(tensor(waves(41, 43)), x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", ["little noise", "much noise", "coarse"])
def test_half_of_the_norms_nearly_give_the_score(name: str) -> None:
    original, picture = (tensor(image) for image in PAIRS[name])
    few = float(score(weighted_sum(original, picture, least_weight=0.01))[0])
    assert few == pytest.approx(in_torch(*PAIRS[name]), abs=0.1)
