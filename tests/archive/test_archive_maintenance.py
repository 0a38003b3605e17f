"""Compaction: nothing live is ever lost."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from cnnbatch.archive import ArchiveLog, maintenance, open_archive, read_footer, rewrite_without, write_shard
from cnnbatch.archive import log as log_module
from cnnbatch.archive.doctor import examine
from cnnbatch.archive.log_table import LogTable
from cnnbatch.archive.maintenance import compact, erase
from cnnbatch.archive.orphans import find_orphans, holders, sweep
from cnnbatch.cli import main
from cnnbatch.storage.local import LocalStore
from tests.archive.rows import CODEC_FILE, LINEAGE, flip, rows_of, shard_of, stored
from tests.conftest import Bucket

NOW = timedelta(0)


def nights(log: ArchiveLog, count: int) -> dict[str, bytes]:
    """A commit a night, each with keys from all over the range."""
    for night in range(count):
        keys = [f"{number}-{night:02}" for number in range(4)]
        log.commit(f"night-{night}", 0, [shard_of(log, *keys, text="payload of ")])
    return {row.key: row.payload for row in rows_of(log)}


def ranges_overlap(log: ArchiveLog) -> bool:
    shards = log.snapshot().shards
    return any(one.max_key >= other.min_key for one, other in pairwise(shards))


def test_small_overlapping_shards_become_one_and_every_row_stays(log: ArchiveLog) -> None:
    before = nights(log, 6)
    result = compact(log, run_id="compact")
    assert (result.merged, result.written, result.stale, result.damaged) == (6, 1, 0, ())
    assert {row.key: row.payload for row in rows_of(log)} == before
    assert compact(log, run_id="again") == maintenance.Compaction()


def test_merged_shards_are_near_the_target_and_disjoint(log: ArchiveLog) -> None:
    for night in range(6):
        rows = [stored(f"{number:02}-{night}", os.urandom(20_000)) for number in range(10)]
        log.commit(f"night-{night}", 0, [write_shard(log.store, rows, footer=LINEAGE)])
    before = rows_of(log)
    result = compact(log, run_id="compact", target_bytes=600_000)
    sizes = [shard.num_bytes for shard in log.snapshot().shards]
    assert (result.merged, result.written) == (6, 2)
    assert max(sizes) < 1.4 * 600_000
    assert min(sizes) > 0.6 * 600_000
    assert not ranges_overlap(log)
    assert rows_of(log) == before


def test_large_shards_stay_as_they_are(log: ArchiveLog) -> None:
    large = write_shard(log.store, [stored(key, os.urandom(30_000)) for key in "az"], footer=LINEAGE)
    log.commit("run", 0, [large, shard_of(log, "b"), shard_of(log, "c")])
    assert compact(log, run_id="compact", target_bytes=100_000).merged == 2
    assert large.path in {shard.path for shard in log.snapshot().shards}


def test_more_overlapping_shards_than_one_group_become_disjoint_ones(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in more ranges than one, each of which has to fit into memory."""
    for night in range(12):
        rows = [stored(f"{number:02}-{night:02}", os.urandom(5_000)) for number in range(10)]
        log.commit(f"night-{night}", 0, [write_shard(log.store, rows, footer=LINEAGE)])
    before = rows_of(log)
    monkeypatch.setattr(maintenance, "MERGE_SHARDS", 4)
    monkeypatch.setattr(maintenance, "RANGE_BYTES", 80_000)
    most, sort = [0], sorted

    def watched(found: Any, **options: Any) -> Any:
        most[0] = max(most[0], len(found))
        return sort(found, **options)

    monkeypatch.setattr(maintenance, "sorted", watched, raising=False)
    result = compact(log, run_id="compact", target_bytes=150_000)
    assert (result.merged, result.written) == (12, 5)
    assert not ranges_overlap(log)
    assert rows_of(log) == before
    assert most[0] < 30  # of 120 rows
    assert compact(log, run_id="again", target_bytes=150_000) == maintenance.Compaction()


def test_what_agrees_in_the_footers_is_kept_and_shards_coded_otherwise_are_not_merged(log: ArchiveLog) -> None:
    one = LINEAGE | {"cnnbatch.codec_id": "c", "cnnbatch.settings": '{"quality": 32}', "cnnbatch.run_id": "a"}
    other = one | {"cnnbatch.settings": '{"quality": 40}'}
    for number, footer in enumerate([one, other, one | {"cnnbatch.run_id": "b"}, other]):
        log.commit(f"run-{number}", 0, [write_shard(log.store, [stored(f"key-{number}")], footer=footer)])
    result = compact(log, run_id="compact")
    assert (result.merged, result.written) == (4, 2)
    footers = [read_footer(log.store, shard.path) for shard in log.snapshot().shards]
    assert [footer["cnnbatch.settings"] for footer in footers] == [one["cnnbatch.settings"], other["cnnbatch.settings"]]
    assert {(footer["cnnbatch.codec_id"], footer["cnnbatch.version"]) for footer in footers} == {("c", "0.1.0")}
    assert not any("cnnbatch.run_id" in footer for footer in footers)


def test_a_writer_in_between_loses_nothing_and_only_his_group_waits(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):  # two groups of two, that do not overlap
        log.commit(f"night-{number}", 0, [shard_of(log, *(f"{number}-{part:02}" for part in range(4)), text="payload of ")])
    monkeypatch.setattr(maintenance, "MERGE_SHARDS", 2)
    commit = ArchiveLog.commit
    victim = log.snapshot().shards[0].path

    def is_late(self: ArchiveLog, *arguments: object, **keywords: object) -> object:
        monkeypatch.setattr(ArchiveLog, "commit", commit)
        rest = rewrite_without(log.store, victim, {"0-00"})
        assert rest is not None
        commit(log, "other", 0, [rest, shard_of(log, "0-00", "new", text="new ")])
        return commit(self, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(ArchiveLog, "commit", is_late)
    result = compact(ArchiveLog.open(log.store.url), run_id="compact")
    assert (result.merged, result.written, result.stale) == (2, 1, 2)
    found = {row.key: row.payload for row in rows_of(log)}
    assert len(found) == 17
    assert (found["0-00"], found["new"]) == (b"new 0-00", b"new new")
    assert len(log.snapshot().shards) == 4


def test_a_damaged_shard_is_left_out_of_the_merge(log: ArchiveLog) -> None:
    nights(log, 3)
    damaged = log.snapshot().shards[1].path
    flip(log, damaged, b"payload of 2")
    result = compact(log, run_id="compact")
    assert (result.merged, result.written, result.damaged) == (2, 1, (damaged,))
    assert damaged in {shard.path for shard in log.snapshot().shards}


# Killed, and again


class Killed(BaseException):
    """As if the process ended here."""


def dying_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise `Killed` at the given one of the calls that change an archive, counted before and after each."""
    steps = count()

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(steps) == step:
                raise Killed
            result = function(*arguments, **keywords)
            if next(steps) == step:
                raise Killed
            return result

        return call

    for owner, name in ((LocalStore, "put"), (log_module, "_write_commit"), (LogTable, "sync"), (LocalStore, "delete")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))


def keep_in_order(log: ArchiveLog, name: str) -> None:
    compact(log, run_id=f"compact-{name}")
    erase(log, ["1-01"], run_id=f"erase-{name}")
    sweep(log, grace=NOW, forced=True)


def test_a_kill_at_any_step_of_compaction_erasure_and_sweep_loses_nothing(log: ArchiveLog, tmp_path: Path) -> None:
    kept = {key: payload for key, payload in nights(log, 3).items() if key != "1-01"}
    for step in count():
        shutil.copytree(log.store.url, tmp_path / f"{step}")
        copy = ArchiveLog.open(str(tmp_path / f"{step}"))
        with pytest.MonkeyPatch.context() as monkeypatch:
            dying_at(step, monkeypatch)
            try:
                keep_in_order(copy, "killed")
                break
            except Killed:
                pass
        assert {row.key: row.payload for row in rows_of(copy) if row.key != "1-01"} == kept
        keep_in_order(copy, "rerun")
        assert {row.key: row.payload for row in rows_of(copy)} == kept
        assert (examine(copy.store.url).faults, find_orphans(copy)) == ((), [])
    assert step > 20


# On S3, and as commands


def test_all_of_it_on_s3(bucket: Bucket) -> None:
    log = ArchiveLog.create_or_open(f"{bucket.url}/archive", bucket.config, codec_files=[CODEC_FILE])
    for night in range(3):
        log.commit(f"night-{night}", 0, [shard_of(log, f"a{night}", f"b{night}")])
    lost = shard_of(log, "a1")
    assert compact(log, run_id="compact").merged == 3
    assert erase(log, ["a1"], run_id="erase").erased == ("a1",)
    diagnosis = examine(log.store.url, bucket.config, mend=True)
    assert (diagnosis.faults, diagnosis.num_images, len(diagnosis.orphans)) == ((), 5, 5)
    assert lost.path in set(holders(log.store, frozenset(["a1"])))
    assert sweep(log, grace=NOW, forced=True).files == 5
    assert list(holders(log.store, frozenset(["a1"]))) == []
    assert sorted(open_archive(log.store.url, bucket.config).keys()) == ["a0", "a2", "b0", "b1", "b2"]


def test_the_commands_say_what_they_did(log: ArchiveLog, capsys: pytest.CaptureFixture[str]) -> None:
    nights(log, 3)
    url = log.store.url
    assert main(["compact", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards_after"] == 1
    assert main(["erase", url, "0-00", "--verify"]) == 5
    captured = capsys.readouterr()
    assert "1 of 1 keys had an image" in captured.out
    assert "still hold an erased image" in captured.err
    assert main(["doctor", url]) == 0
    assert "4 files" in capsys.readouterr().out
    assert main(["doctor", url, "--sweep", "--grace", "0"]) == 2
    assert main(["doctor", url, "--sweep", "--grace", "0", "--force", "--json"]) == 0
    capsys.readouterr()
    assert main(["erase", url, "0-00", "--verify"]) == 0
    assert main(["erase", url, "\udcff"]) == 2
    log.store.delete(log.snapshot().shards[0].path)
    assert main(["doctor", url]) == 5
    assert "missing-shard" in capsys.readouterr().out
