"""Kills of a driver, a worker or a node of a Ray cluster, each with its rerun and the audit of both."""

import random
import time
from collections.abc import Callable
from dataclasses import replace

from tests.kill import audit
from tests.kill.audit import Verdict
from tests.kill.cases import MINUTE, Case, run
from tests.kill.child import Command, Running
from tests.kill.cluster import LocalCluster, wait_for
from tests.kill.kills import Tally, last_line
from tests.kill.world import World, next_night
from tests.stages.pictures import as_file, waves

LIMIT_S = 5 * MINUTE
STARTING_S = 10.0
"""About what the actors need to start; one kill in four comes somewhere in it, the others while shards are made."""

WORKING_S = 1.5
PICTURES = 60


def many_pictures(world: World) -> Case:
    """A night of 60 new pictures and three changed ones: about twenty shards."""
    run(world, "compress")
    files = {f"{'abc'[number % 3]}/many-{number:02}.png": as_file(waves(96, 112, seed=number)) for number in range(PICTURES)}
    return Case("compress on Ray", world.put({**next_night(1), **files}), ("compress",))


def given_back(world: World) -> Case:
    """The same pictures given back."""
    case = many_pictures(world)
    run(case.world, *case.words)
    return Case("reconstruct on Ray", case.world, ("reconstruct",), gives_back=True)


def strike(case: Case, kind: str, cluster: LocalCluster, tally: Tally, rng: random.Random) -> None:
    """Run the command on the cluster, kill one ``kind`` of process in the middle, and run it again to its end."""
    world = case.world.copy()
    started = time.monotonic()
    before = audit.read(world)
    running = Running(_on(cluster, world, case.words))
    _wait_for_a_moment(case, world, running, rng)
    killed_at = time.monotonic() - started
    hit = running.process.exitcode is None and _kill(kind, running, cluster, rng)
    verdict = Verdict.clean()
    code = _end(running, world, verdict)
    if not hit:
        tally.missed += 1
        world.drop()
        return
    if code not in ((-9,) if kind == "driver" else (0,)) and not verdict:
        verdict.other.append(f"the job ended with {code} after a {kind} was killed: {last_line(world)}")
    killed = audit.after_the_kill(world, before, case.leaving, verdict)
    tally.most_shards_lost = max(tally.most_shards_lost, len(audit.uncommitted(world) - audit.uncommitted(case.world)))
    rerun_at = time.monotonic()
    code = _end(Running(_on(cluster, world, case.words)), world, verdict)
    tally.slowest_rerun_s = max(tally.slowest_rerun_s, time.monotonic() - rerun_at)
    if code:
        verdict.other.append(f"the rerun ended with {code}: {last_line(world)}")
    now = audit.after_the_rerun(world, killed, case.leaving, verdict)
    if case.gives_back:
        audit.given_back(world, now.rows, verdict)
    tally.add(f"{case.name}, {kind} killed after {killed_at:.1f} s ({world.url})", verdict)
    tally.seconds += time.monotonic() - started
    if not verdict:
        world.drop()


def _on(cluster: LocalCluster, world: World, words: tuple[str, ...]) -> Command:
    command = world.command(*words, on_ray=True)
    return replace(command, environment={**command.environment, "RAY_ADDRESS": cluster.address})


def _wait_for_a_moment(case: Case, world: World, running: Running, rng: random.Random) -> None:
    if rng.random() < 0.25:
        running.process.join(rng.uniform(0, STARTING_S))
        return
    is_working = _made_something(case, world)
    wait_for(lambda: running.process.exitcode is not None or is_working(), LIMIT_S)
    running.process.join(rng.uniform(0, WORKING_S))


def _made_something(case: Case, world: World) -> Callable[[], bool]:
    """Tells whether the command has begun to write what it makes."""
    store, folder = (world.store(world.destination), "") if case.gives_back else (world.store(world.archive), "data")
    before = sum(1 for _ in store.list(folder))
    return lambda: sum(1 for _ in store.list(folder)) > before


def _kill(kind: str, running: Running, cluster: LocalCluster, rng: random.Random) -> bool:
    if kind == "driver":
        running.process.kill()
        return True
    index = rng.randrange(8)
    if kind == "worker":
        return cluster.kill_worker(index)
    cluster.kill_node(index)
    return True


def _end(running: Running, world: World, verdict: Verdict) -> int | None:
    try:
        return running.wait(LIMIT_S)
    except TimeoutError as error:
        verdict.other.append(f"{error}: {last_line(world)}")
        return None
