"""Kills of one kind after the other, at points that a seed draws: what `tests.kill.harness` runs."""

import math
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.kill import cases, on_ray
from tests.kill.cases import Case, Prepare
from tests.kill.child import Running
from tests.kill.cluster import LocalCluster
from tests.kill.kills import LIMIT_S, Tally, at_some_time, at_step, at_step_with_power_cut, kill_process
from tests.kill.races import two_runs
from tests.kill.world import World, make
from tests.seaweedfs import SeaweedFS

SHARES = {"step": 8, "power": 6, "process": 6, "race": 2, "store": 4, "driver": 2, "worker": 3, "node": 1}
"""How ``--kills`` is divided among the targets: those that take seconds a kill get fewer."""

LOCAL_ONLY, S3_ONLY = {"power"}, {"store"}
ON_RAY = ("driver", "worker", "node")
DOWN_S = 2.0
NODES = 2

Attempt = Callable[[], None]


class Harness:
    """One run over one kind of store."""

    def __init__(self, folder: Path, server: SeaweedFS | None, seed: int, *, deadline: float = math.inf) -> None:
        """``deadline``: when to stop, whatever is left to do, on the clock of `time.monotonic`."""
        self.folder, self.server, self.deadline = folder, server, deadline
        self.rng = random.Random(seed)
        self.bucket = "" if server is None else server.create_bucket(f"kill-{secrets.token_hex(4)}")
        self._cases: dict[Prepare, Case] = {}
        self._points: dict[Prepare, tuple[int, float]] = {}

    def run(self, target: str, kills: int, cluster: LocalCluster | None) -> Tally:
        """``kills`` kills of one kind; those that came too late are made up for, three times as often at most."""
        tally = Tally()
        for attempt in self._attempts(target, tally, cluster):
            attempt()
            if tally.kills >= kills or tally.kills + tally.missed >= 3 * kills or time.monotonic() > self.deadline:
                return tally
        return tally

    def every_step(self) -> Tally:
        """A kill at every crash point of every command, one after the other."""
        tally = Tally()
        for prepare in self._prepares():
            step = 0
            while time.monotonic() < self.deadline and at_step(self._case(prepare), step, tally):
                step += 1
        return tally

    def _attempts(self, target: str, tally: Tally, cluster: LocalCluster | None) -> Iterator[Attempt]:
        kinds: dict[str, Callable[[Tally], None]] = {
            "step": self._step,
            "power": self._power,
            "process": partial(self._some_time, "process"),
            "store": partial(self._some_time, "store"),
            "race": self._race,
        }
        while True:
            yield partial(kinds[target], tally) if target in kinds else partial(self._on_ray, target, cluster, tally)

    def _step(self, tally: Tally) -> None:
        prepare = self.rng.choice(self._prepares())
        at_step(self._case(prepare), self.rng.randrange(self._measured(prepare)[0]), tally)

    def _power(self, tally: Tally) -> None:
        prepare = self.rng.choice([p for p in self._prepares() if p is not cases.mend])
        at_step_with_power_cut(self._case(prepare), self.rng.randrange(self._measured(prepare)[0]), tally, self.rng)

    def _some_time(self, target: str, tally: Tally) -> None:
        prepare = self.rng.choice(self._prepares())
        strike = kill_process if target == "process" else self._kill_store
        after_s = self.rng.uniform(0, self._measured(prepare)[1])
        at_some_time(self._case(prepare), after_s, strike, tally)

    def _race(self, tally: Tally) -> None:
        two_runs(self._case(cases.next_compress), tally, self.rng)

    def _on_ray(self, target: str, cluster: LocalCluster, tally: Tally) -> None:
        prepare = on_ray.given_back if self.rng.random() < 0.2 else on_ray.many_pictures
        on_ray.strike(self._case(prepare), target, cluster, tally, self.rng)

    def _kill_store(self, world: World, running: Running) -> None:
        assert self.server is not None
        self.server.kill()
        time.sleep(self.rng.uniform(0, DOWN_S))
        self.server.start()

    def _prepares(self) -> list[Prepare]:
        return [p for p in cases.ALL if self.server is None or p not in cases.LOCAL_ONLY]

    def _case(self, prepare: Prepare) -> Case:
        if prepare not in self._cases:
            self._cases[prepare] = prepare(make(self.folder, prepare.__name__, self.server, self.bucket))
        return self._cases[prepare]

    def _measured(self, prepare: Prepare) -> tuple[int, float]:
        """How many crash points the command has, and how many seconds it takes, when nothing kills it."""
        if prepare not in self._points:
            case = self._case(prepare)
            world = case.world.copy()
            started = time.monotonic()
            running = Running(world.command(*case.words))
            if running.wait(LIMIT_S):
                raise RuntimeError(f"{case.name} fails without any kill, see {world.work / 'log'}")
            self._points[prepare] = (running.points + 1, time.monotonic() - started)
            world.drop()
        return self._points[prepare]


def divide(kills: int, targets: Sequence[str]) -> dict[str, int]:
    """The number of kills of each target; together at least ``kills``."""
    total = sum(SHARES[target] for target in targets)
    return {target: -(-kills * SHARES[target] // total) for target in targets}
