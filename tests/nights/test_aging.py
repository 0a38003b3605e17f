"""What makes an archive older in the tests of nights."""

import json
import time
from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveLog
from cnnbatch.archive.commits import commit_path, read_commit
from jobs.night.record import RECORD
from tests.archive.rows import CODEC_FILE, shard_of
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


def test_the_digests_of_the_log_fit_afterwards_and_a_damaged_commit_stays_damaged(tmp_path: Path) -> None:
    log = ArchiveLog.create_or_open(str(tmp_path), codec_files=[CODEC_FILE])
    log.commit("run", 0, [shard_of(log, "a")])
    log.commit("run", 1, [shard_of(log, "b")])
    let_a_day_pass(tmp_path)
    assert (log.look().trust.fault, log.look().trust.ours) == (None, 2)
    newest, before = read_commit(log.store, 2), read_commit(log.store, 1)
    assert newest is not None
    assert before is not None
    assert newest.previous == before.sha256
    path = tmp_path / commit_path(2)
    path.write_bytes(path.read_bytes().replace(b'"dataChange": true', b'"dataChange": false'))
    let_a_day_pass(tmp_path)
    assert "is not what was written" in (log.look().trust.fault or "")
