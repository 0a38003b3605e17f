"""What a night does to its archives, with the workers inline."""

import io
import json
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnbatch.archive import ArchiveLog, Lease, open_archive
from cnnbatch.archive.lease import LEASE_PATH
from cnnbatch.storage import open_store
from cnnbatch.storage.keys import TEMPORARY_PREFIX
from cnnbatch.storage.local import LocalStore
from jobs import nightly
from jobs.night import archive_night
from jobs.night.report import STEPS
from jobs.verify import VerifyJob
from tests.jobs.conftest import Jobs, files_below
from tests.jobs.faults import flip
from tests.nightly.conftest import FILES, ORPHAN, QUICK_LEASE, Nights, outcomes_of, steps_of
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")

DONE = dict.fromkeys(STEPS, "done")


def test_two_lines_of_configuration_are_enough(nights: Nights, jobs: Jobs) -> None:
    source, archive = nights.source(), nights.folder / "archive"
    nights.file.write_text(f"archives:\n  - source: {source}\n    archive: {archive}\n")
    ended = jobs._call(nightly.main, [nights.file])
    assert ended.code == 0, ended.stderr
    assert nights.rows().keys() == FILES.keys()
    [report] = nights.reports()
    assert [step["name"] for step in report["archives"][0]["steps"]] == list(STEPS)
    [page] = (archive / "_cnnbatch" / "runs").glob("nightly-*.md")
    assert page.read_text() == ended.stdout.removesuffix("\n")
    for name in STEPS:
        assert f"| {name} | done |" in page.read_text()
    assert "7 images into 1 archive, all well" in page.read_text()


def test_a_night_verifies_what_is_new_whole_and_reports_every_step(nights: Nights) -> None:
    nights.source()
    nights.configure()
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)) == (0, DONE)
    steps = steps_of(ended)
    assert steps["diff"]["figures"]["new"] == len(FILES)
    assert steps["compress"]["figures"]["cnn"] == 6
    assert steps["verify"]["figures"] == {"new_shards": 1, "of_the_old_shards": 0, "level": "checksums"}
    assert steps["report"]["figures"]["images"] == len(FILES)
    assert nights.reports() == [ended.report]


def test_a_night_with_nothing_new_reads_no_image_and_commits_nothing(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    source = nights.source()
    nights.configure()
    assert nights.run().code == 0
    before, version = nights.rows(), ArchiveLog.open(str(nights.folder / "archive")).snapshot().version

    def get(self: LocalStore, *arguments: Any, **keywords: Any) -> bytes:
        raise AssertionError(f"{self.url} was read: {arguments}")

    monkeypatch.setattr(LocalStore, "get", get)
    monkeypatch.setattr(LocalStore, "get_many", get)
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)) == (0, DONE)
    assert steps_of(ended)["diff"]["figures"]["unchanged"] == len(FILES)
    assert steps_of(ended)["verify"]["figures"] == {"new_shards": 0, "of_the_old_shards": 1, "level": "checksums"}
    assert ArchiveLog.open(str(nights.folder / "archive")).snapshot().version == version
    monkeypatch.undo()
    assert nights.rows() == before
    assert source.exists()


def test_the_sample_of_the_old_is_told_by_its_seed(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.source(files={f"{i}.txt": b"x" * (i + 1) for i in range(8)})
    for i in range(8):
        nights.configure({"exclude": [f"{j}.txt" for j in range(i + 1, 8)]}, compact=False, verify={"level": "log"})
        assert nights.run().code == 0
    assert len(open_archive(str(nights.folder / "archive")).shards()) == 8
    opened: list[frozenset[str]] = []
    execute = VerifyJob.execute

    def watched(self: VerifyJob) -> None:
        opened.append(frozenset(self.only or ()))
        execute(self)

    monkeypatch.setattr(VerifyJob, "execute", watched)
    for seed in (7, 7, 8):
        nights.configure(compact=False, verify={"sample_shards": 3, "seed": seed})
        ended = nights.run()
        assert (ended.code, ended.report["seed"]) == (0, seed)
        assert steps_of(ended)["verify"]["figures"]["of_the_old_shards"] == 3
    assert [len(only) for only in opened] == [3, 3, 3]
    assert opened[0] == opened[1] != opened[2]


def test_each_archive_has_its_own_quality_excludes_and_floor(nights: Nights) -> None:
    nights.source()
    nights.configure(
        {"compression": {"quality": 10}, "exclude": ["b/*"]},
        {"compression": {"quality": 50}},
        {"compression": {"min_psnr": 99}},
    )
    assert nights.run().code == 0
    low, high, stored = nights.rows("archive"), nights.rows("archive1"), nights.rows("archive2")
    assert (len(low), len(high), len(stored)) == (4, 7, 7)
    assert len(low["a/0.png"].payload) < len(high["a/0.png"].payload)
    assert {row.outcome for row in stored.values()} == {"store"}


def test_a_failing_source_does_not_stop_the_others_and_the_code_says_so(nights: Nights) -> None:
    nights.source()
    nights.configure({"source": str(nights.folder / "nowhere")}, {}, {})
    ended = nights.run()
    assert ended.code == ended.report["exit_code"] == 1
    assert [archive["exit_code"] for archive in ended.report["archives"]] == [1, 0, 0]
    assert "nowhere" in steps_of(ended, 0)["diff"]["message"]
    assert steps_of(ended, 0)["compress"]["outcome"] == "skipped"
    assert nights.rows("archive1").keys() == nights.rows("archive2").keys() == FILES.keys()
    assert not (nights.folder / "archive" / "_delta_log").exists()


@pytest.mark.parametrize(("failing", "code"), [((3,), 3), ((3, 3), 3), ((3, 1), 1), ((2,), 2)])
def test_the_exit_code_is_the_one_that_all_failed_archives_share(nights: Nights, failing: tuple[int, ...], code: int) -> None:
    source = nights.source()
    (source / "bad.png").symlink_to("/nowhere")
    write_files(nights.folder / "letters", {"a.txt": b"dear reader"})
    entries: dict[int, dict[str, Any]] = {
        1: {"source": str(nights.folder / "nowhere")},
        2: {"archive": str(nights.folder / "letters")},
        3: {"thresholds": {"failed": 0}},
    }
    nights.configure(*(entries[kind] for kind in failing), {})
    ended = nights.run()
    assert ended.code == code
    assert [archive["exit_code"] for archive in ended.report["archives"]] == [*failing, 0]
    assert files_below(nights.folder / "letters") == {"a.txt": b"dear reader"}


def test_after_too_many_failures_the_other_steps_still_do_their_work(nights: Nights, jobs: Jobs) -> None:
    source = nights.source()
    (source / "bad.png").symlink_to("/nowhere")
    nights.configure({"thresholds": {"failed": 0}})
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)) == (3, DONE | {"compress": "failed"})
    assert [failure["key"] for failure in ended.report["failures"]] == ["bad.png"]
    assert nights.rows().keys() == FILES.keys()
    page = max((nights.folder / "archive/_cnnbatch/runs").glob("nightly-*.md")).read_text()
    assert "bad.png: list: link" in page
    (source / "bad.png").unlink()
    write_files(source, {"bad.png": as_file(waves(24, 24))})
    retried = jobs.compress(source, nights.folder / "archive", "--retry-failed", f"nightly-{ended.report['run_id']}", "--json")
    assert (retried.code, retried.outcomes) == (0, {"cnn": 1})


def test_a_second_start_ends_with_code_4_and_touches_nothing(nights: Nights) -> None:
    nights.source()
    nights.configure({}, {})
    assert nights.run().code == 0
    write_files(nights.folder / "source", {"new.png": as_file(waves(24, 24, seed=9))})
    stores = [open_store(str(nights.folder / name)) for name in ("archive", "archive1")]
    with Lease(stores[0], run_id="one", **QUICK_LEASE), Lease(stores[1], run_id="two", **QUICK_LEASE):
        before = without_lease(nights.folder)
        ended = nights.run("reports=" + str(nights.folder / "reports"))
        assert without_lease(nights.folder) == before
    assert ended.code == 4
    assert [list(outcomes_of(ended, number)) for number in (0, 1)] == [["lease"], ["lease"]]
    assert "another run works on" in steps_of(ended)["lease"]["message"]
    assert nights.run().code == 0
    assert "new.png" in nights.rows("archive1")


def without_lease(folder: Path) -> dict[str, bytes]:
    """Nor its heartbeat's file that is being written at this moment."""
    others = [path for path in folder.rglob("*") if not path.name.startswith((LEASE_PATH.rpartition("/")[2], TEMPORARY_PREFIX))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in others if path.is_file()}


def test_an_archive_that_another_job_works_on_is_left_to_it_and_the_others_are_done(nights: Nights) -> None:
    nights.source()
    nights.configure({}, {})
    with Lease(open_store(str(nights.folder / "archive")), run_id="by hand", **QUICK_LEASE):
        ended = nights.run()
    assert ended.code == 4
    assert [archive["exit_code"] for archive in ended.report["archives"]] == [4, 0]
    assert "by hand" in steps_of(ended, 0)["lease"]["message"]
    assert nights.rows("archive1").keys() == FILES.keys()
    assert not (nights.folder / "archive" / "_delta_log").exists()


def test_damage_that_verification_finds_keeps_everything_as_it_is(nights: Nights) -> None:
    nights.source()
    nights.configure()
    assert nights.run().code == 0
    [shard] = open_archive(str(nights.folder / "archive")).shards()
    flip(nights.folder / "archive" / shard.path, shard.num_bytes // 4)
    orphan = write_files(nights.folder / "archive", {ORPHAN: b"x"}) / ORPHAN
    os.utime(orphan, (1, 1))
    ended = nights.run("verify.sample_shards=1")
    assert (ended.code, steps_of(ended)["verify"]["exit_code"]) == (5, 5)
    assert (outcomes_of(ended)["compact"], outcomes_of(ended)["retention"]) == ("skipped", "skipped")
    assert orphan.exists()
    assert [finding["path"] for finding in ended.report["archives"][0]["findings"]] == [shard.path]


def two_shards(nights: Nights) -> list[Path]:
    """An archive of two shards, each of a night of its own."""
    nights.configure(compact=False, verify={"sample_shards": 0})
    for number in range(2):
        nights.source(files={f"{number}.png": as_file(waves(24, 24, seed=number))})
        assert nights.run().code == 0
    paths = [nights.folder / "archive" / shard.path for shard in open_archive(str(nights.folder / "archive")).shards()]
    assert len(paths) == 2
    return paths


def test_damage_in_an_old_shard_is_looked_at_every_night_until_it_is_mended(nights: Nights) -> None:
    damaged, _ = two_shards(nights)
    sound = damaged.read_bytes()
    flip(damaged, len(sound) // 4)
    orphan = write_files(nights.folder / "archive", {ORPHAN: b"x"}) / ORPHAN
    os.utime(orphan, (1, 1))
    assert nights.run("verify.sample_shards=9").code == 5
    nights.configure()
    for settings in (("verify.sample_shards=0",), ("verify.level=log",)):
        ended = nights.run(*settings)
        assert (ended.code, outcomes_of(ended)["compact"], outcomes_of(ended)["retention"]) == (5, "skipped", "skipped")
        assert steps_of(ended)["verify"]["exit_code"] == 5
    assert orphan.exists()
    damaged.write_bytes(sound)
    ended = nights.run("verify.sample_shards=0")
    assert (ended.code, steps_of(ended)["verify"]["figures"].get("known_as_damaged")) == (0, 1)
    assert not orphan.exists()
    assert "known_as_damaged" not in steps_of(nights.run())["verify"]["figures"]


def test_a_damaged_codec_file_is_found_again_though_only_old_shards_need_it(nights: Nights) -> None:
    two_shards(nights)
    [codec] = (nights.folder / "archive/_cnnbatch/codecs").iterdir()
    flip(codec, codec.stat().st_size // 2)
    assert nights.run("verify.sample_shards=9").code == 5
    assert nights.run("verify.sample_shards=0").code == 5


def test_nothing_is_merged_or_deleted_before_verification_came_to_its_end(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_shards(nights)
    orphan = write_files(nights.folder / "archive", {ORPHAN: b"x"}) / ORPHAN
    os.utime(orphan, (1, 1))
    nights.configure()

    def execute(self: VerifyJob) -> None:
        raise OSError("no memory left")

    monkeypatch.setattr(VerifyJob, "execute", execute)
    ended = nights.run()
    assert (ended.code, outcomes_of(ended)["compact"], outcomes_of(ended)["retention"]) == (1, "skipped", "skipped")
    assert "did not finish" in steps_of(ended)["retention"]["message"]
    assert orphan.exists()


def test_small_shards_of_many_nights_are_merged_and_what_was_replaced_goes_after_its_grace(nights: Nights) -> None:
    nights.configure()
    for number in range(4):
        nights.source(files={f"{number}.png": as_file(waves(24, 24, seed=number))})
        assert nights.run().code == 0
    archive = open_archive(str(nights.folder / "archive"))
    assert (len(archive), len(archive.shards())) == (4, 1)
    replaced = [path for path in (nights.folder / "archive/data").iterdir() if path.name not in archive.shards()[0].path]
    assert replaced  # they are younger than a day
    orphan = write_files(nights.folder / "archive", {ORPHAN: b"x"}) / ORPHAN
    os.utime(orphan, (1, 1))
    retention = steps_of(nights.run())["retention"]
    assert retention["figures"].get("files_swept") == 1, retention
    assert not orphan.exists()
    assert all(path.exists() for path in replaced)


def night_of_its_own_second(nights: Nights) -> str:
    """Run ids sort by the second; nights of one second would be forgotten in any order."""
    time.sleep(1 - time.time() % 1)
    run_id: str = nights.run().report["run_id"]
    return run_id


def test_old_reports_and_marks_of_killed_runs_are_forgotten(nights: Nights) -> None:
    nights.source()
    nights.configure(retention={"reports": 2})
    runs = nights.folder / "archive/_cnnbatch/runs"
    mark = write_files(runs, {"20200101T000000Z-abcdef/attempts/0/x": b""}) / "20200101T000000Z-abcdef/attempts/0/x"
    os.utime(mark, (1, 1))
    ids = [night_of_its_own_second(nights) for _ in range(4)]
    assert not mark.exists()
    left = sorted(path.stem for path in runs.glob("nightly-*.json"))
    assert left == [f"nightly-{run_id}" for run_id in sorted(ids)[1:]]  # two, and that of the night that forgot the others
    assert len(list(runs.glob("*.md"))) == len(left)
    assert len(list(runs.glob("2*.json"))) == 2
    assert len(list(runs.glob("verify-*.json"))) == 2


def test_trouble_with_a_store_is_waited_out(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    source = nights.source()
    nights.configure(attempts={"most": 3, "pause_seconds": 0.01})
    hidden = nights.folder / "hidden"
    tries: list[float] = []
    source.rename(hidden)

    def sleep(seconds: float) -> None:
        tries.append(seconds)
        if len(tries) == 2:
            hidden.rename(source)

    monkeypatch.setattr(archive_night, "time", SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic))
    ended = nights.run()
    assert (ended.code, tries) == (0, [0.01, 0.01])
    assert nights.rows().keys() == FILES.keys()


def test_the_report_of_the_whole_night_goes_to_its_folder(nights: Nights) -> None:
    nights.source()
    nights.configure({}, {}, reports=str(nights.folder / "reports"))
    ended = nights.run()
    [written] = (nights.folder / "reports").glob("*.json")
    assert json.loads(written.read_text()) == ended.report
    assert len(ended.report["archives"]) == 2
    [own] = nights.reports("archive1")
    assert [archive["archive"] for archive in own["archives"]] == [str(nights.folder / "archive1")]


def test_each_shard_leaves_one_structured_line_in_the_log(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.source()
    nights.configure(log_format="json", verify={"level": "log"})
    written = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(written)])
    nights.run()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    [shard] = [line for line in lines if line["logger"] == "cnnbatch.shards"]
    assert (shard["job"], shard["shard"], shard["images"]) == ("compress", 0, {"cnn": 6, "store": 1})
    assert shard["archive"] == str(nights.folder / "archive")
    assert shard["source_bytes"] > shard["payload_bytes"] > 0
    assert {"read", "code", "write"} <= shard["seconds"].keys()
