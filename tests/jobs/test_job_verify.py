"""A catalogue of faults: each is found at its level and not before, and a sound archive has none."""

import shutil
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from cnnbatch.archive import ArchiveLog, ArchiveRow, open_archive
from cnnbatch.archive.maintenance import erase
from cnnbatch.archive.shard_reading import read_shard
from cnnbatch.choices import LEVELS
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.findings import MAX_RESULT_BYTES, ShardFindings
from cnnbatch.stages.records import VerifyTask
from cnnbatch.stages.settings import VerifySettings
from cnnbatch.stages.verify import ShardVerifier
from cnnbatch.stages.verify_plan import check_codecs
from tests.archive.flipping import Flipping
from tests.conftest import Bucket
from tests.jobs.conftest import Jobs, files_below
from tests.jobs.faults import (
    FAULTS,
    FILES,
    Place,
    changed_source,
    flipped_payload_byte,
    forged_psnr,
    missing_codec_file,
    missing_shard,
    new_in_the_source,
)
from tests.stages.pictures import as_file, touch_later, write_files

inline = pytest.mark.usefixtures("inline")


@pytest.fixture
def made(jobs: Jobs, inline: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A source and an archive of it, made once for all tests."""
    folder = request.config.stash.get(_MADE, None)
    if folder is None:
        folder = tmp_path_factory.mktemp("made")
        write_files(folder / "source", FILES)
        assert jobs.compress(folder / "source", folder / "archive", "shards.images=64").code == 0
        request.config.stash[_MADE] = folder
    return folder


_MADE = pytest.StashKey[Path]()


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    shutil.copytree(made, tmp_path / "copy")
    return Place(tmp_path / "copy")


def options(place: Place, level: str) -> Iterable[object]:
    yield from (place.archive, "--level", level, "--json")
    if level in ("decode", "source"):
        yield from ("--source", place.source)


@inline
@pytest.mark.parametrize(("added_db", "code"), [(0.4, 0), (-9.0, 5), (-4000.0, 5)])
def test_a_few_pixels_that_round_otherwise_are_no_fault(jobs: Jobs, tmp_path: Path, added_db: float, code: int) -> None:
    place = Place(tmp_path)
    rows, columns = np.mgrid[:200, :200]
    smooth = 120 + 50 * np.stack([np.sin(columns / 20 + rows / 33 + phase) for phase in (0, 2, 4)], -1)
    write_files(place.source, {"smooth.png": as_file(smooth.astype(np.uint8))})
    assert jobs.compress(place.source, place.archive, "compression.quality=60").code == 0
    recorded = place.rows()["smooth.png"].psnr_db
    assert recorded is not None
    assert recorded > 50
    place.forge("smooth.png", psnr_db=recorded + added_db)
    assert jobs.verify(*options(place, "decode")).code == code


@inline
@pytest.mark.parametrize(("fault", "level", "kind", "key"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_fault_is_found_at_its_level(
    jobs: Jobs, place: Place, fault: Callable[[Place], None], level: str, kind: str, key: str | None
) -> None:
    fault(place)
    before = files_below(place.archive)
    below = LEVELS[LEVELS.index(level) - 1]
    if level != "log":
        assert jobs.verify(*options(place, below)).code == 0
    ended = jobs.verify(*options(place, level))
    assert ended.code == 5
    assert {(f["level"], f["kind"], f["key"]) for f in ended.report["findings"]} == {(level, kind, key)}
    assert ended.report["exit_code"] == 5
    assert without_reports(files_below(place.archive)) == before


def without_reports(files: dict[str, bytes]) -> dict[str, bytes]:
    return {key: data for key, data in files.items() if not key.startswith("_cnnbatch/runs/verify-")}


def test_any_flipped_bit_of_a_shard_is_found(place: Place) -> None:
    data = place.shard_file.read_bytes()
    verifier = ShardVerifier(place.log.store, CodecShelf(place.log.store), VerifySettings())
    task, file = VerifyTask(0, place.shard), place.shard_file
    assert verifier(task).findings == ()
    for at in Random(1).sample(range(len(data)), 100):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        result = verifier(task)
        assert result.findings, at
        assert result.tally.total == task.shard.num_rows


def test_a_bit_that_flips_on_the_way_is_no_damage(place: Place) -> None:
    """Each read of shard and codec in turn."""
    store, shard = place.log.store, place.shard
    [codec_id] = ShardVerifier(store, CodecShelf(store), VerifySettings())(VerifyTask(0, shard)).codec_ids
    for nth in count():
        flipping: Any = Flipping(store, nth, at=0.5)
        result = ShardVerifier(flipping, CodecShelf(flipping), VerifySettings())(VerifyTask(0, shard))
        found = (*result.findings, *check_codecs(flipping, [codec_id], load=False))
        assert found == (), nth
        if not flipping.hits:
            break
    assert nth >= 5


@inline
@pytest.mark.parametrize("level", LEVELS)
def test_a_sound_archive_has_no_findings(jobs: Jobs, place: Place, level: str) -> None:
    ended = jobs.verify(*options(place, level))
    assert (ended.code, ended.report["findings"], ended.outcomes) == (0, [], {"sound": 6})
    assert (ended.report["complete"], ended.report["vanished"]) == (True, 0)


@inline
def test_every_level_has_those_below_in_it(jobs: Jobs, place: Place) -> None:
    flipped_payload_byte(place)
    new_in_the_source(place)
    forged = jobs.verify(*options(place, "source"))
    assert {(f["level"], f["key"]) for f in forged.report["findings"]} == {
        ("checksums", "a/photo.png"),
        ("source", "new.png"),
    }
    assert forged.outcomes == {"sound": 5, "faulty": 1}


@inline
def test_rows_that_cannot_be_read_are_lost_and_those_without_codec_unchecked(jobs: Jobs, place: Place) -> None:
    missing_codec_file(place)
    assert jobs.verify(*options(place, "decode")).outcomes == {"sound": 2, "unchecked": 4}
    missing_shard(place)
    assert jobs.verify(*options(place, "source")).outcomes == {"lost": 6}


@inline
def test_what_left_the_source_is_counted_and_no_fault(jobs: Jobs, place: Place) -> None:
    (place.source / "notes.txt").unlink()
    touch_later(place.source / "a/photo.png")  # only its time changed
    ended = jobs.verify(*options(place, "source"))
    assert (ended.code, ended.report["vanished"]) == (0, 1)


@inline
def test_excluded_and_erased_keys_are_not_missed(jobs: Jobs, place: Place) -> None:
    new_in_the_source(place)
    erase(place.log, ["notes.txt"], run_id="erase")
    assert jobs.verify(place.archive, "--source", place.source, "--exclude", "new*").code == 0


@inline
def test_the_psnr_is_compared_only_with_the_originals(jobs: Jobs, place: Place) -> None:
    forged_psnr(place)
    assert jobs.verify(place.archive, "--level", "decode").code == 0
    changed_source(place)
    assert jobs.verify(*options(place, "decode")).code == 0  # not the original any more


@inline
def test_a_person_reads_a_line_for_each_finding(jobs: Jobs, place: Place) -> None:
    flipped_payload_byte(place)
    ended = jobs.verify(place.archive)
    assert "6 images: 1 faulty, 5 sound; 1 findings" in ended.stdout
    assert "checksums\tdamaged-row\t'a/photo.png'\t" in ended.stdout
    assert "error: 1 findings" in ended.stderr


@inline
def test_what_is_wrong_with_the_command_is_said_before_any_work(jobs: Jobs, place: Place, tmp_path: Path) -> None:
    for words in (("--level", "source"), ("--level", "log", "--source", place.source), ("--level", "all")):
        assert jobs.verify(place.archive, *words).code == 2
    assert jobs.verify(tmp_path / "nowhere").code == 1


@inline
def test_an_empty_archive_is_sound(jobs: Jobs, tmp_path: Path) -> None:
    ArchiveLog.create_or_open(str(tmp_path / "archive"))
    assert jobs.verify(tmp_path / "archive", "--level", "decode").code == 0


def test_a_shard_full_of_findings_sends_a_small_result() -> None:
    found = ShardFindings("data/x.parquet")
    for number in range(2000):
        found.add("checksums", "damaged-row", "m" * 1000, f"{number:04}" * 100)
    findings = found.capped()
    assert sum(len(f.message) + len(f.key or "") + len(f.path) for f in findings) <= MAX_RESULT_BYTES
    assert findings[-1].message == f"{2001 - len(findings)} more findings in this shard"


@inline
def test_erased_images_stay_out_of_the_next_run(jobs: Jobs, place: Place) -> None:
    for path in place.source.rglob("*.*"):
        touch_later(path)
    erase(place.log, ["a/photo.png"], run_id="erase")
    ended = jobs.compress(place.source, place.archive, "--json")
    assert (ended.code, ended.report["erased"], ended.report["inputs"], ended.report["complete"]) == (0, 1, 6, True)
    assert (ended.report["changed"], ended.report["new"]) == (5, 0)
    assert "a/photo.png" not in set(open_archive(str(place.archive)).keys())
    again = jobs.compress(place.source, place.archive)
    assert (again.code, "1 were erased" in again.stdout) == (0, True)


@pytest.mark.usefixtures("local_ray")
def test_a_bucket_is_verified_on_ray(jobs: Jobs, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    source, archive, one_worker = f"{bucket.url}/in", f"{bucket.url}/archive", "workers.cpus=2"
    for key, data in FILES.items():
        bucket.server.client.put_object(Bucket=bucket.name, Key=f"in/{key}", Body=data)
    assert jobs.compress(source, archive, one_worker).code == 0
    assert jobs.verify(archive, "--source", source, "--json", one_worker).outcomes == {"sound": 6}
    log = ArchiveLog.open(archive, bucket.config)
    [shard] = log.snapshot().shards
    data = bytearray(log.store.read(shard.path))
    payload = next(row.payload for row in read_shard(log.store, shard.path) if isinstance(row, ArchiveRow))
    data[data.index(payload)] ^= 1
    log.store.put(shard.path, bytes(data))
    ended = jobs.verify(archive, "--json", one_worker)
    assert ended.code == 5
    assert [(f["kind"], f["key"]) for f in ended.report["findings"]] == [("damaged-row", "a/gray.png")]
