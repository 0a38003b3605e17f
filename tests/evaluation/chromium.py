"""Debian's chromium without a window, driven through its chromedriver."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromedriver")


@contextmanager
def chromium() -> Iterator[Any]:
    """A selenium driver whose console and network events are recorded; skips where Debian's packages are not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    quiet = ("disable-background-networking", "disable-component-update", "no-first-run", "disable-dev-shm-usage")
    for argument in ("headless=new", *quiet, *(["no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def screen(driver: Any, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    """The size in CSS pixels, and the preferred colours."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def opened(driver: Any, url: str) -> None:
    """Opens a page, with what was recorded before thrown away, and waits for its pictures."""
    driver.get("about:blank")
    console(driver)
    requests(driver)
    driver.get(url)
    wait_until(driver, "return !document.getElementById('stage') || document.getElementById('under').width !== 300")


def wait_until(driver: Any, script: str) -> None:
    """Until the script gives something true; TimeoutException after 20 seconds."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, 20, poll_frequency=0.05).until(lambda d: d.execute_script(script))


def console(driver: Any) -> list[str]:
    """Messages on the console since the last call: errors, warnings and violations of the policy.

    But for the advice on canvases that are read often, as only these tests read them.
    """
    messages = (entry["message"] for entry in driver.get_log("browser"))
    return [message for message in messages if "willReadFrequently" not in message]


def requests(driver: Any) -> list[str]:
    """The URLs of the requests since the last call."""
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
