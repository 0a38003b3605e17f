"""The report page in a real browser."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cnnbatch.evaluation.page import render_page
from tests.evaluation import page_samples
from tests.evaluation.chromium import chromium, console, opened, requests, screen, wait_until

pytestmark = pytest.mark.chromium

FIRST_CONTENT_MS = 1000
TRIES = 5
PHONE = 360

BREADTH = "return document.documentElement.scrollWidth"

CONTRASTS = (Path(__file__).parent / "contrasts.js").read_text()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_samples.write(render_page(page_samples.summary()), tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def page(driver: Any, url: str) -> Any:
    screen(driver)
    opened(driver, url)
    return driver


def text(driver: Any, selector: str) -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)).strip()


def press(driver: Any, selector: str, *keys: str) -> None:
    """Focuses an element as the tab key would, and types."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver.execute_script("document.querySelector(arguments[0]).focus({focusVisible: true})", selector)
    for key in keys:
        ActionChains(driver).send_keys(getattr(Keys, key)).perform()


def click(driver: Any, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_it_opens_without_a_message_on_the_console_and_without_a_request(page: Any, url: str) -> None:
    assert console(page) == []
    assert [request for request in requests(page) if not request.startswith("data:")] == [url]


def test_a_server_is_asked_for_nothing_but_the_page(driver: Any) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: `asked` is the log."""

    body = render_page(page_samples.summary()).encode()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            opened(driver, f"http://127.0.0.1:{server.server_port}/report.html")
            driver.get("about:blank")
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["/report.html"]
    assert console(driver) == []


def test_first_content_is_there_in_a_second_with_24_pictures(driver: Any, url: str) -> None:
    screen(driver)
    times: list[float] = []
    while not times or (min(times) > FIRST_CONTENT_MS and len(times) < TRIES):  # other work on the machine only makes it later
        opened(driver, url)
        times.append(driver.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    print("first contentful paint:", [f"{time:.0f} ms" for time in times])
    assert min(times) <= FIRST_CONTENT_MS


def test_the_hero_says_what_the_source_becomes(page: Any) -> None:
    assert " ".join(text(page, "h1").split()) == "1.24 TB → 310 GB"
    assert "25.0 % of its weight: 288 GB to 332 GB with 95 % confidence" in " ".join(text(page, ".lead").split())


def test_codecs_come_and_go(page: Any) -> None:
    curve = "return document.querySelectorAll('#plot g[data-series]').length"
    before = page.execute_script(curve)
    assert before == 6  # the lossless ones are there when asked for
    click(page, "#series tbody tr:nth-child(2) input")
    assert page.execute_script(curve) == before - 1
    click(page, "#series tbody tr:nth-child(8) input")
    assert page.execute_script(curve) == before
    assert page.execute_script("return document.querySelectorAll('#plot .exact').length") == 1
    click(page, "#published-series input")
    assert page.execute_script(curve) == before + 1
    assert console(page) == []


def test_measure_and_scale_redraw_the_axes(page: Any) -> None:
    drawn = [text(page, "#plot")]
    for name, value in (("measure", "ms_ssim"), ("scale", "linear"), ("measure", "psnr_db")):
        click(page, f"input[name={name}][value={value}]")
        drawn.append(text(page, "#plot"))
    assert len(set(drawn)) == 4
    assert "MS-SSIM" in drawn[1]
    assert "PSNR" in drawn[3]


def test_the_keyboard_walks_along_the_curves_and_reads_them_out(page: Any) -> None:
    point = page_samples.summary().curves[0].points
    assert page_samples.summary().curves[0].codec == "cnn"
    press(page, "#plot", "HOME")
    assert text(page, "#plot-said").startswith(f"cnnbatch, quality {point[0].quality:g}, {point[0].bpp:.3f} bpp, ")
    press(page, "#plot", "ARROW_RIGHT")
    assert text(page, "#plot-said").startswith(f"cnnbatch, quality {point[1].quality:g}, ")
    press(page, "#plot", "ARROW_UP")
    assert text(page, "#plot-said").startswith("JPEG 4:4:4, quality ")


def test_the_pointer_reads_the_nearest_point_and_what_others_need_for_it(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    marks = page.find_elements(By.CSS_SELECTOR, "#plot g.ours path.mark")
    ActionChains(page).move_to_element(marks[2]).perform()
    point = page_samples.summary().curves[0].points[2]
    assert f"quality {point.quality:g}, {point.bpp:.3f} bpp" in text(page, "#plot-said")
    assert text(page, "#series-title") == f"At PSNR {point.psnr_db:.2f} dB"
    jpeg = [text(page, f"#series tbody tr:nth-child(2) td:nth-child({column})") for column in (2, 3)]
    assert float(jpeg[0]) > point.bpp
    assert jpeg[1].startswith("+")


def test_the_divider_moves_with_the_keyboard_and_the_pointer(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    divider = page.find_element(By.ID, "divider")
    press(page, "#divider", "ARROW_RIGHT", "ARROW_RIGHT", "PAGE_DOWN")
    assert divider.get_attribute("aria-valuenow") == "44"
    assert "56%" in page.execute_script("return document.getElementById('over').style.clipPath")
    press(page, "#divider", "END")
    assert divider.get_attribute("aria-valuenow") == "100"
    press(page, "#divider", "HOME")
    assert divider.get_attribute("aria-valuenow") == "0"
    stage = page.find_element(By.ID, "stage")
    across = stage.size["width"] // 4
    ActionChains(page).move_to_element_with_offset(stage, -across, -100).click_and_hold().move_by_offset(
        2 * across, 0
    ).release().perform()
    assert abs(int(divider.get_attribute("aria-valuenow")) - 75) <= 1


def test_the_pictures_are_what_the_codecs_gave_back_and_the_residual_is_their_difference(page: Any) -> None:
    import base64
    import io

    import numpy as np
    from PIL import Image

    example = page_samples.summary().examples[0]
    original, coded = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")).astype(int)
        for image in (example.original, example.panels[0].image)
    )
    read = """const c = document.getElementById(arguments[0]);
        return [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"""

    def shown(canvas: str) -> Any:
        height, width, data = page.execute_script(read, canvas)
        return np.array(data).reshape(height, width, 4)[..., :3]

    assert np.array_equal(shown("over"), original)
    assert np.array_equal(shown("under"), coded)
    click(page, "#residual")
    assert np.array_equal(shown("under"), np.clip(128 + 4 * (coded - original), 0, 255))


def test_another_picture_and_a_moved_detail_are_shown(page: Any) -> None:
    press(page, "#thumbs input", "ARROW_RIGHT")
    wait_until(
        page, f"return document.getElementById('example-key').textContent === '{page_samples.summary().examples[1].key}'"
    )
    corner = """const c = document.querySelector('#details canvas');
        return [...c.getContext('2d').getImageData(0, 0, 8, 8).data].join()"""
    before = page.execute_script(corner)
    press(page, "#loupe", "ARROW_RIGHT", "ARROW_DOWN")
    assert page.execute_script(corner) != before


def test_pictures_are_decoded_only_when_they_are_looked_at(driver: Any, url: str) -> None:
    screen(driver, width=PHONE, height=740)
    opened(driver, url)
    drawn = """return [...document.querySelectorAll('#thumbs canvas')].map(
        c => c.getContext('2d').getImageData(48, 36, 1, 1).data[3] > 0)"""
    assert not all(driver.execute_script(drawn))
    driver.execute_script("document.getElementById('thumbs').scrollIntoView({behavior: 'instant'})")
    wait_until(driver, f"{drawn}[0]")
    assert not all(driver.execute_script(drawn))
    driver.execute_script("document.getElementById('thumbs').scrollLeft = 1e6")
    wait_until(driver, f"{drawn}[23]")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, 768, 1280])
def test_nothing_overflows_and_everything_can_be_read(driver: Any, url: str, width: int, dark: bool) -> None:
    screen(driver, width=width, dark=dark)
    opened(driver, url)
    assert driver.execute_script(BREADTH) <= width
    checked, poor = driver.execute_script(CONTRASTS)
    assert checked > 200
    assert poor == []


def test_dark_is_dark(driver: Any, url: str) -> None:
    for dark in (False, True):
        screen(driver, dark=dark)
        opened(driver, url)
        paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in paper.strip("rgb()").split(",")) < 200) == dark


def test_everything_that_takes_the_focus_has_a_role_a_name_and_a_visible_ring(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    focusable = [n for n in nodes if any(p["name"] == "focusable" and p["value"]["value"] for p in n.get("properties", []))]
    assert len(focusable) > 40
    nameless = [n["role"]["value"] for n in focusable if n["role"]["value"] != "RootWebArea" and not n["name"]["value"].strip()]
    assert nameless == []
    assert {"slider", "application", "radio", "checkbox", "region", "link", "combobox"} <= {
        n["role"]["value"] for n in focusable
    }
    ring = """const e = document.activeElement, next = e.nextElementSibling;
        const styles = [getComputedStyle(e), getComputedStyle(e, '::after'), ...(next ? [getComputedStyle(next)] : [])];
        return [e.id || e.name || (e === document.body ? 'BODY' : e.textContent.trim().slice(0, 20)),
                styles.some(s => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1)]"""
    seen = {}
    for _ in range(60):
        ActionChains(page).send_keys(Keys.TAB).perform()
        name, ringed = page.execute_script(ring)
        seen[name] = ringed
    seen.pop("BODY", None)  # past the last element
    assert {"plot", "divider", "loupe", "left", "gain"} <= seen.keys()
    assert [name for name, ringed in seen.items() if not ringed] == []


def test_hostile_text_is_only_text(driver: Any, tmp_path: Path) -> None:
    screen(driver, width=PHONE)
    opened(driver, page_samples.write(render_page(page_samples.hostile()), tmp_path / "hostile.html"))
    assert driver.execute_script("return window.hacked") is None
    assert driver.execute_script("return document.querySelectorAll('img, main svg[onload], iframe').length") == 0
    assert driver.execute_script("return document.scripts.length") == 2 + 4 * len(page_samples.HOSTILE)
    assert page_samples.HOSTILE[0] in text(driver, ".missed tbody")
    assert "a\\u202egpj.exe\\u2028\\n\\x00\\x1b[31m" in text(driver, ".missed tbody")
    for number in range(len(page_samples.HOSTILE)):
        click(driver, f"#thumbs label:nth-of-type({number + 1}) input")
    click(driver, "#series tbody tr:nth-child(2) input")
    press(driver, "#plot", "ARROW_UP", "ARROW_RIGHT")
    assert driver.execute_script("return window.hacked") is None
    assert driver.execute_script(BREADTH) <= PHONE
    assert console(driver) == []


def test_the_policy_stops_a_script_that_got_in(driver: Any, tmp_path: Path) -> None:
    page = render_page(page_samples.summary())
    spoiled = page.replace("<main>", "<main><script>window.hacked=1</script><img src='http://127.0.0.1:9/x.png'>", 1)
    opened(driver, page_samples.write(spoiled, tmp_path / "spoiled.html"))
    assert driver.execute_script("return window.hacked") is None
    assert sum("violates" in message for message in console(driver)) >= 2


def test_a_page_with_nothing_in_it_opens(driver: Any, tmp_path: Path) -> None:
    bare = page_samples.summary().model_copy(
        update={"curves": (), "bd_rates": (), "recommendation": None, "examples": (), "published": (), "images": 0}
    )
    opened(driver, page_samples.write(render_page(bare), tmp_path / "bare.html"))
    assert console(driver) == []


def test_a_picture_that_cannot_be_decoded_is_named(driver: Any, tmp_path: Path) -> None:
    usual = page_samples.summary()
    broken = usual.model_copy(update={"examples": (usual.examples[0].model_copy(update={"original": "AAAA"}),)})
    driver.get(page_samples.write(render_page(broken), tmp_path / "broken.html"))
    wait_until(driver, "return document.getElementById('pictures-said').textContent.startsWith('This picture cannot be shown')")


def test_it_prints(page: Any) -> None:
    import base64

    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    pages = pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/")
    assert 3 <= pages <= 9
