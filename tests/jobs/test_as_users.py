"""The jobs as users run them: ``python -m jobs.…`` in a process of its own, which others may end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveRow, open_archive
from tests.jobs.conftest import Jobs
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.timeout(1200)  # a Ray of its own may have to be started three times on a crowded machine
CODEC = Path(__file__).parents[1] / "golden" / "codec.safetensors"
MODULES = sorted(
    path.stem for path in (Path(__file__).parents[2] / "jobs").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
)
ONE_WORKER = ("workers.cpus=1", "workers.most=1")
WAIT_SECONDS = 500.0

INSPECTED = """
import runpy, sys
from ray import cloudpickle
from jobs import engine

def run(tasks, build, pool):
    sys.exit(f"of __main__: {build}" if b"__main__" in cloudpickle.dumps(build) else 7)

engine.connect, engine.size_pool, engine.run = lambda: None, lambda workers: engine.Pool(1, 1, 1, 0, 0, ()), run
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def picture_files(number: int) -> dict[str, bytes]:
    return {f"{index:02}.png": as_file(waves(160, 200, seed=index)) for index in range(number)}


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command; what is left of it at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def command(*words: object) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(list(map(str, words)), stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return started[-1]

    yield command
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def job(start: Start) -> Start:
    return partial(start, sys.executable, "-m")


def wait_until(process: "subprocess.Popen[str]", is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def rows_of(archive: Path) -> list[ArchiveRow]:
    return [row for row in open_archive(str(archive)).rows() if isinstance(row, ArchiveRow)]


@pytest.fixture
def archive(jobs: Jobs, tmp_path: Path, inline: None) -> Path:
    source = write_files(tmp_path / "source", {"a.png": as_file(waves(48, 64)), "b.png": as_file(waves(64, 48))})
    assert jobs.compress(source, tmp_path / "archive", "--codec", CODEC).code == 0
    return tmp_path / "archive"


def test_what_travels_to_the_workers_is_of_modules_that_a_child_of_theirs_can_import(
    archive: Path, tmp_path: Path, start: Start
) -> None:
    source, labels = write_files(tmp_path / "more", {"c.png": as_file(waves(48, 64))}), tmp_path / "labels.csv"
    labels.write_text("key,label\na.png,1\nb.png,2\n")
    commands = [
        ("jobs.compress", source, tmp_path / "new", "--codec", CODEC),
        ("jobs.reconstruct", archive, tmp_path / "back"),
        ("jobs.verify", archive),
        ("jobs.classify", "train", archive, labels, tmp_path / "head.safetensors"),
    ]
    running = [start(sys.executable, "-c", INSPECTED, *words) for words in commands]
    for words, process in zip(commands, running, strict=True):
        _, stderr = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 7, (words[0], stderr)


@pytest.mark.parametrize("name", MODULES)
def test_each_job_runs_under_its_own_name(name: str) -> None:
    text = (Path(__file__).parents[2] / "jobs" / f"{name}.py").read_text()
    assert text.endswith(f'if __name__ == "__main__":\n    sys.exit(run_as_module("jobs.{name}"))\n')


def test_a_shard_whose_worker_was_killed_twice_is_taken_input_by_input(tmp_path: Path, job: Start) -> None:
    source, archive = write_files(tmp_path / "source", picture_files(30)), tmp_path / "archive"
    run = job("jobs.compress", source, archive, "--codec", CODEC, *ONE_WORKER, "--json")
    for kills in range(2):
        wait_until(run, lambda kills=kills: marks_of_attempts(archive) > kills)  # type: ignore[misc]
        for process in workers_of(run.pid):
            os.kill(process, signal.SIGKILL)
    stdout, stderr = run.communicate(timeout=WAIT_SECONDS)
    assert run.returncode == 0, stderr
    assert json.loads(stdout)["tally"]["images"] == {"cnn": 30}
    assert len(rows_of(archive)) == 30


def marks_of_attempts(archive: Path) -> int:
    return len([mark for mark in archive.glob("_cnnbatch/runs/*/attempts/0/*") if not mark.name.startswith(".")])


def workers_of(driver: int) -> Iterator[int]:
    """The actors of a job's own Ray."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # gone meanwhile
            continue
    for process in parents:
        above = process
        while (above := parents.get(above, 0)) not in (0, driver):
            pass
        if above == driver and b"MapWorker" in Path(f"/proc/{process}/cmdline").read_bytes():
            yield process


def test_sigterm_commits_what_is_done_and_lets_the_lease_go(tmp_path: Path, job: Start) -> None:
    source, archive = write_files(tmp_path / "source", picture_files(40)), tmp_path / "archive"
    words = (source, archive, "--codec", CODEC, *ONE_WORKER, "shards.images=1", "shards.commit_every=3", "--json")
    run = job("jobs.compress", *words)
    wait_until(run, lambda: (archive / "_delta_log/00000000000000000001.json").exists())
    run.send_signal(signal.SIGTERM)
    stdout, stderr = run.communicate(timeout=WAIT_SECONDS)
    assert (run.returncode, "ended by SIGTERM: what was committed stays" in stderr) == (143, True), stderr
    assert "Traceback" not in stderr
    report = json.loads(stdout)
    assert (report["exit_code"], report["error"]) == (143, "ended by SIGTERM")
    assert 1 <= len(rows_of(archive)) < 40
    assert not (archive / "_cnnbatch/lease.json").exists()
    assert json.loads((archive / f"_cnnbatch/runs/{report['run_id']}.json").read_text()) == report


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 1)])
def test_a_signal_ends_any_job_in_one_sentence(name: str, code: int, job: Start) -> None:
    run = job("jobs.drain", "--address", "127.0.0.1:9", "--metadata", "http://127.0.0.1:9")
    assert run.stderr is not None
    assert "could not be read" in run.stderr.readline()
    run.send_signal(signal.Signals[name])
    _, stderr = run.communicate(timeout=WAIT_SECONDS)
    assert (run.returncode, stderr.splitlines()[-1].partition(":")[0]) == (
        code,
        "interrupted" if code == 1 else f"ended by {name}",
    )
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_job_under_nohup_goes_on_without_its_terminal(start: Start) -> None:
    words = ("jobs.drain", "--address", "127.0.0.1:9", "--metadata", "http://127.0.0.1:9", "--poll", "0.3")
    run = start("nohup", sys.executable, "-m", *words)
    assert run.stderr is not None
    while "could not be read" not in run.stderr.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGHUP)
    assert "there is nothing to watch" in run.communicate(timeout=WAIT_SECONDS)[1]
    assert run.returncode == 1
