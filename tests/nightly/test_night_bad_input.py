"""Bad input of a night: one clear sentence, the right code, nothing half done, and never a secret repeated."""

import json
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
from cnnbatch.archive.orphans import holders
from cnnbatch.errors import StorageError
from cnnbatch.storage import open_store
from cnnbatch.storage.local import LocalStore
from jobs import engine, nightly
from jobs.night import archive_night
from tests.conftest import Bucket
from tests.jobs.conftest import Jobs, files_below, run_inline
from tests.nightly.conftest import FILES, ORPHAN, Nights, outcomes_of, steps_of
from tests.nights.aging import let_a_day_pass
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
        (f"archives:\n  - source: https://host/x?Expires=1&Signature={SECRET}\n    archive: archive\n", "archives.0.source"),
        (f"archives:\n  - source: https://host/x?sig={SECRET}\n    archive: archive\n", "archives.0.source"),
        (f"archives:\n  - source: https://host/x?X-Goog-Signature={SECRET}\n    archive: archive\n", "archives.0.source"),
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
            gone.rename(nights.folder / "deleted")  # at once: to delete file by file would race with the lease's own
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
    orphan = write_files(nights.folder / "archive", {ORPHAN: b"x"}) / ORPHAN
    os.utime(orphan, (1, 1))
    calls: list[int] = []

    def wall() -> float:
        calls.append(1)
        return time.time() + (jump if len(calls) > 1 else 0)  # the first call is at the beginning of the night

    monkeypatch.setattr(archive_night, "time", SimpleNamespace(time=wall, monotonic=time.monotonic, sleep=time.sleep))
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)["retention"]) == (0, "skipped")
    assert "the clock jumped by" in steps_of(ended)["retention"]["message"]
    assert orphan.exists()


@pytest.mark.parametrize(("apart", "words"), [(-86400, "before the end of"), (9 * 86400, "9 days have passed")])
def test_when_the_clock_jumped_between_two_nights_nothing_is_deleted_by_its_age_once(
    nights: Nights, apart: int, words: str
) -> None:
    nights.source()
    nights.configure()
    assert nights.run().code == 0
    orphan = write_files(nights.folder / "archive", {ORPHAN: b"x"}) / ORPHAN
    os.utime(orphan, (1, 1))
    file = nights.folder / "archive/_cnnbatch/nightly.json"
    record = json.loads(file.read_text())
    assert record["wall_seconds"] == pytest.approx(time.time(), abs=60)
    file.write_text(json.dumps(record | {"wall_seconds": record["wall_seconds"] - apart}))
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)["retention"]) == (0, "skipped")
    assert words in steps_of(ended)["retention"]["message"]
    assert orphan.exists()
    assert outcomes_of(nights.run())["retention"] == "done"  # it is believed from then on
    assert not orphan.exists()


def test_a_record_that_is_no_record_is_a_sentence(nights: Nights) -> None:
    nights.source()
    nights.configure()
    assert nights.run().code == 0
    (nights.folder / "archive/_cnnbatch/nightly.json").write_text("[]")
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)["retention"]) == (1, "skipped")
    assert "nightly.json" in steps_of(ended)["verify"]["message"]


@pytest.mark.parametrize("error", [StorageError("the store is full"), OSError(28, "No space left on device")])
def test_a_report_that_cannot_be_written_makes_the_exit_code_1(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    nights.source()
    nights.configure({}, {}, reports=str(nights.folder / "reports"))
    put = LocalStore.put

    def refuse(self: LocalStore, key: str, data: bytes) -> None:
        if self.url.endswith("reports"):
            raise error
        put(self, key, data)

    monkeypatch.setattr(LocalStore, "put", refuse)
    ended = nights.run()
    assert ended.code == ended.report["exit_code"] == 1
    [fault] = ended.report["unwritten"]
    assert f"{nights.folder / 'reports'}: {error}" in fault
    assert nights.reports()[0]["exit_code"] == 1  # the others say so
    assert [archive["exit_code"] for archive in ended.report["archives"]] == [0, 0]
    page = nights.folder.glob("archive1/_cnnbatch/runs/nightly-*.md")
    assert "**Not written:**" in next(page).read_text()


def test_a_cluster_that_cannot_be_reached_fails_the_steps_that_need_it_and_no_more(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.source()
    nights.configure()
    assert nights.run().code == 0

    calls = []

    def connect() -> None:
        calls.append(1)
        raise Exception("no answer from ray://nowhere")  # Ray raises no other kind when a node does not come up

    monkeypatch.setattr(engine, "connect", connect)
    ended = nights.run("verify.sample_shards=0", "attempts.most=3")
    assert (ended.code, set(outcomes_of(ended).values()), len(calls)) == (0, {"done"}, 3)
    assert ["no answer from ray://nowhere" in warning for warning in ended.report["warnings"]] == [True]
    assert outcomes_of(nights.run())["verify"] == "failed"


@pytest.fixture
def s3_nights(nights: Nights, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nights]:
    """Source and archive in one bucket, credentials in the environment."""
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    store = open_store(f"{bucket.url}/source", bucket.config)
    for key, data in FILES.items():
        store.put(key, data)
    nights.configure({"source": f"{bucket.url}/source", "archive": f"{bucket.url}/archive"})
    yield nights
    for prefix in ("source", "archive"):
        store = open_store(f"{bucket.url}/{prefix}", bucket.config)
        for info in list(store.list()):
            store.delete(info.key)


def test_a_night_works_on_a_bucket(s3_nights: Nights, bucket: Bucket) -> None:
    for verified in (1, 0):
        ended = s3_nights.run()
        assert (ended.code, set(outcomes_of(ended).values())) == (0, {"done"}), steps_of(ended)
        assert steps_of(ended)["verify"]["figures"]["new_shards"] == verified
    assert set(open_archive(f"{bucket.url}/archive", bucket.config).keys()) == FILES.keys()


@pytest.mark.parametrize("missing", [False, True])
def test_wrong_or_missing_keys_of_a_bucket_are_a_sentence_and_code_1(
    s3_nights: Nights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: bool
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    if missing:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    ended = s3_nights.run()
    assert ended.code == 1
    step = steps_of(ended)["lease"]
    assert (step["outcome"], list(outcomes_of(ended))) == ("failed", ["lease"])
    assert "s3://" in step["message"]
    assert "\n" not in step["message"]
    assert SECRET not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_bytes_of_an_erased_image_are_gone_after_the_grace(nights: Nights) -> None:
    nights.source()
    nights.configure()
    assert nights.run().code == 0
    archive, keys = nights.folder / "archive", frozenset({"a/0.png"})
    erase(ArchiveLog.open(str(archive)), keys, run_id="erase-by-hand")
    store = open_store(str(archive))
    assert nights.run().code == 0
    assert len(list(holders(store, keys))) == 1  # within the grace a reader may still use it
    let_a_day_pass(archive)
    let_a_day_pass(archive)
    assert nights.run().code == 0
    assert list(holders(store, keys)) == []
    assert nights.rows().keys() == FILES.keys() - keys


def test_when_the_store_has_another_clock_nothing_is_deleted_by_its_age(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    started = time.time(), time.monotonic()
    assert archive_night.clock_fault(store, *started) is None
    store.put(LEASE_PATH, b"{}")
    assert archive_night.clock_fault(store, *started) is None
    day = time.time() - 86400
    os.utime(tmp_path / LEASE_PATH, (day, day))
    assert "the store's are +86,4" in (archive_night.clock_fault(store, *started) or "")


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
