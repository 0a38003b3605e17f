"""BD-rate: figures that are known, curves that have none, and the published pair of JPEG and WebP."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.errors import UsageError
from cnnbatch.evaluation.bd_rate import Difference, bd_rate, bd_rates, rate_points
from cnnbatch.evaluation.published import read_published
from cnnbatch.evaluation.summary import Curve, Point
from tests.stages.pictures import write_files

SHARED = Path(__file__).parents[3] / "shared" / "anchors" / "kodak_rd"
CURVE = [(0.1, 25.0), (0.3, 29.0), (0.8, 33.0), (2.0, 38.0)]


def difference(anchor: list[tuple[float, float]], other: list[tuple[float, float]], **limits: float) -> Difference:
    found = bd_rate(anchor, other, **limits)
    assert isinstance(found, Difference), found
    return found


@settings(deadline=None)  # the first call loads scipy
@given(st.floats(0.2, 5))
def test_a_multiple_of_the_bits_is_that_rate(factor: float) -> None:
    found = difference(CURVE, [(bpp * factor, db) for bpp, db in CURVE])
    assert found.percent == pytest.approx(100 * (factor - 1))
    assert (found.low, found.high) == (25, 38)


def test_two_straight_lines_give_the_area_between_them() -> None:
    def line(slope: float) -> list[tuple[float, float]]:  # log rate rises with dB; both meet at 30 dB
        return [(float(np.exp(slope * (db - 30))), db) for db in (30.0, 33.0, 36.0, 40.0)]

    expected = 100 * np.expm1((0.15 - 0.1) * 10 / 2)  # mean over 30…40 dB of (0.15 − 0.1)·(dB − 30)
    assert difference(line(0.1), line(0.15)).percent == pytest.approx(expected, rel=1e-3)


def test_the_two_directions_belong_together() -> None:
    other = [(0.15, 26.0), (0.4, 30.0), (1.0, 34.5), (1.9, 37.0)]
    there, back = difference(CURVE, other).percent, difference(other, CURVE).percent
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


def test_the_range_is_what_both_reach_inside_what_was_asked() -> None:
    found = difference(CURVE, [(0.5, 30.0), (4.0, 45.0)], high=36)
    assert (found.low, found.high) == (30, 36)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([(1.0, 50.0), (2.0, 60.0)], "overlap over 0.00 dB"),
        ([(1.0, 37.8), (2.0, 60.0)], "overlap over 0.20 dB"),
        ([(1.0, 30.0)], "fewer than two points"),
        ([(1.0, 30.0), (2.0, 29.0)], "fewer than two points"),
    ],
)
def test_curves_without_a_common_range_have_no_figure(other: list[tuple[float, float]], said: str) -> None:
    found = bd_rate(CURVE, other)
    assert isinstance(found, str)
    assert said in found


def test_a_point_that_costs_more_and_shows_less_is_left_out() -> None:
    assert difference(CURVE, [*CURVE, (0.9, 32.0)]).percent == pytest.approx(0)


def curve(codec: str, factor: float, *, lossless: bool = False) -> Curve:
    points = tuple(
        Point(
            quality=q, bpp=bpp * factor, psnr_db=db, ms_ssim=1 - 10 ** (-db / 20), encode_mps=1, decode_mps=1, images=2,
            ms_ssim_images=2, ms_ssim_bpp=bpp * factor * 2,
        )
        for q, (bpp, db) in enumerate(CURVE)
    )  # fmt: skip
    return Curve(codec=codec, label=codec, lossless=lossless, threads=1, version="", points=points)


def test_every_pair_of_lossy_codecs_is_compared_by_both_measures() -> None:
    found = list(bd_rates([curve("a", 1), curve("b", 1.5), curve("png", 9, lossless=True)]))
    assert {(f.anchor, f.codec, f.measure): round(f.percent or 0, 6) for f in found} == {
        ("a", "b", "psnr_db"): 50,
        ("b", "a", "psnr_db"): -33.333333,
        ("a", "b", "ms_ssim"): 50,
        ("b", "a", "ms_ssim"): -33.333333,
    }


def test_ssimulacra2_is_compared_over_scores_from_30_to_90() -> None:
    def scored(codec: str, factor: float) -> Curve:
        scores = (-5.0, 25.0, 60.0, 88.0, 95.0)
        points = (
            Point(
                quality=q,
                bpp=0.1 * 2**q * factor,
                psnr_db=30,
                ms_ssim=None,
                encode_mps=1,
                decode_mps=1,
                images=2,
                ssimulacra2=s,
            )
            for q, s in enumerate(scores)
        )
        return Curve(codec=codec, label=codec, lossless=False, threads=1, version="", points=tuple(points))

    found = [rate for rate in bd_rates([scored("a", 1), scored("b", 0.8)]) if rate.measure == "ssimulacra2"]
    assert [(rate.low, rate.high) for rate in found] == [(30, 90)] * 2
    assert found[0].percent == pytest.approx(-20)
    short = bd_rate([(0.1, 40), (0.2, 44)], [(0.1, 40), (0.2, 44)], low=30, high=90, measure="ssimulacra2")
    assert short == "the curves overlap over 4.00 points only"


def test_ms_ssim_is_compared_at_the_rate_of_the_pictures_that_have_it() -> None:
    assert rate_points(curve("a", 1), "ms_ssim")[0] == pytest.approx((0.2, 12.5))


@pytest.mark.shared
def test_the_published_pair_of_jpeg_and_webp() -> None:
    if not SHARED.is_dir():
        pytest.skip("no published curves beside the checkout")
    curves = {published.name: published.points for published in read_published(SHARED)}
    assert "INDEX" not in curves
    assert len(curves) > 50
    found = difference(list(curves["jpeg"]), list(curves["webp"]))
    assert found.percent == pytest.approx(-36.2, abs=0.1)  # as computed from the same points elsewhere
    assert (found.low, found.high) == (pytest.approx(28.33, abs=0.01), pytest.approx(40.56, abs=0.01))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b'{"codec": "x", "points": [{"bpp": -1, "psnr": 3}]}', "points.0.bpp"),
        ("a.json", b"{", "cannot read the published curve"),
        ("a.json", b"[1, 2]", "no JSON file with points"),
        ("a.txt", b"", "no JSON file with points"),
    ],
)
def test_published_curves_that_are_none_are_said(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    write_files(tmp_path / "curves", {name: content})
    with pytest.raises(UsageError, match=said):
        read_published(tmp_path / "curves")


def test_published_curves_come_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        read_published(tmp_path / "nowhere")
