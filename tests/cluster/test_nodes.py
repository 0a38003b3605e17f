"""Several nodes on one machine: one is killed, one is drained in the middle, and no committed shard is ever made again."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from cnnbatch.archive import ArchiveLog
from cnnbatch.archive.orphans import find_orphans
from cnnbatch.archive.parquet import read_columns
from tests.kill import audit
from tests.kill.audit import Contents, Verdict
from tests.kill.child import Running
from tests.kill.cluster import LocalCluster, wait_for
from tests.kill.world import World, make
from tests.stages.pictures import as_file, waves

PICTURES = 80
LIMIT_S = 150.0
DRAINED_AFTER_MS = 20_000


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2) as cluster:
        yield cluster


@dataclass(frozen=True)
class Underway:
    """A job on the cluster that has committed something and has more to do; ``committed`` is what."""

    world: World
    running: Running
    committed: Contents
    since: float


def underway(cluster: LocalCluster, folder: Path) -> Underway:
    pictures = {f"{number:03}.png": as_file(waves(128, 160, seed=number)) for number in range(PICTURES)}
    world = make(folder, "world").put(pictures)
    command = world.command("compress", on_ray=True)
    running = Running(replace(command, environment={"RAY_ADDRESS": cluster.address}))
    first_commit = Path(world.archive, "_delta_log", f"{1:020}.json")
    assert wait_for(lambda: first_commit.exists() or running.process.exitcode is not None, LIMIT_S)
    committed = audit.read(world)
    assert 0 < len(committed.rows) < len(world.files), (world.work / "log").read_text()
    return Underway(world, running, committed, time.time())


def check_the_end(job: Underway) -> None:
    """The job ended well by itself; each input has its row, and what was committed by then is still that very row."""
    assert job.running.wait(LIMIT_S) == 0, (job.world.work / "log").read_text()
    verdict = Verdict.clean()
    audit.after_the_rerun(job.world, job.committed, (), verdict)
    assert not verdict, verdict
    assert made_again(job) == []


def made_again(job: Underway) -> list[str]:
    """Shards written after the kill that hold a key which was committed before it."""
    log = ArchiveLog.open(job.world.archive)
    late = [o.path for o in find_orphans(log) if Path(job.world.archive, o.path).stat().st_mtime > job.since]
    keys = {path: read_columns(log.store, path, ["key"]).column("key").to_pylist() for path in late}
    return [path for path, found in keys.items() if not job.committed.rows.keys().isdisjoint(found)]


def test_a_node_is_killed_in_the_middle(cluster: LocalCluster, tmp_path: Path) -> None:
    job = underway(cluster, tmp_path)
    cluster.kill_node(0)
    check_the_end(job)


@pytest.mark.slow
def test_a_node_is_drained_in_the_middle(cluster: LocalCluster, tmp_path: Path) -> None:
    job = underway(cluster, tmp_path)
    cluster.add_node()
    accepted, why = GcsClient(address=cluster.address).drain_node(
        cluster.node_id(0),
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "a spot node is taken back",
        int(time.time() * 1000) + DRAINED_AFTER_MS,
    )
    assert accepted, why
    check_the_end(job)
    assert audit.uncommitted(job.world) == frozenset()  # nothing was run twice
