"""Mirador and Universal Viewer, as they are published, open an archive from a page elsewhere; fetched for the test by npm."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.chromium import chromium, console, requests, screen
from tests.serve.served import Running, photograph

pytestmark = pytest.mark.chromium

PACKAGES = ("mirador@4.0.0", "universalviewer@4.4.0")
FETCH_SECONDS = 240
VIEWERS = {"mirador": "mirador.html?", "universalviewer": "universalviewer/dist/uv.html#?manifest="}
MIRADOR = """<!DOCTYPE html><meta charset="utf-8"><style>html, body, #viewer { height: 100%; margin: 0 }</style>
<div id="viewer"></div><script src="mirador/dist/mirador.min.js"></script>
<script>Mirador.viewer({ id: "viewer", windows: [{ manifestId: decodeURIComponent(location.search.slice(1)) }] })</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def elsewhere(folder: Path) -> Iterator[str]:
    """The address of a server of files that has nothing to do with ours."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def viewers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of both viewers; skips where npm is not here or does not get them."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here: apt-get install npm")
    folder = tmp_path_factory.mktemp("viewers")
    try:
        subprocess.run(
            ["npm", "pack", "--silent", *PACKAGES], cwd=folder, check=True, capture_output=True, timeout=FETCH_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm does not get {', '.join(PACKAGES)}: {error}")
    for package in PACKAGES:
        name, _, version = package.partition("@")
        shutil.unpack_archive(folder / f"{name}-{version}.tgz", folder / "unpacked", "gztar", filter="data")
        (folder / "unpacked/package").rename(folder / name)
    (folder / "mirador.html").write_text(MIRADOR)
    with elsewhere(folder) as address:
        yield address


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


def shows_the_photograph(path: Path) -> bool:
    """Whether the middle of a screenshot has the colours of the first picture: neither blank nor an error."""
    shot = np.asarray(Image.open(path).convert("RGB")).astype(float)
    height, width, _ = shot.shape
    middle = shot[height // 3 : -height // 3, width // 3 : -width // 3].reshape(-1, 3)
    expected = photograph().reshape(-1, 3).astype(float)
    return bool(np.abs(middle.std(0) - expected.std(0)).max() < 30 and np.abs(middle.mean(0) - expected.mean(0)).max() < 40)


@pytest.mark.parametrize("viewer", VIEWERS)
def test_a_viewer_from_elsewhere_opens_an_archive(
    driver: Any, server: Running, viewers: str, viewer: str, tmp_path: Path
) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    screen(driver, width=1280, height=900)
    driver.get("about:blank")
    console(driver)
    requests(driver)
    driver.get(f"{viewers}{VIEWERS[viewer]}{quote(f'{server.url}/presentation/photos//1/manifest.json', safe='')}")
    asked: list[str] = []

    def is_shown(driver: Any) -> bool:
        asked.extend(requests(driver))
        driver.save_screenshot(str(tmp_path / "shot.png"))
        return shows_the_photograph(tmp_path / "shot.png")

    WebDriverWait(driver, 90, poll_frequency=0.5).until(is_shown)
    key = quote("2024/summer/photo.png", safe="")

    def asked_for_it(driver: Any) -> bool:  # the browser's log may lag behind its window
        asked.extend(requests(driver))
        return any(f"/iiif/photos/{key}/" in url and url.endswith("default.jpg") for url in asked)

    WebDriverWait(driver, 10).until(asked_for_it)
    assert f"{server.url}/iiif/photos/{key}/info.json" in asked
    assert "photo.png" in driver.execute_script("return document.documentElement.textContent")
    assert [line for line in console(driver) if server.url in line and "422" not in line] == []
