"""A night that is killed anywhere: the next one goes on, verifies what nobody had verified, and ends with archive = source."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import engine, nightly
from jobs.night.archive_night import ArchiveNight
from tests.jobs.conftest import run_inline
from tests.nightly.conftest import FILES, Nights, steps_of

KILLED = 77
ROOT = Path(__file__).parents[2]
POINTS = ("_record_start", "_compress", "_verify", "_compact", "_retain", "_account", "write")


def die_in(point: str, when: str, file: str) -> None:
    """Runs a night in this process, which ends without a goodbye ``before`` or ``after`` the step."""
    step = getattr(ArchiveNight, point)

    def deadly(self: ArchiveNight, *arguments: object) -> object:
        if when == "before":
            os._exit(KILLED)
        step(self, *arguments)
        os._exit(KILLED)

    setattr(ArchiveNight, point, deadly)
    engine.connect = lambda: None  # type: ignore[assignment]
    engine.size_pool = lambda workers: engine.Pool(2, 2, 2, 0, 0, ())  # type: ignore[assignment]
    engine.run = run_inline  # type: ignore[assignment]
    nightly.main([file])


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_night_killed_at_any_step_is_finished_by_the_next(nights: Nights, point: str, when: str) -> None:
    nights.source()
    check_killed(nights, "archive", point, when)


@pytest.mark.usefixtures("inline")
def test_what_a_killed_night_committed_is_verified_by_the_next(nights: Nights) -> None:
    nights.source()
    ended = check_killed(nights, "archive", "_compress", "after")
    assert ended["diff"]["figures"]["unchanged"] == len(FILES)
    assert ended["verify"]["figures"]["new_shards"] == 1


def check_killed(nights: Nights, archive: str, point: str, when: str) -> dict[str, dict[str, object]]:
    nights.configure({"archive": str(nights.folder / archive)}, verify={"sample_shards": 0})
    program = f"from tests.nightly.test_night_kill import die_in; die_in({point!r}, {when!r}, {str(nights.file)!r})"
    died = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert died.returncode == KILLED, died.stderr
    ended = nights.run()
    assert ended.code == 0, steps_of(ended)
    assert nights.rows(archive).keys() == FILES.keys()
    assert not (nights.folder / archive / "_cnnbatch/lease.json").exists()
    steps = steps_of(ended)
    verified = point in {"_compact", "_retain", "_account", "write"} or (point, when) == ("_verify", "after")
    assert steps["verify"]["figures"]["new_shards"] == int(not verified)
    return steps
