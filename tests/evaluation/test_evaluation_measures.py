"""MS-SSIM against a second, independent library; what has none; gray; the measures that are asked for."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from cnnbatch.butteraugli import butteraugli
from cnnbatch.errors import UsageError
from cnnbatch.evaluation.codecs import Pixels, as_rgb
from cnnbatch.evaluation.distortion import MS_SSIM_SMALLEST_SIDE, distortion, ms_ssim_of
from cnnbatch.evaluation.scales import SCALES, measures_of
from cnnbatch.metrics import LOSSLESS_DB
from cnnbatch.ssimulacra2 import ssimulacra2
from tests.stages.pictures import waves


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As on a worker of the job."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def second_ms_ssim(a: Pixels, b: Pixels) -> float:
    planes = [torch.from_numpy(i.copy()).permute(2, 0, 1)[None].float() for i in (a, b)]
    return float(multiscale_structural_similarity_index_measure(*planes, data_range=255.0))


def coarser(image: Pixels, step: int) -> Pixels:
    return (image // step * step).astype(np.uint8)


def noisy(image: Pixels, sigma: float) -> Pixels:
    return np.clip(image + np.random.default_rng(0).normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "changed",
    [
        lambda i: coarser(i, 24),
        lambda i: noisy(i, 5),
        lambda i: noisy(i, 40),
        lambda i: np.roll(i, 1, 0),
        lambda i: i // 2 + 64,
    ],
    ids=["coarse", "little noise", "much noise", "moved", "less contrast"],
)
def test_ms_ssim_is_that_of_another_library(changed: Callable[[Pixels], Pixels]) -> None:
    image = waves(256, 320, 1)
    other = changed(image)
    assert ms_ssim_of(image, other) == pytest.approx(second_ms_ssim(image, other), abs=3e-4)


def test_equal_pictures_are_exact() -> None:
    image = waves(200, 200)
    found = distortion(image, image.copy())
    assert (found.psnr_db, found.ms_ssim, found.no_ms_ssim) == (LOSSLESS_DB, 1.0, None)


@pytest.mark.parametrize(("height", "width"), [(160, 300), (300, 160), (1, 1)])
def test_a_picture_smaller_than_the_window_has_no_ms_ssim(height: int, width: int) -> None:
    image = waves(height, width)
    found = distortion(image, noisy(image, 9))
    assert found.ms_ssim is None
    assert f"{width}x{height} pixels are smaller" in (found.no_ms_ssim or "")
    assert 20 < found.psnr_db < 40


def test_the_smallest_picture_with_ms_ssim_has_one() -> None:
    image = waves(MS_SSIM_SMALLEST_SIDE, MS_SSIM_SMALLEST_SIDE)
    assert 0.5 < (distortion(image, noisy(image, 9)).ms_ssim or 0) < 1


def test_a_huge_picture_goes_without_ms_ssim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnbatch.evaluation.distortion.MS_SSIM_MAX_PIXELS", 200 * 200 - 1)
    image = waves(200, 200)
    assert "are more than the 39999" in (distortion(image, image).no_ms_ssim or "")


@pytest.mark.parametrize(("first_gray", "second_gray"), [(True, True), (True, False), (False, True)])
def test_gray_counts_as_its_three_channels(first_gray: bool, second_gray: bool) -> None:
    gray = waves(170, 180, gray=True)
    other = noisy(gray, 7)
    a, b = gray if first_gray else as_rgb(gray), other if second_gray else as_rgb(other)
    found, expected = distortion(a, b), distortion(as_rgb(gray), as_rgb(other))
    assert found.psnr_db == pytest.approx(expected.psnr_db)
    assert found.ms_ssim == pytest.approx(expected.ms_ssim)


def test_pictures_of_two_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shapes"):
        distortion(waves(20, 20), waves(20, 21))


def test_a_picture_has_the_measures_that_were_asked_for() -> None:
    image = waves(170, 180)
    other = noisy(image, 9)
    few = distortion(image, other, measures_of(["psnr"]))
    assert (few.ms_ssim, few.no_ms_ssim, few.ssimulacra2, few.butteraugli) == (None, "not asked for", None, None)
    found = distortion(image, other)
    assert found.ssimulacra2 == ssimulacra2(image, other)
    assert found.ms_ssim is not None
    assert (found.butteraugli, found.butteraugli_max) == (None, None)


def test_measures_are_asked_for_by_their_words() -> None:
    assert measures_of(["ssimulacra2", "butteraugli"]) == ("psnr_db", "ssimulacra2", "butteraugli", "butteraugli_max")
    assert measures_of([]) == ("psnr_db",)
    with pytest.raises(UsageError, match="unknown measure 'vmaf'"):
        measures_of(["psnr", "vmaf"])


def test_what_is_compared_rises_with_quality() -> None:
    better = {"psnr_db": 40.0, "ms_ssim": 0.99, "ssimulacra2": 80.0, "butteraugli": 0.5, "butteraugli_max": 0.9}
    worse = {"psnr_db": 30.0, "ms_ssim": 0.9, "ssimulacra2": 50.0, "butteraugli": 2.0, "butteraugli_max": 4.0}
    for measure, scale in SCALES.items():
        low, high = scale.bend(worse[measure]), scale.bend(better[measure])
        assert low is not None
        assert high is not None
        assert low < high
    assert [SCALES[name].bend(exact) for name, exact in (("ms_ssim", 1.0), ("butteraugli", 0.0))] == [None, None]


def test_butteraugli_is_measured_where_it_is_asked_for() -> None:
    image = waves(64, 80)
    found = distortion(image, noisy(image, 9), measures_of(["butteraugli"]))
    assert (found.butteraugli_max, found.butteraugli) == butteraugli(image, noisy(image, 9))
    assert 0 < (found.butteraugli or 0) < (found.butteraugli_max or 0)
    assert found.ssimulacra2 is None
