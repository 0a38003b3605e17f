"""`--recompress` moves an archive to another codec or quality while readers go on, from the originals only."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cnnbatch.archive import Archive, ArchiveLog, ArchiveRow, open_archive
from cnnbatch.archive.maintenance import compact
from cnnbatch.archive.orphans import sweep
from cnnbatch.codec import Codec
from cnnbatch.errors import ArchiveError
from cnnbatch.stages import commit
from jobs import engine
from tests.codec.models import tiny_codec_file
from tests.jobs.conftest import Jobs, run_inline
from tests.stages.pictures import as_file, waves, write_files

pytestmark = pytest.mark.usefixtures("inline")

FILES = {f"{i:02}.png": as_file(waves(24, 32, seed=i)) for i in range(12)} | {"notes.txt": b"no picture"}
SMALL_SHARDS = ("shards.images=4", "shards.commit_every=1", "--json")
FORCED = {"grace": timedelta(0), "forced": True}


@pytest.fixture
def codecs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(paths):
        path.write_bytes(tiny_codec_file(seed))
    return paths


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source", FILES)


@pytest.fixture
def archive(jobs: Jobs, source: Path, tmp_path: Path, codecs: list[Path]) -> Path:
    assert jobs.compress(source, tmp_path / "archive", "--codec", codecs[0], *SMALL_SHARDS).code == 0
    return tmp_path / "archive"


def rows_of(archive: Archive) -> dict[str, ArchiveRow]:
    """Every key once, every bitstream of a codec that is in the archive."""
    rows = [row for row in archive.rows() if isinstance(row, ArchiveRow)]
    assert len(rows) == len(archive) == len({row.key for row in rows})
    for row in rows:
        if row.codec_id is not None:
            Codec(archive.codec_bytes(row.codec_id), device="cpu").reconstruct([row.payload])
    return {row.key: row for row in rows}


def codecs_of(archive: Path) -> dict[str, str | None]:
    return {key: row.codec_id for key, row in rows_of(open_archive(str(archive))).items()}


def ids(codecs: Iterable[Path]) -> list[str]:
    return [Codec(path.read_bytes(), device="cpu").id for path in codecs]


def after_each_result(monkeypatch: pytest.MonkeyPatch, do: Callable[[int], None]) -> None:
    def run(tasks: Iterable[Any], build: Callable[[], Any], pool: engine.Pool) -> Iterator[Any]:
        for number, result in enumerate(run_inline(tasks, build, pool)):
            yield result
            do(number)

    monkeypatch.setattr(engine, "run", run)


def test_readers_see_every_image_once_while_an_archive_moves_to_another_codec(
    jobs: Jobs, source: Path, archive: Path, codecs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_archive(str(archive))
    old, new = ids(codecs)
    seen: list[int] = []

    def read(number: int) -> None:
        found = codecs_of(archive)
        assert found.keys() == FILES.keys()
        seen.append(sum(codec == new for codec in found.values()))

    after_each_result(monkeypatch, read)
    monkeypatch.setattr(commit, "rewrite_without", lambda *args: pytest.fail("a shard that leaves whole was written again"))
    ended = jobs.compress(source, archive, "--codec", codecs[1], "--recompress", *SMALL_SHARDS)
    assert (ended.code, ended.report["changed"], ended.report["complete"]) == (0, 13, True)
    assert seen == sorted(seen)
    assert len(set(seen)) > 2  # shard by shard
    assert seen[-1] == 12
    assert {row.codec_id for row in rows_of(before).values()} == {old, None}  # who had opened it before goes on
    again = jobs.compress(source, archive, "--codec", codecs[1], "--recompress", *SMALL_SHARDS).report
    assert (again["unchanged"], again["shards"]) == (13, 0)


def test_a_recompression_that_was_killed_goes_on_with_what_it_had_not_reached(
    jobs: Jobs, source: Path, archive: Path, codecs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(number: int) -> None:
        if number == 1:
            raise Killed

    after_each_result(monkeypatch, kill)
    words = (source, archive, "--codec", codecs[1], "--recompress", "--quality", 40, *SMALL_SHARDS)
    with pytest.raises(Killed):
        jobs.compress(*words)
    _, new = ids(codecs)
    done = {key for key, codec in codecs_of(archive).items() if codec == new}
    assert 0 < len(done) < 12
    after_each_result(monkeypatch, lambda number: None)
    settings = ("lease.lapse_seconds=0.5", "lease.heartbeat_seconds=0.1", "lease.poll_seconds=0.05")
    report = jobs.compress(*words, *settings).report
    stored_then = report["unchanged"] - len(done)
    assert stored_then in {0, 1}  # notes.txt, when its shard was among those done
    assert report["changed"] == 13 - report["unchanged"]
    found = rows_of(open_archive(str(archive)))
    assert {row.quality for row in found.values()} == {40.0, None}
    assert {row.codec_id for row in found.values()} == {new, None}


@pytest.mark.parametrize("goal", [("--target-psnr", 30), ("--min-psnr", 20), ("--quality", 20.1)])
def test_a_finished_recompression_finds_nothing_more_also_where_the_quality_was_searched(
    jobs: Jobs, source: Path, archive: Path, codecs: list[Path], goal: tuple[str, float]
) -> None:
    words = (source, archive, "--codec", codecs[0], "--recompress", *goal, *SMALL_SHARDS)
    assert jobs.compress(*words).report["changed"] == 13
    assert jobs.compress(*words).report["changed"] == 0
    jobs.compress(source, archive, "--codec", codecs[0], "--mirror-deletes", *SMALL_SHARDS)
    assert jobs.compress(*words, "compression.fetch_concurrency=2").report["changed"] == 0  # does not decide how it is coded
    assert (
        jobs.compress(source, archive, "--codec", codecs[0], "--recompress", "--quality", 3, "--json").report["changed"] == 13
    )


def test_images_whose_originals_are_gone_keep_their_rows_and_their_codec_file_until_they_go(
    jobs: Jobs, source: Path, archive: Path, codecs: list[Path]
) -> None:
    old, new = ids(codecs)
    kept = rows_of(open_archive(str(archive)))["03.png"]
    (source / "03.png").unlink()
    words = (source, archive, "--codec", codecs[1], "--recompress")
    ended = jobs.compress(*words, *SMALL_SHARDS)
    report = ended.report
    assert (ended.code, report["vanished"], report["outdated"], report["changed"]) == (0, 1, 1, 12)
    assert rows_of(open_archive(str(archive)))["03.png"] == kept
    assert "1 keep their old coding" in jobs.compress(*words).stdout
    log = ArchiveLog.open(str(archive))
    assert sweep(log, **FORCED).codecs == 0
    assert codecs_of(archive)["03.png"] == old
    assert jobs.compress(*words, "--mirror-deletes", "--json").report["removed"] == 1
    assert sweep(log, grace=timedelta(hours=24)).codecs == 0  # a file that waits for its grace still names it
    assert sweep(log, **FORCED).codecs == 1
    assert set(codecs_of(archive).values()) == {new, None}
    assert [path.stem for path in (archive / "_cnnbatch/codecs").iterdir()] == [new]


def test_a_codec_file_that_a_run_is_about_to_use_is_not_swept_and_rows_without_theirs_are_refused(
    jobs: Jobs, source: Path, archive: Path, codecs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hour, day = timedelta(hours=1), 86_400
    jobs.compress(source, archive, "--codec", codecs[1], "--recompress", *SMALL_SHARDS)
    log = ArchiveLog.open(str(archive))
    sweep(log, **FORCED)
    first = ArchiveLog.create_or_open(str(archive), codec_files=[codecs[0].read_bytes()])
    path = archive / "_cnnbatch/codecs" / f"{ids(codecs)[0]}.safetensors"
    assert sweep(first, grace=hour).codecs == 0  # just put there
    os.utime(path, (time.time() - day,) * 2)
    ArchiveLog.create_or_open(str(archive), codec_files=[codecs[0].read_bytes()])  # renews it
    assert sweep(first, grace=hour).codecs == 0
    os.utime(path, (time.time() - day,) * 2)
    assert sweep(first, grace=hour).codecs == 1
    write_files(source, {"new.png": as_file(waves(24, 32, seed=99))})
    after_each_result(monkeypatch, lambda number: (archive / "_cnnbatch/codecs" / path.name).unlink())
    ended = jobs.compress(source, archive, "--codec", codecs[0], "shards.commit_every=9")
    assert (ended.code, "new rows need it" in ended.stderr) == (ArchiveError.exit_code, True)
    assert "new.png" not in codecs_of(archive)


def test_a_compacted_archive_still_knows_how_it_was_coded(jobs: Jobs, source: Path, archive: Path, codecs: list[Path]) -> None:
    """Its stored rows and searched qualities say nothing by themselves: the footers do."""
    words = (source, archive, "--codec", codecs[1], "--recompress", "--target-psnr", "20", *SMALL_SHARDS)
    assert jobs.compress(*words).report["changed"] == len(FILES)
    log = ArchiveLog.open(str(archive))
    assert compact(log, run_id="compact").merged > 1
    again = jobs.compress(*words)
    assert (again.code, again.report["changed"], again.report["unchanged"]) == (0, 0, len(FILES))
