"""A run may die at any step, and runs may race: the rerun ends with exactly the source's rows."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnnbatch.archive import ArchiveRow, open_archive
from cnnbatch.errors import ArchiveError
from cnnbatch.storage import StorageConfig
from tests.archive import small_job

ROOT = Path(__file__).parents[2]


def start(url: str, run_id: str, *step: int, environment: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.archive.small_job", url, run_id, *map(str, step)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | (environment or {}))


def check_after_a_kill(url: str, config: StorageConfig | None) -> None:
    """What was committed opens at once, in whole shards; a rerun ends with exactly the source's rows."""
    try:
        assert len(open_archive(url, config)) % small_job.KEYS_PER_SHARD == 0
    except ArchiveError as error:
        assert "there is no cnnbatch archive" in str(error) or "creation did not finish" in str(error)  # noqa: PT017
    small_job.run(url, "rerun", config)
    rows = list(open_archive(url, config).rows())
    assert [row.key for row in rows if isinstance(row, ArchiveRow)] == small_job.KEYS


def kill_at_steps(make_url: Any, steps: range, **child: Any) -> list[str]:
    """Run and kill at each step until a run gets through; returns the URLs of the killed ones."""
    killed = []
    for step in steps:
        url = make_url(step)
        if start(url, "killed", step, **child).wait(timeout=60) == 0:
            break
        killed.append(url)
    return killed


def test_a_kill_at_every_step_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    killed = kill_at_steps(lambda step: str(tmp_path / f"archive-{step}"), range(100))
    assert len(killed) > 20
    for url in killed:
        check_after_a_kill(url, None)


def test_a_kill_loses_and_duplicates_nothing_on_s3(bucket: Any) -> None:
    environment = bucket.server.environment()
    killed = kill_at_steps(lambda step: f"{bucket.url}/archive-{step}", range(1, 24, 4), environment=environment)
    assert len(killed) > 4
    for url in killed:
        check_after_a_kill(url, bucket.config)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_racing_runs_end_with_each_key_once(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bucket = request.getfixturevalue("bucket") if place == "s3" else None
    url, config = (f"{bucket.url}/archive", bucket.config) if bucket else (str(tmp_path / "archive"), None)
    environment = bucket.server.environment() if bucket else None
    runs = [start(url, f"run-{number}", environment=environment) for number in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert list(open_archive(url, config).keys()) == small_job.KEYS
