"""The documentation builds as a site with sound links, and its reference has what the code has."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert (built.returncode, built.stderr, built.stdout) == (0, "", "")
    return folder


def text(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_the_reference_has_every_command_and_its_options(site: Path) -> None:
    page = text(site / "reference/cli/index.html")
    for name in ("compress", "reconstruct", "evaluate", "train", "nightly", "verify", "classify predict", "info", "ls", "get"):
        assert f"cnnbatch {name}" in page
    assert "--target-ssimulacra2" in page
    assert "--where" in page


def test_the_reference_has_the_public_names_and_the_settings(site: Path) -> None:
    names = ["Archive", "Picture", "Codec", "ArchiveDataset", "read_archive", "StorageError", "reconstruct_region", "locate"]
    page = text(site / "reference/api/index.html")
    assert [name for name in names if name not in page] == []
    settings = text(site / "reference/settings/index.html")
    names = [
        "target_ssimulacra2",
        "memory_bytes",
        "lapse_seconds",
        "label",
        "effort",
        "cooldown_share",
        "synthesis_blocks",
    ]
    assert [name for name in names if name not in settings] == []


def test_nothing_is_loaded_from_outside(site: Path) -> None:
    source = re.compile(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//')
    style = re.compile(r'<link[^>]* rel="(?:stylesheet|preload|preconnect)"[^>]* href="(?:https?:)?//')
    pages = {str(page): page.read_text() for page in site.rglob("*.html")}
    assert [page for page, code in pages.items() if source.search(code) or style.search(code)] == []


def test_every_page_has_its_place_in_the_navigation() -> None:
    placed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert placed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
