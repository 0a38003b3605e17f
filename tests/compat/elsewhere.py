"""Reads a copy of an archive in a process without a network, which has nothing else."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
NO_NETWORK = ("unshare", "--user", "--map-root-user", "--net")


@cache
def without_network() -> tuple[str, ...]:
    """A prefix that takes the network away from a command, where this machine permits it."""
    permitted = (
        shutil.which("unshare") and not subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False).returncode
    )
    return NO_NETWORK if permitted else ()


def read_elsewhere(archive: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `tests.compat.reading` found, and the pixels by key; ``folder`` is empty."""
    shutil.copytree(archive, folder / "copy")
    command = [*without_network(), sys.executable, "-m", "tests.compat.reading", folder / "copy", folder / "out.json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment | {"HOME": str(folder)}, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stderr
    with np.load(folder / "out.npz") as pixels:
        return json.loads((folder / "out.json").read_text()), dict(pixels)
