"""A full disk, a read-only one, a source that changes under our eyes: a sentence, and the same command finishes the work."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cnnbatch.errors import Unreadable
from cnnbatch.storage import open_store
from tests.faults.conftest import PICTURES
from tests.stages.pictures import write_files

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount() -> bool:
    """Whether this process may have file systems of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = [*UNSHARE, "sh", "-c", "mount -t tmpfs -o size=4k tmpfs /mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


Outcomes = dict[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What each run of each scenario ended with: exit code and last line."""
    if not may_mount():
        pytest.skip("needs a mount namespace (unshare), to have a small disk")
    folder = tmp_path_factory.mktemp("contained")
    write_files(folder / "source", PICTURES)
    words = [*UNSHARE, sys.executable, "-m", "tests.faults.contained", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found: Outcomes = json.loads(done.stdout)
    return found


def test_a_full_disk_ends_the_run_in_a_sentence_and_the_next_run_finishes(outcomes: Outcomes) -> None:
    full = {name: runs for name, runs in outcomes.items() if name.startswith(("full at", "no inodes"))}
    assert len(full) > 3
    for name, ((code, last), *then) in full.items():
        assert (code, last[:7]) == (1, "error: "), (name, last)
        assert "No space left on device" in last, (name, last)
        assert [code for code, _ in then] == [0, 0], (name, then)


def test_a_disk_that_becomes_read_only_ends_the_run_in_a_sentence_and_the_next_run_finishes(outcomes: Outcomes) -> None:
    in_the_middle, from_the_start, *then = outcomes["read-only"]
    assert in_the_middle[0] == from_the_start[0] == 1
    assert "Read-only file system" in in_the_middle[1]
    assert "is not a writable folder" in from_the_start[1]
    assert [code for code, _ in then] == [0, 0]


def test_a_full_destination_is_finished_by_the_next_run(outcomes: Outcomes) -> None:
    compressed, failed, repeated = outcomes["full destination"]
    assert [compressed[0], failed[0], repeated[0]] == [0, 1, 0]
    assert "No space left on device" in failed[1]


def test_a_file_that_is_written_while_it_is_read_is_whole_or_refused(tmp_path: Path) -> None:
    path, size = tmp_path / "a", 1 << 22
    path.write_bytes(bytes(size))
    store, stop = open_store(str(tmp_path)), threading.Event()

    def write() -> None:
        version = 0
        while not stop.wait(0.02):  # longer than a tick of the clock that stamps files
            version = (version + 1) % 256
            with path.open("r+b") as file:
                file.write(bytes([version]) * size)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            [info] = store.list()
            if stop.wait(0.005):
                break
            [(_, data)] = store.get_many([info], max_bytes=size, concurrency=1)
            if isinstance(data, Unreadable):
                assert data.reason == "changed"
            else:
                assert data == data[:1] * size
    finally:
        stop.set()
        writer.join()
