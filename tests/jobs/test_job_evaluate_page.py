"""The page that `jobs.evaluate` itself leaves, in a real browser: on a desk, on a phone, and in the dark."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.chromium import chromium, console, opened, requests, screen
from tests.jobs.conftest import Ended, files_below
from tests.jobs.test_job_evaluate import FEW, Evaluations, jobs, one_by_one, source

__all__ = ["jobs", "one_by_one", "source"]

SCREENS = {"desk": (1280, 900, False), "phone": (360, 740, False), "dark": (1280, 900, True)}


@pytest.mark.chromium
@pytest.mark.usefixtures("one_by_one")
def test_the_page_of_a_run_is_whole_on_every_screen(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    with chromium() as driver:
        ended: Ended = jobs.evaluate(source, "--out", tmp_path / "out", "--target-psnr", 34, *FEW)
        assert ended.code == 0, ended.stderr
        assert "report.html" in files_below(tmp_path / "out")
        url = (tmp_path / "out/report.html").as_uri()
        for name, (width, height, dark) in SCREENS.items():
            screen(driver, width=width, height=height, dark=dark)
            opened(driver, url)
            assert console(driver) == [], name
            assert [request for request in requests(driver) if not request.startswith("data:")] == [url], name
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width, name
            data = driver.get_screenshot_as_png()
            (tmp_path / f"{name}.png").write_bytes(data)
            with Image.open(io.BytesIO(data)) as shot:
                light = shot.convert("L").resize((1, 1)).getpixel((0, 0))
            assert (light < 128) == dark, name


@pytest.mark.usefixtures("one_by_one")
def test_a_source_measured_whole_has_no_interval_on_the_page(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    assert jobs.evaluate(source, "--out", tmp_path / "out", "--codecs", "cnn", "--examples", 0).code == 0
    assert "% confidence" not in (tmp_path / "out/report.html").read_text()
