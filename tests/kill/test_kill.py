"""The short version of the kill harness (`tests/kill/harness.py`), and proof that its audit sees what it is to see."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveLog
from cnnbatch.archive import log as log_module
from cnnbatch.archive.merge import Change
from jobs.settings import LeaseTimes
from tests.archive.rows import shard_of
from tests.kill import audit, cases, power
from tests.kill.audit import NOTHING, Verdict
from tests.kill.campaign import SHARES, Harness, divide
from tests.kill.child import LEASE, Running
from tests.kill.kills import KILLED, Tally
from tests.kill.world import World, make, next_night
from tests.seaweedfs import SeaweedFS

SEED = 7


def faults_of(tally: Tally) -> list[object]:
    return [tally.lost, tally.duplicated, tally.unreadable, tally.other, tally.faults]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """One for all targets, since each command's world is prepared once."""
    return Harness(tmp_path_factory.mktemp("kill"), None, SEED)


@pytest.mark.parametrize(("target", "kills"), [("step", 6), ("power", 4), ("process", 3), ("race", 1)])
def test_kills_lose_double_and_spoil_nothing(target: str, kills: int, harness: Harness) -> None:
    tally = harness.run(target, kills, None)
    assert faults_of(tally) == [0, 0, 0, 0, []]
    assert tally.kills >= kills


@pytest.fixture(scope="module")
def harness_on_s3(tmp_path_factory: pytest.TempPathFactory, seaweedfs: SeaweedFS) -> Harness:
    return Harness(tmp_path_factory.mktemp("kill-s3"), seaweedfs, SEED)


@pytest.mark.parametrize("target", ["step", "store"])
def test_kills_on_s3_and_of_s3_lose_double_and_spoil_nothing(target: str, harness_on_s3: Harness) -> None:
    tally = harness_on_s3.run(target, 1, None)
    assert faults_of(tally) == [0, 0, 0, 0, []]
    assert tally.kills >= 1


def test_the_kills_are_divided_among_the_targets() -> None:
    shares = divide(300, list(SHARES))
    assert sum(shares.values()) >= 300
    assert min(shares.values()) > 0


# The audit


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make(tmp_path_factory.mktemp("audit"), "finished")
    cases.run(world, "compress")
    return world


@pytest.fixture
def world(finished: World) -> Iterator[World]:
    copy = finished.copy()
    yield copy
    copy.drop()


def missing_shard(world: World) -> None:
    next(Path(world.archive, "data").iterdir()).unlink()


def flipped_payload(world: World) -> None:
    for path in Path(world.archive, "data").iterdir():
        data = path.read_bytes()
        if (at := data.find(b"no picture at all")) >= 0:
            path.write_bytes(data[:at] + b"N" + data[at + 1 :])


def twin(world: World) -> None:
    log = ArchiveLog.open(world.archive)
    change = Change((shard_of(log, "notes.txt"),), (), (), ())
    log_module._write_commit(log.load(), change, "forger", 0)


def no_row(world: World) -> None:
    log = ArchiveLog.open(world.archive)
    log.commit("forger", 0, [], removes=[log.snapshot().shards[0].path])


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(missing_shard, "unreadable"), (flipped_payload, "unreadable"), (twin, "duplicated"), (no_row, "lost")],
)
def test_the_audit_sees_it(world: World, spoil: Callable[[World], None], kind: str) -> None:
    verdict = Verdict.clean()
    before = audit.after_the_rerun(world, NOTHING, (), verdict)
    assert not verdict
    spoil(world)
    audit.after_the_kill(world, before, (), verdict)
    assert getattr(verdict, kind)


def test_the_audit_sees_what_was_made_again(world: World) -> None:
    before = audit.read(world)
    row = before.rows["notes.txt"]
    earlier = replace(before, rows={**before.rows, "notes.txt": replace(row, ingested_at=row.ingested_at.replace(year=2000))})
    verdict = Verdict.clean()
    audit.after_the_rerun(world, earlier, (), verdict)
    assert [text for text in verdict.other if "made again" in text]


# The lease, and the power cut


def killed_in_the_middle(world: World, *words: str) -> World:
    world = world.put(next_night(1))
    assert Running(world.command("compress", *words, kill_at=60)).wait(60) == KILLED
    assert Path(world.archive, "_cnnbatch", "lease.json").exists()
    return world


def test_a_lease_left_by_a_killed_run_holds_its_rerun_up_until_it_lapses_and_no_longer(world: World) -> None:
    world = killed_in_the_middle(world)
    impatient = {**LEASE, "wait_seconds": 0.0, "lapse_seconds": 60.0}
    assert Running(world.command("compress", *(f"lease.{name}={value}" for name, value in impatient.items()))).wait(60) == 4
    assert Running(world.command("compress")).wait(60) == 0
    assert not Path(world.archive, "_cnnbatch", "lease.json").exists()


@pytest.mark.slow
def test_with_the_default_times_a_killed_run_blocks_its_rerun_for_90_seconds_at_most(world: World) -> None:
    times = (f"lease.{name}={value}" for name, value in LeaseTimes().model_dump().items())
    words = tuple(times)
    world = killed_in_the_middle(world, *words)
    started = time.monotonic()
    assert Running(world.command("compress", *words)).wait(150) == 0
    assert 60 <= time.monotonic() - started < 100


def test_a_power_cut_tears_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    root, journal = tmp_path / "root", tmp_path / "journal"
    shutil.copytree(Path(__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
    before = power.Synced.of(root)
    old = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    (root / "new").write_bytes(b"not synced")
    journal.write_text('{"files": {}, "folders": {}, "version": 3}')
    fates = set()
    for seed in range(40):
        (root / "new").write_bytes(b"not synced")
        assert power.cut(root, before, journal, random.Random(seed)) == 3
        fates.add((root / "new").read_bytes() if (root / "new").exists() else None)
        assert {path: path.read_bytes() for path in old} == old
    assert {None, b"", b"not synced"} < fates
