"""Which quality an image is coded at: the goals are met on photographs and on small crops of them."""

from collections.abc import Callable, Sequence
from itertools import product
from statistics import mean

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from cnnbatch.codec import MAX_QUALITY, Codec
from cnnbatch.metrics import psnr_db
from cnnbatch.ssimulacra2 import ssimulacra2
from cnnbatch.stages import quality
from cnnbatch.stages.quality import SSIMULACRA2_CURVE, SSIMULACRA2_TOLERANCE, Coded, QualityPolicy, code, usual_quality

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photographs() -> list[Pixels]:
    return [
        data.astronaut()[:160, 128:320].copy(),
        data.chelsea()[50:178, 100:292].copy(),
        data.coffee()[100:228, 200:361].copy(),  # an odd width
        data.camera()[100:228, 200:328].copy(),  # gray
    ]


@pytest.fixture(scope="module")
def crops() -> list[Pixels]:
    return [data.astronaut()[30:94, 200:264].copy(), data.chelsea()[100:148, 120:200].copy()]


def check_that_it_says_what_it_is(codec: Codec, image: Pixels, coded: Coded) -> None:
    [back] = codec.reconstruct([coded.bitstream])
    assert coded.psnr_db == pytest.approx(psnr_db(image, back))
    assert coded.bpp == pytest.approx(8 * len(coded.bitstream) / (image.shape[0] * image.shape[1]))
    assert coded.bitstream == codec.compress([image], coded.quality)[0]


@pytest.mark.parametrize("quality", [4.0, 32.0, 60.0])
def test_large_and_small_pictures_say_how_good_they_are(codec: Codec, crops: list[Pixels], quality: float) -> None:
    images = [crops[0], data.coffee()[:256, 100:400].copy(), crops[1], data.camera()[:300, :256].copy()]
    for image, coded in zip(images, code(codec, images, QualityPolicy(quality)), strict=True):
        [back] = codec.reconstruct([coded.bitstream])
        assert coded.psnr_db == pytest.approx(psnr_db(image, back), abs=0.02)


def test_a_fixed_quality_is_the_one_used(codec: Codec, photographs: list[Pixels]) -> None:
    found = code(codec, photographs, QualityPolicy(20.0))
    assert [coded.quality for coded in found] == [20.0] * 4
    check_that_it_says_what_it_is(codec, photographs[0], found[0])


@pytest.mark.parametrize("target_db", [33.0, 38.0])
def test_a_target_psnr_is_met_within_a_tenth_of_a_db(
    codec: Codec, photographs: list[Pixels], crops: list[Pixels], target_db: float
) -> None:
    images = [*photographs, *crops]
    found = code(codec, images, QualityPolicy(32.0, target_psnr_db=target_db))
    for image, coded in zip(images, found, strict=True):
        assert abs(coded.psnr_db - target_db) <= 0.1
        check_that_it_says_what_it_is(codec, image, coded)


@pytest.mark.parametrize("target_bpp", [0.5, 1.5])
def test_a_target_rate_is_met_within_three_percent(
    codec: Codec, photographs: list[Pixels], crops: list[Pixels], target_bpp: float
) -> None:
    images = [*photographs, *crops]
    for image, coded in zip(images, code(codec, images, QualityPolicy(32.0, target_bpp=target_bpp)), strict=True):
        missed = abs(coded.bpp / target_bpp - 1)
        if missed > 0.03:  # the rate of a small picture rises in leaps
            beside = codec.compress([image] * 2, [coded.quality - 0.25, coded.quality + 0.25])
            sides = [8 * len(bitstream) / (image.shape[0] * image.shape[1]) for bitstream in beside]
            assert image.size < 1 << 14
            assert missed <= min(abs(bpp / target_bpp - 1) for bpp in sides)


def test_a_target_out_of_reach_ends_at_the_end_of_the_scale(codec: Codec, photographs: list[Pixels]) -> None:
    [best] = code(codec, photographs[:1], QualityPolicy(32.0, target_psnr_db=90.0))
    assert best.quality == MAX_QUALITY
    [least] = code(codec, photographs[:1], QualityPolicy(32.0, target_bpp=0.001))
    assert least.quality == 0


def test_a_flat_picture_and_a_single_pixel_have_a_quality_too(codec: Codec) -> None:
    images = [np.full((24, 40, 3), 200, np.uint8), np.zeros((1, 1), np.uint8)]
    for policy in (QualityPolicy(32.0, target_psnr_db=40.0), QualityPolicy(32.0, target_bpp=1.0)):
        assert len(code(codec, images, policy)) == 2


def test_the_floor_raises_only_those_below_it(codec: Codec, photographs: list[Pixels]) -> None:
    plain = code(codec, photographs, QualityPolicy(12.0))
    floor = sorted(coded.psnr_db for coded in plain)[1] + 0.01  # two are below
    lifted = code(codec, photographs, QualityPolicy(12.0, min_psnr_db=floor))
    for before, after in zip(plain, lifted, strict=True):
        assert after.psnr_db >= floor
        assert after == before if before.psnr_db >= floor else after.quality > before.quality


def test_a_floor_that_cannot_be_met_ends_at_the_highest_quality(codec: Codec, crops: list[Pixels]) -> None:
    [coded] = code(codec, crops[:1], QualityPolicy(60.0, min_psnr_db=99.0))
    assert coded.quality == MAX_QUALITY
    assert coded.psnr_db < 99


class Counting:
    """A codec that counts the images it compresses."""

    def __init__(self, codec: Codec) -> None:
        self.codec, self.count = codec, 0

    def compress(self, images: Sequence[Pixels], qualities: Sequence[float], *, effort: int = 0) -> list[bytes]:
        self.count += len(images)
        return self.codec.compress(images, qualities, effort=effort)

    def reconstruct(self, bitstreams: Sequence[bytes]) -> list[Pixels]:
        return self.codec.reconstruct(bitstreams)


def test_a_target_score_is_met_within_half_a_point_in_few_encodes(codec: Codec, photographs: list[Pixels]) -> None:
    images = [*photographs, data.rocket()[:256, 200:456].copy(), data.astronaut()[256:, :200].copy()]
    counting, targets = Counting(codec), (60.0, 70.0, 80.0)
    for target in targets:
        found = code(counting, images, QualityPolicy(32.0, target_ssimulacra2=target))  # type: ignore[arg-type]
        for image, coded in zip(images, found, strict=True):
            [back] = codec.reconstruct([coded.bitstream])
            assert coded.ssimulacra2 == pytest.approx(ssimulacra2(image, back), abs=1e-3)
            assert abs((coded.ssimulacra2 or 0) - target) <= SSIMULACRA2_TOLERANCE
    assert counting.count <= 3 * len(images) * len(targets)


def test_images_unlike_the_usual_one_are_found_in_three_encodes_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another sharpness (their curve is moved) and another range of contrast (it is steeper or flatter), with some noise."""
    counts = []
    for moved, slope, target in product((-16, -8, -3, 0, 4, 9), (0.75, 1.0, 1.3), (50.0, 70.0, 82.0)):

        def score(q: float, moved: float = moved, slope: float = slope) -> float:
            return 60 + slope * (curve(q + moved) - 60) + 0.15 * np.sin(40 * q)

        tried = probed(score, QualityPolicy(32.0, target_ssimulacra2=target), monkeypatch)
        counts.append(len(tried))
        last = score(tried[-1])
        assert abs(last - target) <= SSIMULACRA2_TOLERANCE or tried[-1] in (0, MAX_QUALITY), (moved, slope, target, tried)
    assert mean(counts) <= 3
    assert max(counts) <= 5


def curve(q: float) -> float:
    qualities, scores = zip(*SSIMULACRA2_CURVE, strict=True)
    return float(np.interp(q, qualities, scores)) + 0.8 * min(0.0, q) + 0.5 * max(0.0, q - MAX_QUALITY)


def probed(score: Callable[[float], float], policy: QualityPolicy, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The qualities that are tried on an image with this curve."""
    tried: list[float] = []

    def probe(codec: object, images: object, qualities: Sequence[float], policy: QualityPolicy) -> list[Coded]:
        tried.extend(qualities)
        return [Coded(b"", q, 30.0, 1.0, score(q)) for q in qualities]

    monkeypatch.setattr(quality, "_probe", probe)
    code(None, [np.zeros((8, 8, 3), np.uint8)], policy)  # type: ignore[arg-type]
    return tried


def test_a_score_out_of_reach_ends_at_the_end_of_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probed(lambda q: q / 2, QualityPolicy(32.0, target_ssimulacra2=90.0), monkeypatch)[-1] == MAX_QUALITY
    assert probed(lambda q: 60 + q / 2, QualityPolicy(32.0, target_ssimulacra2=20.0), monkeypatch)[-1] == 0


def test_the_usual_quality_follows_its_curve() -> None:
    assert [usual_quality(score) for _, score in SSIMULACRA2_CURVE] == pytest.approx([q for q, _ in SSIMULACRA2_CURVE])
    scores = np.linspace(-50, 120, 400)
    assert (np.diff([usual_quality(score) for score in scores]) > 0).all()


def test_the_floor_of_the_score_raises_only_those_below_it(codec: Codec, photographs: list[Pixels]) -> None:
    plain = code(codec, photographs, QualityPolicy(12.0, measures_ssimulacra2=True))
    floor = sorted(coded.ssimulacra2 or 0 for coded in plain)[1] + 1  # two are below
    lifted = code(codec, photographs, QualityPolicy(12.0, min_ssimulacra2=floor))
    for before, after in zip(plain, lifted, strict=True):
        assert (after.ssimulacra2 or 0) >= floor
        assert after == before if (before.ssimulacra2 or 0) >= floor else after.quality > before.quality
        assert after == before or (after.ssimulacra2 or 0) <= floor + 2 * SSIMULACRA2_TOLERANCE  # and no higher than it must


def test_nobody_waits_for_a_score_that_was_not_asked_for(codec: Codec, crops: list[Pixels]) -> None:
    assert [coded.ssimulacra2 for coded in code(codec, crops, QualityPolicy(32.0))] == [None, None]
