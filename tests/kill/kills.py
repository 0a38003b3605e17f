"""One kill, its rerun and the audit of both, for each kind of kill that needs no Ray."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cnnbatch.errors import CnnbatchError
from tests.kill import audit, power
from tests.kill.audit import NOTHING, Verdict
from tests.kill.cases import MINUTE, Case, run
from tests.kill.child import Running
from tests.kill.world import World

KILLED = -9
LIMIT_S = 5 * MINUTE
"""A command that takes longer hangs. On a quiet machine the slowest takes two seconds."""
DISK = "synced.json"


@dataclass(slots=True)
class Tally:
    """What became of the kills of one kind. ``missed``: the command had ended before it could be killed."""

    kills: int = 0
    missed: int = 0
    lost: int = 0
    duplicated: int = 0
    unreadable: int = 0
    other: int = 0
    most_shards_lost: int = 0
    slowest_rerun_s: float = 0
    seconds: float = 0
    faults: list[str] = field(default_factory=list)

    def add(self, where: str, verdict: Verdict) -> None:
        self.kills += 1
        for name in ("lost", "duplicated", "unreadable", "other"):
            found = getattr(verdict, name)
            setattr(self, name, getattr(self, name) + len(found))
            self.faults += [f"{where}: {name}: {text}" for text in found[:5]]


Strike = Callable[[World, Running], None]
"""Kills something while the command runs."""


def at_step(case: Case, step: int, tally: Tally) -> bool:
    """The command dies at its crash point ``step``; false if it has no such point."""
    world = case.world.copy()
    started = time.monotonic()
    if Running(world.command(*case.words, kill_at=step)).wait(LIMIT_S) != KILLED:
        world.drop()
        return False
    _rerun_and_audit(case, world, f"{case.name}, step {step}", tally)
    tally.seconds += time.monotonic() - started
    return True


def at_step_with_power_cut(case: Case, step: int, tally: Tally, rng: random.Random) -> bool:
    """The same, and the disk forgets what was not synced; the doctor comes before the rerun. Local only."""
    world = case.world.copy()
    started = time.monotonic()
    before = power.Synced.of(Path(world.url))
    if Running(world.command(*case.words, kill_at=step, disk=world.work / DISK)).wait(LIMIT_S) != KILLED:
        world.drop()
        return False
    reported = power.cut(Path(world.url), before, world.work / DISK, rng)
    where = f"{case.name}, power cut at step {step}"
    verdict = Verdict.clean()
    if Path(world.archive, "_cnnbatch", "format.json").exists():
        code = Running(world.command("doctor", "--mend")).wait(LIMIT_S)
        if code:
            verdict.unreadable.append(f"doctor --mend ended with {code}: {last_line(world)}")
    if (now := _version(world)) < reported:
        verdict.lost.append(f"version {reported} of the log was reported as durable, {now} is left")
    _rerun_and_audit(case, world, where, tally, verdict)
    tally.seconds += time.monotonic() - started
    return True


def at_some_time(case: Case, after_s: float, strike: Strike, tally: Tally) -> bool:
    """``strike`` comes after that time, wherever the command is then; false if it had ended before."""
    world = case.world.copy()
    started = time.monotonic()
    running = Running(world.command(*case.words))
    running.process.join(after_s)
    hit = running.process.exitcode is None
    verdict = Verdict.clean()
    if hit:
        strike(world, running)
        try:
            code = running.wait(LIMIT_S)
        except TimeoutError as error:
            verdict.other.append(str(error))
        else:
            hit = code != 0 or strike is not kill_process
    if hit:
        _rerun_and_audit(case, world, f"{case.name}, after {after_s:.3f} s", tally, verdict)
    else:
        tally.missed += 1
        world.drop()
    tally.seconds += time.monotonic() - started
    return hit


def kill_process(world: World, running: Running) -> None:
    """SIGKILL of the process that is driver and worker."""
    running.process.kill()


def _rerun_and_audit(case: Case, world: World, where: str, tally: Tally, verdict: Verdict | None = None) -> None:
    """Look at what is left, run the same command to its end, look again. A world with a fault is kept."""
    verdict = verdict or Verdict.clean()
    before = NOTHING if case.damaged else audit.read(case.world)
    killed = NOTHING if case.damaged else audit.after_the_kill(world, before, case.leaving, verdict)
    if not case.damaged:
        wasted = audit.uncommitted(world) - audit.uncommitted(case.world)
        tally.most_shards_lost = max(tally.most_shards_lost, len(wasted))
    rerun(world, case.words, tally, verdict)
    if case.damaged:
        run(world, "compress")
    now = audit.after_the_rerun(world, killed, case.leaving, verdict)
    if case.gives_back:
        audit.given_back(world, now.rows, verdict)
    tally.add(f"{where} ({world.url})", verdict)
    if not verdict:
        world.drop()


def rerun(world: World, words: tuple[str, ...], tally: Tally, verdict: Verdict) -> None:
    """The same command again, to its end: exit code 0, and no longer than a lapsed lease and the work take."""
    started = time.monotonic()
    try:
        code = Running(world.command(*words)).wait(LIMIT_S)
    except TimeoutError as error:
        verdict.other.append(f"the rerun: {error}")
        return
    tally.slowest_rerun_s = max(tally.slowest_rerun_s, time.monotonic() - started)
    if code:
        verdict.other.append(f"the rerun ended with {code}: {last_line(world)}")


def _version(world: World) -> int:
    try:
        return audit.read(world).version
    except CnnbatchError:
        return -1


def last_line(world: World) -> str:
    """What the command of this world said last."""
    lines = (world.work / "log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
