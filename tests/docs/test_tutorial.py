"""Every command of the tutorial, run as its reader types it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnnbatch.codec.geometry import Pixels
from cnnbatch.images import decode
from tests.stages.pictures import as_file, waves

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"
COMMANDS = [line.removeprefix("$ ") for line in TUTORIAL.read_text().splitlines() if line.startswith("$ ")]


def pixels(file: Path) -> Pixels:
    return decode(file.read_bytes(), max_pixels=1_000_000).pixels


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, subprocess.CompletedProcess[str]]]:
    """The folder that the commands ran in, one after the other, and what each printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "photos").mkdir()
    (folder / "photos/rocket.jpg").write_bytes(as_file(waves(160, 240), "jpeg"))
    (folder / "photos/moon.png").write_bytes(as_file(waves(120, 80, seed=1), "png"))
    (folder / "photos/notes.txt").write_text("no picture")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    found = {}
    for number, command in enumerate(COMMANDS):
        found[f"{number} {command}"] = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
    return folder, found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_works(ended: tuple[Path, dict[str, subprocess.CompletedProcess[str]]]) -> None:
    folder, found = ended
    assert len(found) >= 9
    assert {command: done.stderr for command, done in found.items() if done.returncode} == {}
    assert not [done.stderr for done in found.values() if "RAY_" in done.stderr]
    [listed] = [done.stdout for command, done in found.items() if "--where" in command]
    assert listed.split() == ["notes.txt"]
    assert [pixels(folder / name).shape for name in ("rocket.png", "preview.jpg")] == [(160, 240, 3), (20, 30, 3)]
    again = [done.stdout for command, done in found.items() if "compress" in command][1]
    assert re.search(r"4 inputs, 3 unchanged", again)
    back = {path.name for path in (folder / "back").iterdir()}
    assert back == {"rocket.jpg", "rocket-2.jpg", "moon.png", "notes.txt"}
    assert pixels(folder / "back/rocket.jpg").shape == (160, 240, 3)
    [code] = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.S)
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "(160, 240, 3)" in ran.stdout
