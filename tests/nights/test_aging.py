"""What makes an archive older in the tests of nights."""

import json
import time
from pathlib import Path

import pytest

from jobs.night.record import RECORD
from tests.nights.aging import DAY, let_a_day_pass
from tests.stages.pictures import write_files


def test_files_and_the_moments_in_them_become_a_day_older_each_time(tmp_path: Path) -> None:
    now = time.time()
    entries = {"add": {"modificationTime": int(now * 1000), "size": 7}}
    files = {
        "_delta_log/0.json": json.dumps(entries).encode(),
        RECORD: json.dumps({"wall_seconds": now}).encode(),
        "data/x": b"x",
    }
    write_files(tmp_path, files)
    for _ in range(3):
        let_a_day_pass(tmp_path)
    for name in files:
        assert (tmp_path / name).stat().st_mtime == pytest.approx(now - 3 * DAY, abs=60), name
    action = json.loads((tmp_path / "_delta_log/0.json").read_text())["add"]
    assert action == {"modificationTime": int(now * 1000) - 3000 * DAY, "size": 7}
    assert json.loads((tmp_path / RECORD).read_text())["wall_seconds"] == pytest.approx(now - 3 * DAY)
