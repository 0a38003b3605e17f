"""The example folder, run as its reader runs it."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_training_from_an_archive_of_tars(archive: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "webdataset_to_pytorch.py"), str(archive), "--epochs", "2", "--classes", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [line.split(":")[0] for line in ended.stdout.splitlines()] == ["epoch 0", "epoch 1"]


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "first_look.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    file = tmp_path / "notebook.py"
    file.write_text(code)
    ended = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("quality") == 3
    assert "effort 1" in ended.stdout
