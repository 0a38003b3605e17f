"""Spot drought and preemption under Ray's real autoscaler, with a provider whose machines are processes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler.v2.schema import (
    ClusterStatus,
    NodeInfo,
    NodeUsage,
    RayTaskActorDemand,
    ResourceDemandSummary,
    ResourceRequestByCount,
    ResourceUsage,
)

from cnnbatch.archive import ArchiveRow, open_archive
from jobs.watchdog import Drought, Fallback, Supply, supply_of
from tests.cluster_deploy.drought import FakeCluster
from tests.stages.pictures import as_file, waves, write_files

LEASE = {"wait_seconds": 20, "lapse_seconds": 3, "heartbeat_seconds": 0.5, "poll_seconds": 0.2}
WITHIN_S = 400
PATIENT = Fallback(patience_seconds=60, most=3)


def test_nothing_is_asked_for_before_something_has_waited_long_enough() -> None:
    drought = Drought(PATIENT)
    assert [drought.update(Supply(2, 0, 0), now) for now in (100, 130, 159)] == [0, 0, 0]
    assert drought.update(Supply(2, 0, 0), 160) == 2
    assert drought.update(Supply(9, 0, 0), 161) == 3  # at most


def test_while_nodes_come_there_is_no_drought() -> None:
    drought = Drought(PATIENT)
    assert [drought.update(Supply(4, nodes, 0), 50 * nodes) for nodes in range(5)] == [0] * 5


def test_on_demand_workers_that_are_there_count_and_are_let_go_when_nothing_waits() -> None:
    drought = Drought(PATIENT)
    drought.update(Supply(1, 1, 1), 0)
    assert drought.update(Supply(1, 1, 1), 60) == 2  # the one that is busy, and one more
    assert drought.update(Supply(0, 2, 2), 70) == 0
    assert drought.update(Supply(1, 2, 2), 71) == 0  # patience begins anew


def status(*demands: tuple[dict[str, float], int], nodes: Sequence[NodeInfo] = ()) -> ClusterStatus:
    """What the autoscaler says: each demand so many times."""
    waiting = RayTaskActorDemand([ResourceRequestByCount(bundle, count) for bundle, count in demands])
    return ClusterStatus(active_nodes=list(nodes), resource_demands=ResourceDemandSummary(ray_task_actor_demand=[waiting]))


def node(market: str, **resources: float) -> NodeInfo:
    usage = NodeUsage([ResourceUsage(name, total, 0.0) for name, total in resources.items()], 0)
    return NodeInfo("", "", "", "", resource_usage=usage, labels={"market": market})


@pytest.mark.parametrize(
    ("demand", "bundle", "needed"),
    [
        (({"GPU": 1}, 3), {"GPU": 1}, 3),
        (({"CPU": 2}, 8), {"GPU": 1}, 1),  # a verification asks for CPUs only
        (({"CPU": 2}, 8), {"GPU": 1, "CPU": 15}, 2),
        (({"CPU": 16}, 1), {"GPU": 1, "CPU": 15}, 0),  # no such node could take it
        (({"GPU": 0.5, "CPU": 1, "memory": 1e9}, 3), {"GPU": 1, "CPU": 15}, 2),
        (({"GPU": 2}, 1), {"GPU": 1}, 0),
        (({"CPU": 1, "node:__internal_head__": 0.001}, 1), {"GPU": 1}, 0),
        (({}, 1), {"GPU": 1}, 0),
    ],
)
def test_all_that_waits_and_would_fit_on_a_fallback_node_counts(
    demand: tuple[dict[str, float], int], bundle: dict[str, float], needed: int
) -> None:
    assert supply_of(status(demand), Fallback(bundle=bundle)).waiting == needed


def test_nodes_on_which_a_bundle_fits_count_and_the_on_demand_ones_of_them() -> None:
    nodes = [node("spot", CPU=16, GPU=1), node("ondemand", CPU=16, GPU=1), node("ondemand", CPU=0), node("ondemand", CPU=16)]
    assert supply_of(status(nodes=nodes), Fallback(bundle={"GPU": 1, "CPU": 15})) == Supply(0, 2, 1)


def test_a_verification_that_waits_for_cpus_while_spot_is_dry_gets_an_on_demand_node() -> None:
    drought, waiting = Drought(PATIENT), supply_of(status(({"CPU": 15}, 2)), PATIENT)
    assert drought.update(waiting, 0) == 0
    assert drought.update(waiting, 60) == 1


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A configuration of a night that needs a GPU for each of a few shards, a second or so of work."""
    files = {f"{i:03}.png": as_file(waves(512, 512, seed=i)) for i in range(120)}
    source = write_files(tmp_path / "source", files)
    config: dict[str, Any] = {
        "archives": [{"source": str(source), "archive": str(tmp_path / "archive")}],
        "workers": {"cpus": 1, "gpus": 1, "most": 2},
        "shards": {"images": 10, "commit_every": 1},
        "lease": LEASE,
        "verify": {"level": "log"},
        "fallback": {"patience_seconds": 8, "poll_seconds": 2, "most": 1},
        "prices": {"nodes": {"ondemand": 1.0, "spot": 0.3, "head": 0.1}, "label": "market"},
    }
    file = tmp_path / "nightly.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def start(cluster: FakeCluster, night: Path, *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.nightly", str(night), "--json", *settings]
    with (night.parent / "stderr").open("a") as stderr:
        return subprocess.Popen(command, env=cluster.environment(), stdout=subprocess.PIPE, stderr=stderr, text=True)


def finish(process: subprocess.Popen[str], night: Path) -> dict[str, Any]:
    try:
        stdout, _ = process.communicate(timeout=WITHIN_S)
    finally:
        process.kill()
    assert process.returncode == 0, (night.parent / "stderr").read_text()[-4000:]
    report: dict[str, Any] = json.loads(stdout)
    rows = [row for row in open_archive(str(night.parent / "archive")).rows() if isinstance(row, ArchiveRow)]
    files = {path.name: path.read_bytes() for path in (night.parent / "source").iterdir()}
    assert {row.key: row.source_sha256 for row in rows} == {k: hashlib.sha256(data).digest() for k, data in files.items()}
    assert len(rows) == len(files)
    return report


def shards_written(night: Path) -> int:
    return len(list((night.parent / "archive").glob("_delta_log/*.json"))) - 1


def shards_begun(night: Path) -> set[Path]:
    """The marks of attempts that have not ended: `cnnbatch.stages.isolation`."""
    return set((night.parent / "archive/_cnnbatch/runs").glob("*/attempts/*/*"))


@pytest.fixture
def dry() -> Iterator[FakeCluster]:
    with FakeCluster(dry=True) as cluster:
        yield cluster


@pytest.fixture
def wet() -> Iterator[FakeCluster]:
    with FakeCluster(dry=False) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_a_spot_drought_the_night_goes_on_with_on_demand_workers(dry: FakeCluster, night: Path) -> None:
    report = finish(start(dry, night, "fallback.patience_seconds=0.2", "fallback.poll_seconds=0.2"), night)
    assert "on-demand workers asked for" in (night.parent / "stderr").read_text()
    cost = report["archives"][0]["cost"]
    assert cost["node_seconds"]["ondemand"] > 0
    assert "spot" not in cost["node_seconds"]
    assert cost["amount"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_spot_node_that_is_taken_in_the_middle_of_a_shard_loses_nothing(wet: FakeCluster, night: Path) -> None:
    process = start(wet, night, "workers.most=1")  # Ray may have asked for a second node, which idles
    wet.wait(lambda: shards_written(night) >= 1, "the first commit", WITHIN_S)
    victims = [node.node_id for node in wet.nodes() if node.node_id is not None]
    assert victims
    for victim in victims:
        drain(wet, victim)
    under_way = shards_begun(night)
    for victim in victims:
        wet.kill_node(victim)
    assert under_way & shards_begun(night), "no shard was under way when the node was taken"
    report = finish(process, night)
    assert "spot" in report["archives"][0]["cost"]["node_seconds"]


def drain(cluster: FakeCluster, node_id: str) -> None:
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "drain-node",
        f"--address={cluster.address}",
        f"--node-id={node_id}",
    ]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=115"]
    done = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_the_head_is_lost_the_same_command_on_a_new_one_finishes(night: Path) -> None:
    with FakeCluster(dry=False) as first:
        process = start(first, night)
        first.wait(lambda: shards_written(night) >= 1, "the first commit", WITHIN_S)
        process.send_signal(signal.SIGKILL)  # the driver runs on the head
        os.killpg(first.process.pid, signal.SIGKILL)
        process.communicate()
    kept = len(open_archive(str(night.parent / "archive")))
    assert 0 < kept < 120
    with FakeCluster(dry=False) as second:
        report = finish(start(second, night), night)
    steps = {step["name"]: step for step in report["archives"][0]["steps"]}
    assert steps["diff"]["figures"]["unchanged"] == kept
