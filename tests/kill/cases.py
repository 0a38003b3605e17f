"""The commands that are killed, each with the world it starts from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cnnbatch.archive import ArchiveLog
from tests.archive.rows import shard_of
from tests.kill.child import Running
from tests.kill.world import World, next_night

MINUTE = 60.0


@dataclass(frozen=True)
class Case:
    """``words`` is the command that is killed in a copy of ``world`` and run again; ``leaving`` may or must go by it."""

    name: str
    world: World
    words: tuple[str, ...]
    leaving: frozenset[str] = frozenset()
    gives_back: bool = False
    damaged: bool = False
    """The log cannot be read before the command has mended it; a compress job brings back what was torn off."""


Prepare = Callable[[World], Case]


def run(world: World, *words: str) -> None:
    """One command to its end. Raises RuntimeError if it fails."""
    code = Running(world.command(*words)).wait(5 * MINUTE)
    if code:
        raise RuntimeError(f"{words} ended with {code}, see {world.work / 'log'}")


def first_compress(world: World) -> Case:
    """There is no archive yet."""
    return Case("first compress", world, ("compress",))


def next_compress(world: World) -> Case:
    """New and changed images: old shards are written again in the commit that brings the new rows."""
    run(world, "compress")
    return Case("next compress", world.put(next_night(1)), ("compress",))


def tenth_commit(world: World) -> Case:
    """The commit that also writes a checkpoint is among those of this run."""
    run(world, "compress", "shards.commit_every=1")
    for night in range(1, 4):
        world = world.put(next_night(night))
        run(world, "compress", "shards.commit_every=1")
    return Case("tenth commit", world.put(next_night(4)), ("compress", "shards.commit_every=1"))


def mirror_deletes(world: World) -> Case:
    """Inputs that vanished, and new ones."""
    run(world, "compress")
    gone = ("a/1.png", "b/cmyk.jpg", "notes.txt")
    world = world.take(*gone).put({"c/new.txt": b"new"})
    return Case("mirror deletes", world, ("compress", "--mirror-deletes", "--delete-limit", "1"), frozenset(gone))


def compact(world: World) -> Case:
    """Three nights of small shards."""
    run(world, "compress")
    for night in (1, 2):
        world = world.put(next_night(night))
        run(world, "compress")
    return Case("compact", world, ("compact",))


def erase(world: World) -> Case:
    """Two images of different shards go for good, and their bytes with them."""
    run(world, "compress")
    keys = ("a/3.png", "notes.txt")
    world = replace(world, erased=frozenset(keys))
    return Case("erase", world, ("erase", *keys, "--grace", "0", "--force", "--verify"), frozenset(keys))


def sweep(world: World) -> Case:
    """Replaced files and files that were never committed."""
    run(world, "compress")
    world = world.put(next_night(1))
    run(world, "compress")
    log = ArchiveLog.open(world.archive, None if world.server is None else world.server.config)
    for key in "xyz":
        shard_of(log, key)
    return Case("doctor sweep", world, ("doctor", "--sweep", "--grace", "0", "--force"))


def mend(world: World) -> Case:
    """A last commit that a power cut tore, and a checkpoint too. Local only."""
    case = tenth_commit(world)
    run(case.world, *case.words)
    log = Path(world.archive, "_delta_log")
    last = max(log.glob("*.json"))
    last.write_bytes(last.read_bytes()[:-200])
    for checkpoint in log.glob("*.checkpoint.parquet"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    return Case("doctor mend", case.world, ("doctor", "--mend"), damaged=True)


def reconstruct(world: World) -> Case:
    """Everything given back."""
    run(world, "compress")
    return Case("reconstruct", world, ("reconstruct",), gives_back=True)


ALL: tuple[Prepare, ...] = (
    first_compress, next_compress, tenth_commit, mirror_deletes, compact, erase, sweep, reconstruct, mend,
)  # fmt: skip
LOCAL_ONLY: tuple[Prepare, ...] = (mend,)
