"""Means are over the same pictures for every codec, and never over what was not measured."""

from dataclasses import replace

import pytest

from cnnbatch.evaluation.bd_rate import rate_points
from cnnbatch.evaluation.codecs import LOSSLESS, CodecSpec
from cnnbatch.evaluation.measurement import Measured, Row
from cnnbatch.evaluation.measurement_table import SCHEMA, Means, Measurements, means
from cnnbatch.storage import ObjectInfo

A = CodecSpec("a", "A", "1", (10.0, 20.0))
B = CodecSpec("b", "B", "1", (5.0, 7.0))


def row(codec: str, quality: float, num_bytes: int = 1000, psnr_db: float = 30.0, ms_ssim: float | None = 0.9) -> Row:
    return Row(codec, quality, num_bytes, psnr_db, ms_ssim, None if ms_ssim else "small", 0.5, 0.25)


def failed(codec: str, quality: float) -> Row:
    return Row(codec, quality, stage="encode", error="OSError: no")


def picture(key: str, *rows: Row) -> Measured:
    return Measured(key, 5000, 4000, rows, "png", 100, 80)


def good(key: str) -> Measured:
    return picture(key, row("a", 10), row("a", 20, 2000, 36), row("b", 5), row("b", 7, 3000, 40))


def means_of(*measured: Measured) -> Means:
    found = Measurements()
    for one in measured:
        found.add(one)
    return means(found.table(), [A, B], pictures=sum(one.decoded for one in measured))


def test_a_point_is_the_mean_over_the_pictures() -> None:
    other = picture("y", row("a", 10, 3000, 32, 0.8), row("a", 20), row("b", 5), row("b", 7))
    found = means_of(good("x"), other)
    [a, b] = found.curves
    point = next(point for point in a.points if point.quality == 10)
    assert (point.bpp, point.psnr_db, point.ms_ssim, point.images) == (8 * 2000 / 8000, 31, pytest.approx(0.85), 2)
    assert (point.encode_mps, point.decode_mps) == (pytest.approx(0.016), pytest.approx(0.032))
    assert (found.keys, b.codec, [p.quality for p in b.points]) == ({"x", "y"}, "b", [5, 7])


def test_a_picture_that_one_codec_missed_counts_for_none() -> None:
    missed = picture("z", row("a", 10, 9000), row("a", 20, 9000), row("b", 5, 9000), failed("b", 7))
    found = means_of(good("x"), good("y"), missed)
    assert found.keys == {"x", "y"}
    assert {point.images for curve in found.curves for point in curve.points} == {2}
    assert found.curves[0].points[0].bpp == 1.0
    assert [(u.key, u.codec, u.stage) for u in found.unmeasured] == [("z", "b", "encode")]


def test_a_codec_that_fails_on_most_is_left_out_and_takes_no_pictures_along() -> None:
    broken = [picture(key, row("a", 10), row("a", 20), failed("b", 5), failed("b", 7)) for key in "pqr"]
    found = means_of(good("x"), *broken)
    assert [curve.codec for curve in found.curves] == ["a"]
    assert found.curves[0].points[0].images == 4
    assert [(item.codec, item.reason) for item in found.left_out] == [("b", "it coded 1 of 4 pictures at all its qualities")]
    assert len(found.unmeasured) == 3  # one for each picture and codec


def test_pictures_without_ms_ssim_are_not_in_its_mean() -> None:
    small = picture("s", *(replace(r, ms_ssim=None, num_bytes=8000) for r in good("s").rows))
    point = means_of(good("x"), small).curves[0].points[0]
    assert (point.ms_ssim, point.ms_ssim_images, point.images) == (pytest.approx(0.9), 1, 2)
    assert (point.ms_ssim_bpp, point.bpp) == (1.0, 4.5)
    assert means_of(small).curves[0].points[0].ms_ssim is None


def test_a_picture_that_a_lossy_codec_gave_back_exactly_is_in_no_mean_of_db_and_in_no_bd_rate() -> None:
    first, *others = good("e").rows
    exact = picture("e", replace(first, psnr_db=100.0, num_bytes=10), *(replace(r, num_bytes=10) for r in others))
    alone, found = means_of(good("x")), means_of(good("x"), exact)
    assert (found.keys, found.psnr_keys) == ({"x", "e"}, {"x"})
    for one, both in zip(alone.curves, found.curves, strict=True):
        assert [p.psnr_db for p in one.points] == [p.psnr_db for p in both.points]
        assert [p.psnr_bpp for p in one.points] == [p.psnr_bpp for p in both.points] == [p.bpp for p in one.points]
        assert {(p.images, p.psnr_images) for p in both.points} == {(2, 1)}
        assert rate_points(one, "psnr_db") == rate_points(both, "psnr_db")
    assert [p.exact_images for p in found.curves[0].points] == [1, 0]


def test_a_lossless_codec_takes_no_picture_from_the_means_of_db() -> None:
    exact = Row("png", 0.0, 4000, 100.0, None, "small", 0.5, 0.25)
    measurements = Measurements()
    measurements.add(picture("x", row("a", 10), row("a", 20, 2000, 36), exact))
    found = means(measurements.table(), [A, CodecSpec("png", "PNG", "1", LOSSLESS)], pictures=1)
    assert (found.psnr_keys, [p.psnr_images for p in found.curves[0].points]) == ({"x"}, [1, 1])


def test_where_every_picture_came_back_exactly_they_count_as_100_db() -> None:
    exact = picture("e", *(replace(r, psnr_db=100.0) for r in good("e").rows))
    assert {point.psnr_db for point in means_of(exact).curves[0].points} == {100.0}


def test_qualities_beyond_the_curve_are_no_points_of_it() -> None:
    found = means_of(picture("x", *good("x").rows, row("a", 13)))
    assert [point.quality for point in found.curves[0].points] == [10, 20]


def test_nothing_in_common_is_no_curve() -> None:
    found = means_of(
        picture("x", row("a", 10), row("a", 20), failed("b", 5)), picture("y", row("b", 5), row("b", 7), failed("a", 10))
    )
    assert (found.curves, found.keys) == ((), frozenset())


def test_a_file_that_is_no_picture_is_a_row_with_its_reason() -> None:
    measurements = Measurements()
    measurements.add(Measured.lost(ObjectInfo("k", 77), "read", "vanished: gone"))
    measurements.add(good("x"))
    table = measurements.table()
    assert table.schema.names == SCHEMA.names
    first = table.to_pylist()[0]
    assert (first["key"], first["source_bytes"], first["codec"], first["outcome"]) == ("k", 77, None, "failed")
    assert (first["stage"], first["error"], first["bpp"]) == ("read", "vanished: gone", None)
    assert table.num_rows == 5


def test_a_thousand_pictures_take_megabytes() -> None:
    measurements = Measurements()
    for number in range(100):
        rows = (row(codec, float(quality)) for codec in "abcdefghij" for quality in range(8))
        measurements.add(picture(f"folder/picture-{number:04}.jpg", *rows))
    assert measurements.table().nbytes / 100 < 20_000
