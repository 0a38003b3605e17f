"""The IIIF server: the checks of the official validator (github.com/IIIF/image-validator), and the right pixels.

Its checks for version 3.0 and level 2, and the test here that has each:

    info_json, http_cors                                       test_info_json
    http_jsonld                                                test_json_ld_where_it_is_asked_for
    http_baseurl_redirect                                      test_the_image_itself_leads_to_its_description
    http_linkheader_canonical, http_linkheader_profile         test_links_to_the_canonical_form_and_the_profile
    id_squares, id_basic, id_escaped                           test_rotations, test_an_escaped_identifier_is_the_same
    id_error_random, id_error_unescaped, id_error_escapedslash test_what_is_not_there_is_not_found
    region_pixels, region_percent, region_square               test_regions_by_pixels_and_percent
    size_wc, size_ch, size_percent, size_wh, size_bwh, size_up test_sizes
    size_region, rot_region_basic                              test_regions_that_are_made_smaller_and_turned
    size_noup, size_nofull                                     test_nothing_is_enlarged_unless_it_is_said
    rot_full_basic, rot_mirror, rot_mirror_180                 test_rotations
    quality_color, quality_grey, quality_bitonal               test_qualities_and_formats
    format_jpg, format_png, format_webp                        test_qualities_and_formats
    region_error_random, size_error_random, rot_error_random,
    quality_error_random, format_error_random                  test_what_makes_no_sense_is_refused
    rot_full_non90, rot_region_non90, format_tif and others    beyond level 2: 501, test_what_makes_no_sense_is_refused

One check of ``size_noup`` is left out: that ``!2000,3000`` of a smaller picture is refused. The specification says "as large as
possible but not larger than the extracted region".
"""

import json
import random
import string
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnbatch import reading
from cnnbatch.serve.orientation import upright
from tests.serve.served import GRID, HOSTILE, PALETTE, SQUARE, Answer, Running, photograph

SIDE = GRID * SQUARE
IDENTIFIER = "squares.png"
NEAR = 6


def asked(server: Running, parts: str, identifier: str = IDENTIFIER, *, view: str = "") -> Answer:
    return server.get(f"/iiif/photos{view}/{identifier}/{parts}")


def image(server: Running, parts: str, identifier: str = IDENTIFIER, *, view: str = "") -> Image.Image:
    found = asked(server, parts, identifier, view=view)
    assert found.status == 200, found.body
    return found.image()


def squares_of(picture: Image.Image) -> np.ndarray:
    """The colour in the middle of each of 10 × 10 squares."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    rows = (np.arange(GRID) * 2 + 1) * height // (2 * GRID)
    columns = (np.arange(GRID) * 2 + 1) * width // (2 * GRID)
    return pixels[np.ix_(rows, columns)]


def assert_squares(picture: Image.Image, expected: np.ndarray) -> None:
    assert np.abs(squares_of(picture) - expected.astype(int)).max() <= NEAR


def test_info_json(server: Running) -> None:
    found = asked(server, "info.json")
    info = json.loads(found.body)
    assert found.status == 200
    assert found.headers["content-type"] == "application/json"
    assert found.headers["access-control-allow-origin"] == "*"
    assert info["id"] == f"{server.url}/iiif/photos/{IDENTIFIER}"
    assert (info["width"], info["height"]) == (SIDE, SIDE)
    assert (info["type"], info["protocol"], info["profile"]) == ("ImageService3", "http://iiif.io/api/image", "level2")
    assert info["@context"] == "http://iiif.io/api/image/3/context.json"


def test_json_ld_where_it_is_asked_for(server: Running) -> None:
    found = server.get(f"/iiif/photos/{IDENTIFIER}/info.json", {"Accept": "application/ld+json"})
    assert found.headers["content-type"].startswith("application/ld+json")


def test_the_image_itself_leads_to_its_description(server: Running) -> None:
    found = server.get(f"/iiif/photos/{IDENTIFIER}")
    assert found.status == 303
    assert found.headers["location"] == f"{server.url}/iiif/photos/{IDENTIFIER}/info.json"


@pytest.mark.parametrize(
    ("rotation", "turned"),
    [
        ("0", PALETTE),
        ("90", np.rot90(PALETTE, -1)),
        ("180", PALETTE[::-1, ::-1]),
        ("270", np.rot90(PALETTE)),
        ("!0", PALETTE[:, ::-1]),
        ("!180", PALETTE[::-1]),
    ],
)
def test_rotations(server: Running, rotation: str, turned: np.ndarray) -> None:
    picture = image(server, f"full/max/{rotation}/default.jpg")
    assert picture.size == (SIDE, SIDE)
    assert_squares(picture, turned)


def test_regions_by_pixels_and_percent(server: Running) -> None:
    for x, y in ((0, 0), (9, 9), (3, 7)):
        by_pixels = image(server, f"{x * 100 + 13},{y * 100 + 13},74,74/max/0/default.jpg")
        by_percent = image(server, f"pct:{x * 10 + 1},{y * 10 + 1},8,8/max/0/default.jpg")
        assert (by_pixels.size, by_percent.size) == ((74, 74), (80, 80))
        for picture in (by_pixels, by_percent):
            middle = np.asarray(picture).astype(int)[30:44, 30:44].mean((0, 1))
            assert np.abs(middle - PALETTE[y, x]).max() <= NEAR
    assert image(server, "square/max/0/default.jpg").size == (SIDE, SIDE)


@pytest.mark.parametrize(("rotation", "quarters"), [("0", 0), ("90", -1), ("180", 2), ("270", 1)])
def test_regions_that_are_made_smaller_and_turned(server: Running, rotation: str, quarters: int) -> None:
    for x, y in ((0, 0), (8, 8), (3, 6)):
        picture = image(server, f"{x * SQUARE},{y * SQUARE},{2 * SQUARE},{2 * SQUARE}/120,/{rotation}/default.png")
        assert picture.size == (120, 120)
        found = np.asarray(picture.convert("RGB")).astype(int)[np.ix_((30, 90), (30, 90))]
        assert np.abs(found - np.rot90(PALETTE[y : y + 2, x : x + 2], quarters)).max() <= NEAR


@pytest.mark.parametrize("size", ["513,", ",613", "pct:45", "437,437", "!350,750", "64,", "16,", "^1100,", "^!1200,1300"])
def test_sizes(server: Running, size: str) -> None:
    side = {"pct:45": 450, "!350,750": 350, "^!1200,1300": 1200}.get(size) or int(size.strip("^!,").split(",")[0])
    picture = image(server, f"full/{size}/0/default.png")
    assert picture.size == (side, side)
    if side >= 300:
        assert_squares(picture, PALETTE)


@pytest.mark.parametrize("size", ["1100,1100", ",1100", "1100,", "pct:200", "full"])
def test_nothing_is_enlarged_unless_it_is_said(server: Running, size: str) -> None:
    assert asked(server, f"full/{size}/0/default.jpg").status == 400


def test_qualities_and_formats(server: Running) -> None:
    assert image(server, "full/100,/0/color.jpg").mode == "RGB"
    assert image(server, "full/100,/0/gray.jpg").mode == "L"
    assert {level for _, level in image(server, "full/100,/0/bitonal.png").convert("L").getcolors()} <= {0, 255}
    kinds = {"jpg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png"), "webp": ("WEBP", "image/webp")}
    for format, (name, media_type) in kinds.items():
        found = asked(server, f"full/200,/0/default.{format}")
        assert found.headers["content-type"] == media_type
        assert found.image().format == name
        assert_squares(found.image(), PALETTE) if format != "jpg" else None


def test_links_to_the_canonical_form_and_the_profile(server: Running) -> None:
    links = asked(server, "0,0,1000,1000/1000,/0/default.jpg").headers["link"]
    assert f'<{server.url}/iiif/photos/{IDENTIFIER}/full/max/0/default.jpg>;rel="canonical"' in links
    assert '<http://iiif.io/api/image/3/level2.json>;rel="profile"' in links


def _random_word(length: int) -> str:
    word = "".join(random.Random(length).choices(string.ascii_letters + string.digits + ":;<=>@[]^_`", k=length))
    return quote(word, safe="")


def test_what_makes_no_sense_is_refused(server: Running) -> None:
    for parts in (
        f"{_random_word(6)}/max/0/default.jpg",
        f"full/{_random_word(6)}/0/default.jpg",
        f"full/max/{_random_word(4)}/default.jpg",
        f"full/max/0/{_random_word(6)}.jpg",
        f"full/max/0/default.{_random_word(3)}",
    ):
        assert asked(server, parts).status == 400
    assert asked(server, "full/max/45/default.jpg").status == 501
    assert asked(server, "full/max/0/default.tif").status == 501


@pytest.mark.parametrize("identifier", ["[frob]", "a/b", "3f1c2a52-nowhere", "..%2F..%2Fetc%2Fpasswd", "%00", "squares.png%2F"])
def test_what_is_not_there_is_not_found(server: Running, identifier: str) -> None:
    assert asked(server, "full/max/0/default.jpg", identifier).status == 404
    assert asked(server, "info.json", identifier).status == 404


def test_an_escaped_identifier_is_the_same(server: Running) -> None:
    assert asked(server, "full/50,/0/default.jpg", "squares%2Epng").status == 200
    assert asked(server, "info.json", quote(HOSTILE, safe="")).status == 200
    assert asked(server, "full/50,/0/default.jpg", quote(HOSTILE, safe="")).status == 200


def test_a_turned_photograph_is_shown_upright(server: Running, archive: str) -> None:
    key = "2024/summer/turned.jpg"
    expected = upright(reading.open(archive)[key].image(decoder="draft"), 6)
    assert expected.shape == (171, 133, 3)
    whole = np.asarray(image(server, "full/max/0/default.png", quote(key, safe="")).convert("RGB"))
    assert np.array_equal(whole, expected)
    part = np.asarray(image(server, "20,30,64,80/max/0/default.png", quote(key, safe="")).convert("RGB"))
    assert np.array_equal(part, expected[30:110, 20:84])
    info = json.loads(asked(server, "info.json", quote(key, safe="")).body)
    assert (info["width"], info["height"]) == (133, 171)


def test_the_views_are_draft_full_source_and_difference(server: Running, archive: str) -> None:
    key = "2024/summer/photo.png"
    one = {
        view: np.asarray(image(server, "full/max/0/default.png", quote(key, safe=""), view=view))
        for view in ("", "~full", "~source", "~difference")
    }
    picture = reading.open(archive)[key]
    assert np.array_equal(one[""], picture.image(decoder="draft"))
    assert np.array_equal(one["~full"], picture.image())
    assert np.array_equal(one["~source"], photograph())
    difference = 128 + 4 * (one["~full"].astype(int) - one["~source"])
    assert np.array_equal(one["~difference"], np.clip(difference, 0, 255))


def test_gray_alpha_and_pictures_that_were_stored(server: Running) -> None:
    gray = image(server, "full/max/0/default.png", quote("2024/winter/gray.png", safe=""))
    assert gray.mode == "L"
    alpha = image(server, "full/100,/0/default.png", quote("2024/winter/alpha.png", safe=""))
    assert alpha.mode == "RGBA"
    assert image(server, "full/100,/0/default.jpg", quote("2024/winter/alpha.png", safe="")).mode == "RGB"
    cmyk = image(server, "full/max/0/default.jpg", quote("2025/cmyk.jpg", safe=""))
    assert np.abs(np.asarray(cmyk).astype(int) - photograph()).mean() < 12


def test_a_crafted_bitstream_and_a_text_cost_an_answer_of_their_own(server: Running) -> None:
    for key in ("crafted.png", "notes.txt"):
        found = asked(server, "full/max/0/default.jpg", key)
        assert found.status == 422
        assert "error" in json.loads(found.body)
        assert server.get(f"/a/photos/thumb?key={key}").status == 422
    assert asked(server, "full/60,/0/default.jpg").status == 200


def test_an_answer_that_is_known_is_not_sent_again(server: Running) -> None:
    path = f"/iiif/photos/{IDENTIFIER}/full/90,/0/default.jpg"
    first = server.get(path)
    again = server.get(path, {"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert server.get(path, {"If-None-Match": '"another"'}).status == 200
    head = server.get(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(first.body))


paths = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30).map(lambda text: quote(text, safe="/%")),
    st.from_regex(rb"[!-~]{0,40}", fullmatch=True).map(lambda raw: raw.decode("ascii").replace("#", "")),
    st.lists(
        st.sampled_from(["photos", IDENTIFIER, "full", "max", "0", "default.jpg", "info.json", "..", "%2e%2e", "", "~full"]),
        max_size=8,
    ).map("/".join),
)
names = st.sampled_from(
    ["Range", "If-None-Match", "If-Range", "Accept", "Cookie", "Authorization", "Origin", "X-Forwarded-For", "Host"]
)
values = st.from_regex(r"[ -~]{0,40}", fullmatch=True).map(str.strip)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    path=paths,
    headers=st.dictionaries(names, values, max_size=3),
    prefix=st.sampled_from(["/iiif/", "/a/", "/api/", "/presentation/", "/static/", "/"]),
)
def test_any_address_and_header_is_answered(server: Running, path: str, headers: dict[str, str], prefix: str) -> None:
    found = server.get(f"{prefix}{path}".replace(" ", "%20") or "/", headers)
    assert found.status < 500 or found.status == 501, (found.status, found.body)
    assert found.headers.get("x-content-type-options", "nosniff") == "nosniff"
    assert b"Traceback" not in found.body
