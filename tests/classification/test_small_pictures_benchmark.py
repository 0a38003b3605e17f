"""The table of small pictures: templates cut and lay pictures as they were, and interpolation says when it cannot."""

import itertools

import numpy as np

from benchmarks.fashion_mnist import Point
from benchmarks.small_pictures import (
    SHEET_COLUMNS,
    SHEET_SCALE,
    TEMPLATES,
    Rival,
    blocks_of,
    measure_templates,
    pictures_of,
    sheet,
    table,
)
from tests.codec.models import picture


def small(count: int) -> np.ndarray:
    large = picture(8 * count, 12, seed=4)[..., 0]
    return large.reshape(count, 8, 12)


def test_blocks_give_the_pictures_back() -> None:
    pictures = small(5)
    np.testing.assert_array_equal(pictures_of(blocks_of(pictures), pictures.shape), pictures)


def test_more_templates_are_more_bytes_and_more_db() -> None:
    points = measure_templates(small(400), small(50))
    assert [point.num_bytes for point in points] == [6 * np.log2(count) / 8 for count in TEMPLATES]
    assert all(one.psnr_db < other.psnr_db for one, other in itertools.pairwise(points))


def test_a_rival_is_read_between_its_points_and_not_beyond_them() -> None:
    rival = Rival("x", [Point(10, 20.0), Point(30, 19.0), Point(20, 30.0)])
    assert rival.bytes_at(25) == 15
    assert rival.db_at(15) == 25
    assert np.isnan([rival.bytes_at(31), rival.bytes_at(19), rival.db_at(9)]).all()
    assert table(Point(9, 25.0), [rival]).splitlines()[-1].split() == ["x", "none", "so", "small", "15.0"]
    assert table(Point(31, 31.0), [rival]).splitlines()[-1].split() == ["x", "none", "so", "large", "-"]


def test_the_sheet_has_each_original_above_what_came_back() -> None:
    originals = [np.full((4, 6), n, np.uint8) for n in range(2 * SHEET_COLUMNS)]
    image = np.asarray(sheet(originals, [picture + 100 for picture in originals]))
    assert image.shape == (4 * 4 * SHEET_SCALE, SHEET_COLUMNS * 6 * SHEET_SCALE)
    cells = image[:: 4 * SHEET_SCALE, :: 6 * SHEET_SCALE]
    np.testing.assert_array_equal(cells[1], cells[0] + 100)
    np.testing.assert_array_equal(cells[2], np.arange(SHEET_COLUMNS) + SHEET_COLUMNS)
