"""The IIIF Image API's rules, without a server."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbatch.codec.geometry import Region
from cnnbatch.serve.iiif import BadRequest, Limits, NotImplementedHere, Plan, info, parse_request
from cnnbatch.serve.orientation import shown_size, stored_region, upright
from cnnbatch.serve.ranges import ByteRange, NotSatisfiable, parse_range

LIMITS = Limits(max_side=4000, max_area=8_000_000)


def plan(
    region: str, size: str, rotation: str = "0", last: str = "default.jpg", *, width: int = 300, height: int = 200
) -> Plan:
    return parse_request(region, size, rotation, last).resolve(width, height, LIMITS)


# The examples of section 4 of https://iiif.io/api/image/3.0/, whose picture has 300 × 200 pixels.
@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("full", Region(0, 0, 200, 300)),
        ("square", Region(0, 50, 200, 200)),
        ("125,15,120,140", Region(15, 125, 140, 120)),
        ("pct:41.6,7.5,40,70", Region(15, 125, 140, 120)),
        ("125,15,200,200", Region(15, 125, 185, 175)),
        ("pct:41.6,7.5,66.6,100", Region(15, 125, 185, 175)),
    ],
)
def test_regions(region: str, expected: Region) -> None:
    assert plan(region, "max").region == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("max", (300, 200)),
        ("150,", (150, 100)),
        (",150", (225, 150)),
        ("pct:50", (150, 100)),
        ("225,100", (225, 100)),
        ("!225,100", (150, 100)),
        ("!2000,3000", (300, 200)),
        ("^360,", (360, 240)),
        ("^,240", (360, 240)),
        ("^pct:120", (360, 240)),
        ("^360,360", (360, 360)),
        ("^!360,360", (360, 240)),
        ("1,1", (1, 1)),
    ],
)
def test_sizes(size: str, expected: tuple[int, int]) -> None:
    assert plan("full", size).size == expected


def test_the_largest_size_is_within_the_limits() -> None:
    assert plan("full", "max", width=8000, height=1000).size == (4000, 500)
    width, height = plan("full", "max", width=4000, height=4000).size
    assert width == height
    assert 7_900_000 < width * height <= LIMITS.max_area
    assert LIMITS.allow(*plan("full", "^max").size)
    assert max(plan("full", "^max").size) > 3000


@pytest.mark.parametrize(
    "parts",
    [
        ("0,0,0,10", "max", "0", "default.jpg"),
        ("300,0,10,10", "max", "0", "default.jpg"),
        ("pct:100,0,10,10", "max", "0", "default.jpg"),
        ("-1,0,10,10", "max", "0", "default.jpg"),
        ("1.5,0,10,10", "max", "0", "default.jpg"),
        ("0,0,٣,10", "max", "0", "default.jpg"),
        ("9" * 5000 + ",0,1,1", "max", "0", "default.jpg"),
        ("pct:1e3,0,1,1", "max", "0", "default.jpg"),
        ("pct:nan,0,1,1", "max", "0", "default.jpg"),
        ("full", "full", "0", "default.jpg"),
        ("full", "", "0", "default.jpg"),
        ("full", ",", "0", "default.jpg"),
        ("full", "!100,", "0", "default.jpg"),
        ("full", "0,10", "0", "default.jpg"),
        ("full", "pct:0", "0", "default.jpg"),
        ("full", "301,", "0", "default.jpg"),
        ("full", ",201", "0", "default.jpg"),
        ("full", "pct:200", "0", "default.jpg"),
        ("full", "^100000,", "0", "default.jpg"),
        ("full", "max", "361", "default.jpg"),
        ("full", "max", "-90", "default.jpg"),
        ("full", "max", "!", "default.jpg"),
        ("full", "max", "0", "default"),
        ("full", "max", "0", "native.jpg"),
        ("full", "max", "0", "default.exe"),
    ],
)
def test_what_the_specification_forbids(parts: tuple[str, str, str, str]) -> None:
    with pytest.raises(BadRequest):
        plan(*parts)


@pytest.mark.parametrize("parts", [("45", "default.jpg"), ("0", "default.tif"), ("0", "gray.pdf")])
def test_what_it_allows_and_is_not_done_here(parts: tuple[str, str]) -> None:
    with pytest.raises(NotImplementedHere):
        plan("full", "max", *parts)


# Section 4.7, canonical URI syntax.
@pytest.mark.parametrize(
    ("asked", "canonical"),
    [
        (("0,0,300,200", "300,200", "0", "default.jpg"), "full/max/0/default.jpg"),
        (("pct:0,0,100,100", "150,", "360", "gray.png"), "full/150,100/0/gray.png"),
        (("square", "max", "!90.0", "default.webp"), "50,0,200,200/max/!90/default.webp"),
        (("full", "^600,", "0", "color.jpg"), "full/^600,400/0/color.jpg"),
        (("0,0,100,100", "^50,50", "0", "default.jpg"), "0,0,100,100/50,50/0/default.jpg"),
    ],
)
def test_the_canonical_form_asks_for_the_same(asked: tuple[str, str, str, str], canonical: str) -> None:
    found = plan(*asked)
    assert found.canonical == canonical
    again = plan(*canonical.split("/"))
    assert (again.region, again.size, again.canonical) == (found.region, found.size, canonical)


words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["full", "square", "max", "^max", "0", "!90", "default.jpg", "bitonal.png", "1,2,3,4", "pct:1,2,3.5,4", "10,", "!5,5"]
    ),
    st.from_regex(r"\^?!?\d{0,6},\d{0,6}", fullmatch=True),
    st.from_regex(r"(pct:)?\d{1,3}(\.\d{1,4})?(,\d{1,3}(\.\d{1,4})?){3}", fullmatch=True),
    st.from_regex(r"\^?pct:\d{1,4}(\.\d{1,3})?", fullmatch=True),
)


@given(parts=st.tuples(words, words, words, words), width=st.integers(1, 20000), height=st.integers(1, 20000))
def test_anything_is_a_plan_within_the_limits_or_refused(parts: tuple[str, str, str, str], width: int, height: int) -> None:
    try:
        found = parse_request(*parts).resolve(width, height, LIMITS)
    except (BadRequest, NotImplementedHere):
        return
    found.region.check(height, width)
    assert LIMITS.allow(*found.size)
    assert min(found.size) >= 1
    by = found.divisor
    assert by == 1 or (found.region.width >= by * found.size[0] and found.region.height >= by * found.size[1])


regions = st.one_of(
    st.sampled_from(["full", "square"]), st.tuples(*[st.integers(0, 400)] * 4).map(lambda n: ",".join(map(str, n)))
)
sizes = st.sampled_from(["max", "^max", "10,", ",7", "pct:33.3", "^pct:150", "12,9", "^700,700", "!50,60", "^!500,400"])


@given(region=regions, size=sizes, rotation=st.sampled_from(["0", "!90", "180.0", "270"]))
def test_a_canonical_form_is_its_own(region: str, size: str, rotation: str) -> None:
    try:
        found = plan(region, size, rotation)
    except BadRequest:
        return
    assert plan(*found.canonical.split("/")).canonical == found.canonical


def test_info_says_what_holds() -> None:
    found = info("http://h/iiif/a/b", 6000, 4001, LIMITS)
    assert (found["profile"], found["width"], found["height"]) == ("level2", 6000, 4001)
    assert found["sizes"][0] == {"width": 375, "height": 251}
    assert found["tiles"] == [{"width": 512, "height": 512, "scaleFactors": [1, 2, 4, 8, 16]}]
    for size in found["sizes"]:
        assert parse_request("full", f"{size['width']},{size['height']}", "0", "default.jpg").resolve(6000, 4001, LIMITS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_of_the_upright_picture_are_where_they_are_stored(orientation: int) -> None:
    stored = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    shown = upright(stored, orientation)
    assert shown.shape[::-1] == shown_size(9, 6, orientation)
    region = Region(1, 2, 3, 4) if shown.shape[0] >= 4 and shown.shape[1] >= 6 else Region(2, 1, 4, 3)
    found = stored_region(region, 9, 6, orientation).cut(stored)
    assert np.array_equal(upright(found, orientation), region.cut(shown))


@given(
    header=st.one_of(st.none(), st.text(max_size=30), st.from_regex(r"bytes=\d{0,4}-\d{0,4}", fullmatch=True)),
    size=st.integers(0, 3000),
)
def test_a_range_is_inside_of_the_file_or_refused(header: str | None, size: int) -> None:
    try:
        found = parse_range(header, size)
    except NotSatisfiable:
        return
    assert found is None or 0 <= found.start < found.end <= size


def test_ranges() -> None:
    assert parse_range("bytes=0-0", 10) == ByteRange(0, 1)
    assert parse_range("bytes=5-", 10) == ByteRange(5, 10)
    assert parse_range("bytes=-3", 10) == ByteRange(7, 10)
    assert parse_range("bytes=0-1,4-5", 10) is None
    assert parse_range("bytes=5-2", 10) is None
    with pytest.raises(NotSatisfiable):
        parse_range("bytes=10-", 10)


def test_scales_are_exact() -> None:
    assert LIMITS.scale(8000, 10) == Fraction(1, 2)
    assert LIMITS.scale(10, 10) == 1
