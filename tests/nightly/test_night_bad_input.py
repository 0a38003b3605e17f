"""Bad input of a night: one clear sentence, the right code, nothing half done, and never a secret repeated."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cnnbatch.archive import ArchiveLog, open_archive
from cnnbatch.archive.lease import LEASE_PATH
from cnnbatch.archive.maintenance import erase
from cnnbatch.storage import open_store
from jobs import engine, nightly
from jobs.night import steps
from tests.jobs.conftest import Jobs, files_below, run_inline
from tests.nightly.conftest import FILES, Nights, outcomes_of, steps_of
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")

SECRET = "hunter2-never-to-be-printed"
ENTRY = "archives:\n  - source: source\n    archive: archive\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (ENTRY + "colour: red\n", "colour"),
        (ENTRY + "    compresion: {quality: 3}\n", "archives.0.compresion"),
        (ENTRY + "    compression: {quality: 99}\n", "archives.0.compression.quality"),
        (ENTRY + "verify: {level: source}\n", "verify.level"),
        (ENTRY + "retention: {grace_hours: 0}\n", "retention.grace_hours"),
        (ENTRY + "fallback: {selector: {}}\n", "fallback.selector"),
        (ENTRY + "webhook_variable: not a name\n", "webhook_variable"),
        ("archives: []\n", "archives"),
        ("verify: {seed: 3}\n", "archives"),
        ("- 1\n", "mapping"),
        ("archives: [\n", "line 2"),
        (ENTRY + "  - source: other\n    archive: archive/deep\n", "overlap"),
        (ENTRY + "  - source: archive/x\n    archive: other\n", "inside"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"source/a.txt": b"a", "nightly.yaml": text.encode()})
    before = files_below(tmp_path)
    ended = jobs._call(nightly.main, ["nightly.yaml"])
    assert (ended.code, ended.stdout) == (2, "")
    [line] = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert word in line
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (ENTRY + f"storage: {{secret_access_key: {SECRET}, access_key_id: x}}\n", "storage.secret_access_key"),
        (ENTRY + f"    storage: {{session_token: {SECRET}}}\n", "archives.0.storage.session_token"),
        (ENTRY + f"password: {SECRET}\n", "password"),
        (ENTRY + f"webhook_variable: https://hooks.slack.com/services/{SECRET}\n", "webhook_variable"),
        (ENTRY + f"webhook_variable: {SECRET}\n", "webhook_variable"),
        (ENTRY + f"reports: sftp://user:{SECRET}@host/x\n", "reports"),
        (f"archives:\n  - source: s3://key:{SECRET}@bucket/x\n    archive: archive\n", "archives.0.source"),
        (ENTRY + "reports: 'AKIAIOSFODNN7EXAMPLE'\n", "reports"),
        (ENTRY + f"webhook: {{url: [{SECRET}\n", "line"),
    ],
)
def test_a_secret_in_the_file_is_refused_without_being_repeated(jobs: Jobs, tmp_path: Path, text: str, word: str) -> None:
    write_files(tmp_path, {"nightly.yaml": text.encode()})
    ended = jobs._call(nightly.main, [tmp_path / "nightly.yaml"])
    assert (ended.code, ended.stdout) == (2, "")
    assert word in ended.stderr
    assert SECRET not in ended.stderr
    assert "AKIA" not in ended.stderr


def test_a_secret_on_the_command_line_is_refused_without_being_repeated(jobs: Jobs, tmp_path: Path) -> None:
    write_files(tmp_path, {"nightly.yaml": ENTRY.encode()})
    ended = jobs._call(nightly.main, [tmp_path / "nightly.yaml", f"storage.secret_access_key={SECRET}"])
    assert (ended.code, SECRET in ended.stderr) == (2, False)
    assert "storage.secret_access_key" in ended.stderr


@pytest.mark.parametrize("value", [None, "", "no url", "ftp://x/y"])
def test_a_missing_secret_is_a_sentence_before_anything_is_done(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    nights.source()
    nights.configure(webhook_variable="NIGHT_TEST_WEBHOOK")
    if value is not None:
        monkeypatch.setenv("NIGHT_TEST_WEBHOOK", value)
    ended = nights.run()
    assert (ended.code, ended.stdout) == (2, "")
    assert "NIGHT_TEST_WEBHOOK" in ended.stderr
    assert not (nights.folder / "archive").exists()


def test_a_file_that_is_not_there_is_a_sentence(jobs: Jobs, tmp_path: Path) -> None:
    ended = jobs._call(nightly.main, [tmp_path / "nowhere.yaml"])
    assert ended.code == 2
    assert "nowhere.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_images_erased_while_the_night_runs_stay_out(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.configure()
    nights.source(files={"old.png": as_file(waves(24, 24, seed=8))})
    assert nights.run().code == 0
    nights.source()
    log = ArchiveLog.open(str(nights.folder / "archive"))

    def run(tasks: object, build: object, pool: engine.Pool) -> Iterator[object]:
        results = list(run_inline(tasks, build, pool))  # type: ignore[arg-type]
        if (nights.folder / "archive/_cnnbatch/erased").exists() is False:
            erase(log, ["a/0.png", "old.png"], run_id="erase-by-hand")
        yield from results

    monkeypatch.setattr(engine, "run", run)
    ended = nights.run("attempts.most=2")
    assert ended.code == 0, steps_of(ended)
    assert nights.rows().keys() == FILES.keys() - {"a/0.png"}
    assert nights.run().code == 0
    assert nights.rows().keys() == FILES.keys() - {"a/0.png"}


def test_an_archive_that_is_deleted_under_the_night_is_a_sentence_and_the_others_are_done(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.source()
    nights.configure({}, {})
    gone = nights.folder / "archive"
    calls = []

    def run(tasks: object, build: object, pool: engine.Pool) -> Iterator[object]:
        calls.append(1)
        if len(calls) == 1:
            yield from run_inline(tasks, build, pool)  # type: ignore[arg-type]
            shutil.rmtree(gone)
        else:
            yield from run_inline(tasks, build, pool)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "run", run)
    ended = nights.run()
    assert [archive["exit_code"] != 0 for archive in ended.report["archives"]] == [True, False]
    assert str(gone) in steps_of(ended)["compress"]["message"]
    assert "Traceback" not in ended.stdout
    assert nights.rows("archive1").keys() == FILES.keys()


@pytest.mark.parametrize("jump", [86400 * 3, -86400 * 3])
def test_when_the_clock_jumps_nothing_is_deleted_by_its_age(nights: Nights, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    nights.source()
    nights.configure()
    assert nights.run().code == 0
    orphan = write_files(nights.folder / "archive", {"data/orphan.parquet": b"x"}) / "data/orphan.parquet"
    os.utime(orphan, (1, 1))
    calls: list[int] = []

    def wall() -> float:
        calls.append(1)
        return time.time() + (jump if len(calls) > 1 else 0)  # the first call is at the beginning of the night

    monkeypatch.setattr(steps, "time", SimpleNamespace(time=wall, monotonic=time.monotonic, sleep=time.sleep))
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)["retention"]) == (0, "skipped")
    assert "the clock jumped by" in steps_of(ended)["retention"]["message"]
    assert orphan.exists()


def test_when_the_store_has_another_clock_nothing_is_deleted_by_its_age(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    started = time.time(), time.monotonic()
    assert steps.clock_fault(store, *started) is None
    store.put(LEASE_PATH, b"{}")
    assert steps.clock_fault(store, *started) is None
    day = time.time() - 86400
    os.utime(tmp_path / LEASE_PATH, (day, day))
    assert "the store's are +86,4" in (steps.clock_fault(store, *started) or "")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_is_a_sentence_and_the_next_night_finishes(nights: Nights, small_disk: Path) -> None:
    nights.source()
    nights.configure({"archive": str(small_disk / "archive")}, {})
    assert nights.run().code == 0
    before = open_archive(str(small_disk / "archive")).snapshot
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        file.write(b"x" * (shutil.disk_usage(small_disk).free - 40960))
    large = {f"{i}.bin": os.urandom(20000) for i in range(10)}  # stored as they are
    write_files(nights.folder / "source", large)
    ended = nights.run()
    assert [archive["exit_code"] for archive in ended.report["archives"]] == [1, 0]
    assert "No space left on device" in steps_of(ended)["compress"]["message"]
    assert "Traceback" not in ended.stdout
    assert open_archive(str(small_disk / "archive")).snapshot == before
    ballast.unlink()
    assert nights.run().code == 0
    keys = set(open_archive(str(small_disk / "archive")).keys())
    assert keys == FILES.keys() | large.keys() == set(nights.rows("archive1"))
