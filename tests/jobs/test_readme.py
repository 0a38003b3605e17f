"""README's Python and its commands, and those of `make demo`, run as they stand there, on two small pictures."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cnnbatch.cli import main
from tests.jobs.conftest import Jobs, files_below
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEMO = re.findall(r"^\t\$\(BIN\)/(.*\$\(DEMO\).*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
PHOTOS = {"2024/a.jpg": as_file(waves(64, 96), "jpeg", quality=97), "b.png": as_file(waves(48, 48, seed=1))}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / ".demo/photos", PHOTOS)
    return tmp_path


def run(jobs: Jobs, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "cnnbatch":
        assert main(words[1:]) == 0, line
    else:
        assert words[:2] == ["python", "-m"]
        ended = getattr(jobs, words[2].removeprefix("jobs."))(*words[3:])
        assert ended.code == 0, ended.stderr


def test_the_commands_of_readme_give_pictures_back(jobs: Jobs, photos: Path) -> None:
    lines = re.findall(r"^\$ (.*)$", README, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        run(jobs, line)
    assert list(files_below(photos / ".demo/back")) == sorted(PHOTOS)


def test_the_commands_of_the_demo_give_pictures_back(jobs: Jobs, photos: Path) -> None:
    lines = [line.replace("$(DEMO)", ".demo") for line in DEMO if "benchmarks." not in line]
    assert len(lines) == 4
    for line in lines:
        run(jobs, line)
    assert list(files_below(photos / ".demo/back")) == sorted(PHOTOS)


def test_the_python_of_readme_runs(jobs: Jobs, photos: Path) -> None:
    assert jobs.compress(".demo/photos", "archive").code == 0
    [code] = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert "s3://bucket/archive" in code
    names: dict[str, Any] = {"images": [waves(40, 70), waves(33, 20, gray=True)]}
    exec(code.replace("s3://bucket/archive", str(photos / "archive")), names)
    assert [image.shape for image in names["images"]] == [(40, 70, 3), (33, 20)]
