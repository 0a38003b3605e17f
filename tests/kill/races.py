"""Two runs at once on one archive, one of them killed: they merge, or one ends with exit code 4."""

import random
import time

from tests.kill import audit
from tests.kill.audit import Verdict
from tests.kill.cases import Case
from tests.kill.child import LEASE, Running
from tests.kill.kills import KILLED, LIMIT_S, Tally, rerun

HELD, SUPERSEDED = 4, 1
NO_PATIENCE = {**LEASE, "wait_seconds": 0.05}
NO_LEASE = {**LEASE, "lapse_seconds": 0.01, "heartbeat_seconds": 60.0}
"""It lapses before its first heartbeat, so that both runs work at once."""


def two_runs(case: Case, tally: Tally, rng: random.Random) -> None:
    """Start the command twice, kill the first or let both go on, then run it once more and look at the archive."""
    world = case.world.copy()
    started = time.monotonic()
    before = audit.read(world)
    respects = rng.random() < 0.5
    lease = NO_PATIENCE if respects else NO_LEASE
    words = (*case.words, *(f"lease.{key}={value}" for key, value in lease.items()))
    first = Running(world.command(*words))
    first.process.join(rng.uniform(0, 0.3))
    second = Running(world.command(*words))
    first.process.join(rng.uniform(0, 0.5))
    if kills := rng.random() < 0.5:
        first.process.kill()
    codes = (first.wait(LIMIT_S), second.wait(LIMIT_S))
    verdict = Verdict.clean()
    allowed = {0, SUPERSEDED, HELD} if respects else {0, SUPERSEDED}
    if not {codes[1]} <= allowed or not {codes[0]} <= allowed | ({KILLED} if kills else set()):
        verdict.other.append(f"the two runs ended with {codes}")
    killed = audit.after_the_kill(world, before, case.leaving, verdict)
    rerun(world, case.words, tally, verdict)
    audit.after_the_rerun(world, killed, case.leaving, verdict)
    tally.missed += codes[0] != KILLED
    tally.add(f"{case.name} twice at once ({world.url})", verdict)
    tally.kills -= codes[0] != KILLED
    tally.seconds += time.monotonic() - started
    if not verdict:
        world.drop()
