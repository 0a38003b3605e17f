"""The pages in a real Chromium: gallery, search, zoom, slider and dashboard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.chromium import chromium, console, opened, requests, screen, wait_until
from tests.serve.served import HOSTILE, Running, sources

pytestmark = pytest.mark.chromium

CONTRASTS = (Path(__file__).parents[1] / "evaluation/contrasts.js").read_text()
PICTURES = len(sources()) + 1
LOADED = "return [...document.querySelectorAll('.grid img')].filter((i) => i.complete && i.naturalWidth).length >= arguments[0]"
ASKED = "return performance.getEntriesByType('resource').some((entry) => new RegExp(arguments[0]).test(entry.name))"
CHANGED = """const input = document.querySelector(arguments[0]);
    input.value = arguments[1];
    input.dispatchEvent(new Event('change', {bubbles: true}))"""
UNNAMED = """return [...document.querySelectorAll('button, a, input, select')].filter((e) => e.checkVisibility()
    && !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length || e.querySelector('img[alt]')))
    .map((e) => e.outerHTML)"""
DRAWN = """const canvas = document.querySelector('#viewer canvas');
    if (!canvas || !canvas.width) return false;
    const data = canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
    return data[3] > 0"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


def text(driver: Any, selector: str) -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)).strip()


def wait_for(driver: Any, script: str, *arguments: object) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, 60, poll_frequency=0.1).until(lambda d: d.execute_script(script, *arguments))


def wait_for_request(driver: Any, pattern: str) -> None:
    wait_for(driver, ASKED, pattern)


def keys(driver: Any, *names: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    for name in names:
        ActionChains(driver).send_keys(getattr(Keys, name, name)).perform()


def click(driver: Any, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def faults(driver: Any) -> list[str]:
    """The console, without the pictures that cannot be shown: these are the archive's fault."""
    return [line for line in console(driver) if "422" not in line]


@pytest.fixture
def gallery(driver: Any, server: Running) -> Any:
    screen(driver)
    opened(driver, f"{server.url}/a/photos/")
    wait_for(driver, LOADED, PICTURES - 2)
    return driver


def test_the_gallery_shows_every_picture_and_asks_nobody_else(gallery: Any, server: Running) -> None:
    assert text(gallery, "#said") == f"{PICTURES} pictures"
    assert gallery.execute_script("return document.querySelectorAll('.grid li').length") == PICTURES
    assert faults(gallery) == []
    assert all(url.startswith((server.url, "data:", "about:")) for url in requests(gallery))
    names = gallery.execute_script("return [...document.querySelectorAll('.grid .name')].map((e) => e.textContent)")
    assert HOSTILE.rpartition("/")[2] in names
    assert gallery.execute_script("return document.querySelectorAll('script:not([src])').length") == 0


def test_folders_open_and_narrow_the_gallery(gallery: Any) -> None:
    wait_until(gallery, "return [...document.querySelectorAll('#tree a')].some((a) => a.textContent.startsWith('2024'))")
    gallery.execute_script("[...document.querySelectorAll('#tree a')].find((a) => a.textContent.startsWith('2024')).click()")
    wait_until(gallery, "return document.getElementById('said').textContent === '4 pictures in 2024/'")
    wait_until(gallery, "return [...document.querySelectorAll('#tree a')].some((a) => a.textContent.startsWith('summer'))")
    gallery.back()
    wait_until(gallery, f"return document.getElementById('said').textContent === '{PICTURES} pictures'")


def test_search_and_filters(gallery: Any) -> None:
    keys(gallery, "/")
    assert gallery.switch_to.active_element.get_attribute("id") == "glob"
    keys(gallery, *"2024/*/g*.png", "ENTER")
    wait_until(gallery, "return document.getElementById('said').textContent === '1 picture'")
    gallery.execute_script("document.getElementById('glob').value = ''; document.getElementById('search').requestSubmit()")
    gallery.execute_script(CHANGED, "[name=outcome]", "store")
    wait_until(gallery, "return /^[1-3] pictures?$/.test(document.getElementById('said').textContent)")
    gallery.execute_script(CHANGED, "[name=where]", "width >")
    wait_until(gallery, "return document.getElementById('said').textContent.startsWith('not a condition')")
    click(gallery, "#clear")
    wait_until(gallery, f"return document.getElementById('said').textContent === '{PICTURES} pictures'")


def test_the_keyboard_walks_through_the_grid_and_opens_a_picture(gallery: Any) -> None:
    gallery.execute_script("document.querySelector('.grid a[tabindex=\"0\"]').focus()")
    keys(gallery, "ARROW_RIGHT", "ARROW_RIGHT", "HOME", "END")
    focused = gallery.switch_to.active_element
    assert focused.find_element("xpath", "..").get_attribute("aria-posinset") == str(PICTURES)
    keys(gallery, "ENTER")
    wait_until(gallery, "return location.pathname.endsWith('/picture')")


def test_a_picture_opens_and_zooms(driver: Any, server: Running) -> None:
    screen(driver)
    opened(driver, f"{server.url}/a/photos/picture?key=squares.png")
    wait_until(driver, DRAWN)
    wait_until(driver, "return document.getElementById('facts').children.length > 6")
    assert "bits a pixel" in text(driver, "#cost-said")
    requests(driver)
    for _ in range(4):
        click(driver, "#in")
    wait_for_request(driver, r"/iiif/photos/squares\.png/\d+,\d+")
    assert console(driver) == []


def test_the_slider_shows_original_and_archive(driver: Any, server: Running) -> None:
    screen(driver)
    opened(driver, f"{server.url}/a/photos/picture?key=2024%2Fsummer%2Fphoto.png")
    wait_until(driver, f"const shown = (() => {{{DRAWN}}})(); return shown && !document.getElementById('comparing').hidden")
    click(driver, "#compare")
    wait_until(driver, "return !document.getElementById('divider').hidden")
    wait_for_request(driver, "/iiif/photos~source/.*default.jpg")
    driver.execute_script("document.getElementById('divider').focus()")
    keys(driver, "ARROW_RIGHT", "PAGE_UP")
    assert driver.execute_script("return document.getElementById('divider').getAttribute('aria-valuenow')") == "62"
    click(driver, "#difference")
    wait_for_request(driver, "/iiif/photos~difference/.*default.jpg")
    assert driver.execute_script("return document.getElementById('divider').hidden")
    assert console(driver) == []


def test_neighbours_follow_the_query(driver: Any, server: Running) -> None:
    opened(driver, f"{server.url}/a/photos/picture?key=2024%2Fsummer%2Fphoto.png&folder=2024%2F")
    wait_until(driver, "return document.getElementById('place').textContent === '1 of 4'")
    keys(driver, "n")
    wait_until(driver, "return document.getElementById('place').textContent === '2 of 4'")
    assert text(driver, "#title") == "turned.jpg"
    assert "<b>a camera</b>" in text(driver, "#more")


def test_the_dashboard_draws_what_was_saved(driver: Any, server: Running) -> None:
    screen(driver)
    opened(driver, f"{server.url}/a/photos/dashboard")
    wait_until(driver, "return document.querySelectorAll('.card svg rect').length > 10")
    assert "→" in text(driver, "#saved")
    titles = driver.execute_script("return [...document.querySelectorAll('.card h2')].map((e) => e.textContent)")
    assert {"By folder", "By format", "Outcomes", "PSNR"} <= set(titles)
    assert driver.execute_script(
        "return [...document.querySelectorAll('svg[role=img]')].every((e) => e.getAttribute('aria-label'))"
    )
    assert console(driver) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_overflows_and_everything_can_be_read(
    driver: Any, server: Running, width: int, dark: bool, tmp_path: Path
) -> None:
    screen(driver, width=width, height=800, dark=dark)
    ready = {
        "": "return document.querySelectorAll('.grid img').length > 5",
        "picture?key=squares.png": "return document.getElementById('facts').children.length > 6",
        "dashboard": "return document.querySelectorAll('.card svg rect').length > 10",
    }
    for page, is_ready in ready.items():
        opened(driver, f"{server.url}/a/photos/{page}")
        wait_until(driver, is_ready)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        checked, poor = driver.execute_script(CONTRASTS)
        assert checked > 5
        assert poor == [], page
        assert driver.execute_script(UNNAMED) == []
