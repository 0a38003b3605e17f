"""What a compress run does to an archive, with the workers inline; `test_job_ray.py` runs the same on Ray."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cnnbatch import cli
from cnnbatch.archive import ArchiveLog, ArchiveRow, Lease, open_archive
from cnnbatch.archive.restore import removed_rows
from cnnbatch.errors import CodecFileError, StorageError, UsageError
from cnnbatch.storage import ObjectInfo, StorageConfig, open_store
from cnnbatch.storage.local import LocalStore
from jobs import compress, engine
from jobs.configuration import resolve
from jobs.settings import CompressConfig
from tests.archive.counting import CountingRelay
from tests.conftest import Bucket
from tests.jobs.conftest import Ended, Jobs, files_below, run_inline
from tests.seaweedfs import SECRET_KEY
from tests.stages.pictures import as_file, touch_later, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")

FILES = {f"{folder}/{i}.png": as_file(waves(24, 32, seed=i)) for folder in "ab" for i in range(3)} | {"c.txt": b"no picture"}
QUICK_LEASE = ("lease.wait_seconds=0.2", "lease.poll_seconds=0.05")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source", FILES)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def rows_of(archive: object) -> dict[str, ArchiveRow]:
    rows = [row for row in open_archive(str(archive)).rows() if isinstance(row, ArchiveRow)]
    assert len(rows) == len(open_archive(str(archive))) == len({row.key for row in rows})
    return {row.key: row for row in rows}


def check_counts(ended: Ended) -> None:
    """The report adds up: every input is unchanged or has one outcome."""
    report = ended.report
    assert report["complete"]
    assert report["inputs"] == report["unchanged"] + sum(report["tally"]["images"].values())
    assert report["exit_code"] == ended.code


def test_a_run_brings_every_input_and_reports_it(jobs: Jobs, source: Path, archive: Path) -> None:
    ended = jobs.compress(source, archive, "--json")
    assert (ended.code, ended.outcomes) == (0, {"cnn": 6, "store": 1})
    check_counts(ended)
    assert sorted(rows_of(archive)) == sorted(FILES)
    left = archive / "_cnnbatch" / "runs" / f"{ended.report['run_id']}.json"
    assert json.loads(left.read_text()) == ended.report
    assert (ended.report["new"], ended.report["commits"], ended.report["failures"]) == (7, 1, [])


def test_without_json_a_person_reads_what_happened(jobs: Jobs, source: Path, archive: Path) -> None:
    ended = jobs.compress(source, archive)
    assert "7 inputs, 0 unchanged, 6 cnn, 1 store" in ended.stdout
    assert "ratio" in ended.stdout
    assert "nothing new" in jobs.compress(source, archive).stdout


def test_a_rerun_over_an_unchanged_source_does_nothing(jobs: Jobs, source: Path, archive: Path) -> None:
    first = jobs.compress(source, archive, "--json")
    before = rows_of(archive), open_archive(str(archive)).snapshot
    for name in FILES:  # were one of them read, the row would show it
        status = (source / name).stat()
        (source / name).write_bytes(b"x" * status.st_size)
        os.utime(source / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = jobs.compress(source, archive, "--json", "--quality", 50)  # other settings touch nothing by themselves
    check_counts(again)
    assert (again.code, again.report["unchanged"], again.report["shards"], again.report["commits"]) == (0, 7, 0, 0)
    assert (rows_of(archive), open_archive(str(archive)).snapshot) == before
    assert first.report["run_id"] != again.report["run_id"]


def test_new_and_changed_images_are_taken_and_vanished_ones_kept(jobs: Jobs, source: Path, archive: Path) -> None:
    jobs.compress(source, archive)
    old = rows_of(archive)
    (source / "a/0.png").write_bytes(as_file(waves(40, 40, seed=9)))
    touch_later(source / "a/0.png")
    (source / "b/0.png").unlink()
    write_files(source, {"new.png": as_file(waves(24, 24, seed=8))})
    ended = jobs.compress(source, archive, "--json")
    check_counts(ended)
    report = ended.report
    assert [report[name] for name in ("new", "changed", "unchanged", "vanished", "removed")] == [1, 1, 5, 1, 0]
    now = rows_of(archive)
    assert now.keys() == FILES.keys() | {"new.png"}
    assert (now["a/0.png"].width, now["b/0.png"]) == (40, old["b/0.png"])
    assert len(open_archive(str(archive)).shards()) > 1
    mirrored = jobs.compress(source, archive, "--json", "--mirror-deletes", "--compact")
    assert (mirrored.code, mirrored.report["removed"]) == (0, 1)
    assert len(open_archive(str(archive)).shards()) == 1
    assert rows_of(archive).keys() == now.keys() - {"b/0.png"}


def test_a_changed_image_that_cannot_be_read_keeps_its_row_also_when_mirroring(jobs: Jobs, source: Path, archive: Path) -> None:
    jobs.compress(source, archive)
    (source / "a/0.png").unlink()
    (source / "a/0.png").symlink_to("/nowhere")
    ended = jobs.compress(source, archive, "--json", "--mirror-deletes")
    assert (ended.code, ended.outcomes, ended.report["removed"]) == (0, {"failed": 1}, 0)
    check_counts(ended)
    assert rows_of(archive).keys() == FILES.keys()


def test_a_folder_that_is_away_and_too_many_at_once_are_not_taken_for_deletions(
    jobs: Jobs, source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is removed; what is new is archived all the same, and the dry run says it before."""
    jobs.compress(source, archive)
    (source / "b/0.png").unlink()
    write_files(source, {"new.png": as_file(waves(24, 24))})
    real = os.scandir

    def scandir(path: Any) -> Any:
        if os.fsencode(path).endswith(b"/a"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    ended = jobs.compress(source, archive, "--mirror-deletes", "--json")
    assert (ended.code, ended.report["removed"], ended.outcomes) == (1, 0, {"cnn": 1, "failed": 1})
    assert "1 images are gone from" in ended.stderr
    assert "'a': vanished" in ended.stderr
    assert rows_of(archive).keys() == FILES.keys() | {"new.png"}
    monkeypatch.undo()
    shutil.rmtree(source / "b")
    for words in ((), ("--delete-limit", "0.3")):
        dry = jobs.compress(source, archive, "--mirror-deletes", *words, "--dry-run")
        ended = jobs.compress(source, archive, "--mirror-deletes", *words, "--json")
        assert (dry.code, ended.code, ended.report["removed"]) == (0, 1, 0)
        for text in (dry.stdout, ended.stderr):
            assert "37.5% of 8 images" in text
    assert rows_of(archive).keys() == FILES.keys() | {"new.png"}
    ended = jobs.compress(source, archive, "--mirror-deletes", "--delete-limit", "0.375", "--json")
    assert (ended.code, ended.report["removed"]) == (0, 3)


def test_an_image_that_the_listing_left_out_and_that_is_there_stays(
    jobs: Jobs, source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.compress(source, archive)
    (source / "a/0.png").unlink()
    listing = LocalStore.list

    def without_one(store: LocalStore, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        return (info for info in listing(store, prefix, markers=markers) if info.key != "b/0.png")

    monkeypatch.setattr(LocalStore, "list", without_one)
    ended = jobs.compress(source, archive, "--mirror-deletes", "--delete-limit", "1", "--json")
    assert (ended.code, ended.report["vanished"], ended.report["removed"]) == (0, 2, 1)
    assert "1 images were not listed but still exist: kept, first 'b/0.png'" in caplog.text
    assert rows_of(archive).keys() == FILES.keys() - {"a/0.png"}


def test_removed_images_come_back_while_their_files_are_there(jobs: Jobs, source: Path, archive: Path) -> None:
    jobs.compress(source, archive, "shards.images=64")
    before = rows_of(archive)
    assert cli.main(["erase", str(archive), "b/2.png"]) == 0
    shutil.rmtree(source / "b")
    assert jobs.compress(source, archive, "--mirror-deletes", "--delete-limit", "1", "--json").report["removed"] == 2
    log = ArchiveLog.open(str(archive))
    assert [row.key for row in removed_rows(log)] == ["b/0.png", "b/1.png"]
    assert cli.main(["restore-rows", str(archive), "b/0*", "--dry-run"]) == 0
    assert rows_of(archive).keys() == FILES.keys() - {"b/0.png", "b/1.png", "b/2.png"}
    assert cli.main(["restore-rows", str(archive)]) == 0
    after = rows_of(archive)
    assert after == {key: row for key, row in before.items() if key != "b/2.png"}
    assert removed_rows(log) == []
    assert cli.main(["restore-rows", str(archive)]) == 0
    write_files(source, {"b/0.png": FILES["b/0.png"]})
    assert jobs.verify(archive).code == 0


def test_where_nothing_could_be_read_the_run_is_no_success(jobs: Jobs, tmp_path: Path, archive: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/train").symlink_to(tmp_path / "elsewhere")
    dry = jobs.compress(tmp_path / "source", archive, "--dry-run")
    assert (dry.code, "failed: train: link: a symbolic link" in dry.stdout) == (0, True)
    ended = jobs.compress(tmp_path / "source", archive)
    assert (ended.code, "failed: train: list: link: a symbolic link" in ended.stdout) == (3, True)
    assert "none of 1 inputs was archived" in ended.stderr
    write_files(tmp_path / "source", {"a.png": FILES["a/0.png"]})
    assert jobs.compress(tmp_path / "source", archive).code == 0
    assert jobs.compress(tmp_path / "source", archive).code == 0  # unchanged is archived


def test_excluded_images_are_no_inputs_and_mirroring_does_not_remove_them(jobs: Jobs, source: Path, archive: Path) -> None:
    assert jobs.compress(source, archive, "--exclude", "b/*", "--json").report["inputs"] == 4
    jobs.compress(source, archive)
    ended = jobs.compress(source, archive, "--exclude", "b/*", "--exclude", "*.txt", "--mirror-deletes", "--json")
    assert (ended.report["inputs"], ended.report["removed"]) == (3, 0)
    assert rows_of(archive).keys() == FILES.keys()


def test_recompress_takes_images_coded_otherwise_and_only_those(jobs: Jobs, source: Path, archive: Path) -> None:
    jobs.compress(source, archive, "--quality", 20.1)
    small = rows_of(archive)
    same = jobs.compress(source, archive, "--quality", 20.1, "--recompress", "--json").report
    assert (same["unchanged"], same["changed"]) == (7, 0)  # what was stored under the same settings, too
    ended = jobs.compress(source, archive, "--quality", 50, "--recompress", "--json")
    check_counts(ended)
    assert ended.report["changed"] == 7
    for key, row in rows_of(archive).items():
        assert row.outcome == "store" or len(row.payload) > len(small[key].payload)
    assert jobs.compress(source, archive, "--lossless", "--recompress", "--json").outcomes == {"store": 6}
    assert {row.outcome for row in rows_of(archive).values()} == {"store"}


def test_retry_failed_takes_just_those_up_again(jobs: Jobs, source: Path, archive: Path) -> None:
    (source / "bad.png").symlink_to("/nowhere")
    (source / "bad-too.png").symlink_to("/nowhere")
    first = jobs.compress(source, archive, "--json")
    assert (first.code, first.outcomes["failed"]) == (0, 2)
    assert {(f["key"], f["error"]) for f in first.report["failures"]} == {("bad.png", "link"), ("bad-too.png", "link")}
    (source / "bad.png").unlink()
    write_files(source, {"bad.png": as_file(waves(24, 24)), "new.png": as_file(waves(24, 24))})
    ended = jobs.compress(source, archive, "--retry-failed", first.report["run_id"], "--mirror-deletes", "--json")
    check_counts(ended)
    assert (ended.report["inputs"], ended.outcomes, ended.report["removed"]) == (2, {"cnn": 1, "failed": 1}, 0)
    assert rows_of(archive).keys() == FILES.keys() | {"bad.png"}
    unknown = jobs.compress(source, archive, "--retry-failed", "no-such-run")
    assert (unknown.code, "no-such-run" in unknown.stderr) == (2, True)


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(jobs: Jobs, source: Path, archive: Path, tmp_path: Path) -> None:
    ended = jobs.compress(source, archive, "--dry-run", "--json")
    assert ended.code == 0
    assert (ended.report["inputs"], ended.report["new"], ended.report["sampled"]) == (7, 7, 7)
    assert 0 < ended.report["payload_bytes"] < ended.report["source_bytes"] == sum(map(len, FILES.values()))
    assert not archive.exists()
    (source / "a/00.bmp").write_bytes(as_file(waves(64, 96), "bmp"))  # PNG files as small as the others stay as they are
    lossless = jobs.compress(source, archive, "--dry-run", "--json", "--lossless").report
    assert 0 < lossless["payload_bytes"] < lossless["source_bytes"]
    jobs.compress(source, archive)
    before = files_below(tmp_path)
    assert "8 inputs: 8 unchanged, 0 new" in jobs.compress(source, archive, "--dry-run").stdout
    assert files_below(tmp_path) == before


def test_too_many_failures_end_with_code_3_and_what_is_done_stays(jobs: Jobs, source: Path, archive: Path) -> None:
    for name in ("x", "y", "z"):
        (source / f"{name}.png").symlink_to("/nowhere")
    ended = jobs.compress(source, archive, "--json", "thresholds.failed=2", "--mirror-deletes")
    assert (ended.code, ended.report["exit_code"]) == (3, 3)
    assert "3 of 10 inputs failed" in ended.stderr
    assert rows_of(archive).keys() == FILES.keys()
    assert json.loads((archive / "_cnnbatch" / "runs" / f"{ended.report['run_id']}.json").read_text()) == ended.report
    rate = ("thresholds.grace=0", "thresholds.failed_rate=0.2")
    assert jobs.compress(source, archive, *rate).code == 3
    assert jobs.compress(source, archive, "thresholds.grace=2", "thresholds.failed_rate=0.3").code == 0


def test_a_few_bad_files_do_not_fail_every_rerun_of_a_large_archive(jobs: Jobs, source: Path, archive: Path) -> None:
    (source / "bad.png").symlink_to("/nowhere")
    limit = ("thresholds.grace=0", "thresholds.failed_rate=0.15")
    assert jobs.compress(source, archive, *limit).code == 0
    assert jobs.compress(source, archive, *limit).code == 0  # one of eight, although it is all there is to do


def test_a_run_that_passes_the_threshold_midway_commits_what_it_has(jobs: Jobs, tmp_path: Path, archive: Path) -> None:
    files = {f"{i:03}.bin": b"x" * (10 + 1000 * (i >= 150)) for i in range(200)}
    source = write_files(tmp_path / "source", files)
    settings = ("shards.images=64", "compression.max_source_bytes=500", "thresholds.grace=5", "--json")
    ended = jobs.compress(source, archive, *settings)
    assert ended.code == 3
    assert len(rows_of(archive)) >= 128


@pytest.mark.parametrize("fault", [StorageError("no answer"), CodecFileError("damaged"), KeyboardInterrupt()], ids=repr)
def test_shards_that_are_done_are_committed_whatever_ends_the_run(
    jobs: Jobs, source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def breaks_off(*args: Any) -> Iterator[Any]:
        yield from islice(run_inline(*args), 2)
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run", breaks_off)
        ended = jobs.compress(source, archive, "shards.images=2")
    assert ended.code == 1
    assert str(fault) in ended.stderr
    assert len(rows_of(archive)) == 4
    again = jobs.compress(source, archive, "--json")
    assert (again.code, again.report["unchanged"]) == (0, 4)


def test_what_ended_the_run_is_told_although_the_last_commit_fails_too(
    jobs: Jobs, source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(*args: Any) -> Iterator[Any]:
        yield from islice(run_inline(*args), 2)
        raise StorageError("the first fault")

    def refuses(*_: object, **__: object) -> None:
        raise StorageError("the second fault")

    monkeypatch.setattr(engine, "run", breaks_off)
    monkeypatch.setattr(ArchiveLog, "commit", refuses)
    assert jobs.compress(source, archive, "shards.images=2").stderr.rstrip().endswith("error: the first fault")


@pytest.mark.parametrize(("changes", "code"), [(False, 0), (True, 1)])
def test_of_two_runs_at_once_the_slower_ends_well_if_the_other_brought_the_same(
    jobs: Jobs, source: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, changes: bool, code: int
) -> None:
    """No lease holds them apart here."""

    def other_is_first(*args: Any) -> Iterator[Any]:
        monkeypatch.setattr(engine, "run", run_inline)
        other = compress.CompressJob(CompressConfig(source=str(source), archive=str(archive)))
        other.execute(held=Lease(other.archive, run_id="other"))
        results = list(run_inline(*args))
        if changes:
            touch_later(source / "a/0.png")
        yield from results

    monkeypatch.setattr(engine, "run", other_is_first)
    ended = jobs.compress(source, archive, "--json")
    assert ended.code == code, ended.stderr
    assert ended.report["superseded"] == len(FILES)
    assert ("another run wrote 7 of these images meanwhile, 1 of them differently" in ended.stderr) is changes
    assert sorted(rows_of(archive)) == sorted(FILES)
    again = jobs.compress(source, archive, "--json")
    assert (again.code, again.report["unchanged"]) == (0, len(FILES) - changes)


def test_a_second_run_waits_for_the_lease_and_gives_up_with_code_4(jobs: Jobs, source: Path, archive: Path) -> None:
    jobs.compress(source, archive)
    before = files_below(archive)
    with Lease(open_store(str(archive)), run_id="the-other-run"):
        ended = jobs.compress(source, archive, *QUICK_LEASE)
    assert (ended.code, ended.stdout) == (4, "")
    assert "the-other-run" in ended.stderr
    assert files_below(archive) == before
    assert jobs.compress(source, archive, *QUICK_LEASE).code == 0


def test_no_image_and_one_image_are_runs_too(jobs: Jobs, tmp_path: Path, archive: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for _ in range(2):
        ended = jobs.compress(source, archive, "--json")
        assert (ended.code, ended.report["inputs"], ended.outcomes) == (0, 0, {})
        check_counts(ended)
    assert len(open_archive(str(archive))) == 0
    assert jobs.reconstruct(archive, tmp_path / "nothing", "--json").code == 0
    write_files(source, {"one.png": FILES["a/0.png"]})
    ended = jobs.compress(source, archive, "--json")
    check_counts(ended)
    assert (ended.code, ended.outcomes) == (0, {"cnn": 1})


def test_digits_are_text_where_text_is_wanted(tmp_path: Path) -> None:
    words = ["storage.access_key_id=0123456789", "storage.secret_access_key=98765432", "storage.timeout_s=5", "codec=1e3"]
    words += ["archive=2024-01-01", "planning.folder=null", "shards.images=7", "exclude=['*.txt']", 'source="007"']
    config = resolve(CompressConfig, file=None, flags={}, words=words)
    assert config.storage == {"access_key_id": "0123456789", "secret_access_key": "98765432", "timeout_s": 5}
    assert (config.codec, config.archive, config.source, config.planning.folder) == ("1e3", "2024-01-01", "007", None)
    assert (config.shards.images, config.exclude) == (7, ("*.txt",))
    assert StorageConfig.from_environment(**config.storage).for_botocore()["aws_access_key_id"] == "0123456789"
    with pytest.raises(UsageError, match="in YAML, digits need quotes"):
        StorageConfig.from_environment(access_key_id=123, secret_access_key="x")


def test_options_and_settings_mix_in_any_order_and_win_over_the_file(jobs: Jobs, source: Path, archive: Path) -> None:
    config = archive.with_suffix(".yaml")
    config.write_text("compression: {quality: 10, min_psnr: 20}\nshards: {images: 100}\nexclude: ['b/*']\n")
    words = ("shards.images=64", "--config", config, "--quality", "20", "compression.decode_threads=2", "--json")
    ended = jobs.compress(source, archive, *words)
    found = ended.report["config"]
    assert (found["compression"]["quality"], found["compression"]["min_psnr"], found["shards"]["images"]) == (20, 20, 64)
    assert (found["compression"]["decode_threads"], found["exclude"], ended.report["inputs"]) == (2, ["b/*"], 4)
    assert jobs.reconstruct(archive, archive.parent / "back", "keys=*.txt").code == 0  # no YAML, and still a glob
    assert list(files_below(archive.parent / "back")) == ["c.txt"]


def test_the_same_commands_work_on_a_bucket_and_a_rerun_reads_no_image(
    jobs: Jobs, source: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key, data in FILES.items():
        bucket.server.client.put_object(Bucket=bucket.name, Key=f"photos/{key}", Body=data)
    with CountingRelay(bucket.server.endpoint) as relay:
        for name, value in (bucket.server.environment() | {"AWS_ENDPOINT_URL": relay.endpoint}).items():
            monkeypatch.setenv(name, value)
        first = jobs.compress(f"{bucket.url}/photos", f"{bucket.url}/archive", "--json")
        assert (first.code, first.outcomes) == (0, {"cnn": 6, "store": 1})
        assert sum("photos/a/" in line and line.startswith("GET") for line in relay.requests) == 3
        relay.reset()
        again = jobs.compress(f"{bucket.url}/photos", f"{bucket.url}/archive", "--json")
        assert (again.code, again.report["unchanged"]) == (0, 7)
        assert not [line for line in relay.requests if "photos/a/" in line or "photos/b/" in line or "photos/c" in line]
        assert jobs.reconstruct(f"{bucket.url}/archive", tmp_path / "back").code == 0
    assert files_below(tmp_path / "back").keys() == FILES.keys()
    assert (tmp_path / "back/c.txt").read_bytes() == FILES["c.txt"]


def test_credentials_are_in_no_report_no_archive_and_no_message(
    jobs: Jobs, source: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = [f"storage.{name}={value}" for name, value in {
        "endpoint": bucket.server.endpoint, "region": "us-east-1",
        "access_key_id": "cnnbatch-test", "secret_access_key": SECRET_KEY,
    }.items()]  # fmt: skip
    ended = jobs.compress(source, f"{bucket.url}/archive", "--json", *settings)
    assert ended.code == 0
    assert ended.report["config"]["storage"]["endpoint"] == bucket.server.endpoint
    back = jobs.reconstruct(f"{bucket.url}/archive", tmp_path / "back", "--json", *settings)
    wrong = jobs.compress(source, f"{bucket.url}/other", *settings, "storage.access_key_id=nobody")
    assert (back.code, wrong.code) == (0, 1)
    store = open_store(f"{bucket.url}/archive", bucket.config)
    content = b"".join(store.read(info.key) for info in store.list())
    for text in (ended.stdout, ended.stderr, back.stdout, back.stderr, wrong.stdout, wrong.stderr):
        assert SECRET_KEY not in text
    assert SECRET_KEY.encode() not in content
