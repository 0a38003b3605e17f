"""Kills jobs of every kind at random points, runs them again, and counts what is lost, doubled or unreadable.

    python -m tests.kill.harness --kills 300 --seed 1 --target step,power,process,driver,worker,node --store local
    python -m tests.kill.harness --kills 200 --seed 1 --target step,process,store,driver,worker --store s3

    step      a process (driver and worker in one, without Ray) kills itself at one of its crash points
    power     the same on a local disk, which then forgets what was not synced; `cnnbatch doctor --mend` comes first
    process   that process gets SIGKILL at a random time
    race      two such processes at once on one archive, and in half of the runs the first is killed
    store     the SeaweedFS server gets SIGKILL at a random time, and is started again
    driver, worker, node   SIGKILL of a job's driver, of one of its actors, of a raylet of a Ray cluster

After each kill the same command runs to its end; the archive is audited before and after that.
"""

import argparse
import math
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.kill.campaign import LOCAL_ONLY, NODES, ON_RAY, S3_ONLY, SHARES, Harness, divide
from tests.kill.cluster import LocalCluster
from tests.kill.kills import Tally
from tests.seaweedfs import SeaweedFS


def report(target: str, store: str, tally: Tally) -> str:
    """One line of the result."""
    found = f"{tally.lost:5} {tally.duplicated:10} {tally.unreadable:10} {tally.other:5}"
    return (
        f"{target:8} {store:6} {tally.kills:5} {found} {tally.most_shards_lost:11} "
        f"{tally.slowest_rerun_s:13.1f} {tally.missed:6} {tally.seconds / max(1, tally.kills):7.1f}"
    )


HEADER = "target   store  kills  lost duplicated unreadable other shards_lost slowest_rerun missed s/kill"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 if anything was lost, doubled, unreadable or otherwise wrong."""
    options = _parser().parse_args(argv)
    targets = [target for target in options.target.split(",") if target not in (S3_ONLY, LOCAL_ONLY)[options.store == "s3"]]
    tallies: list[Tally] = []
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="kill-"))
        if not options.keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(SeaweedFS(folder / "seaweedfs")) if options.store == "s3" else None
        print(f"{platform.machine()}, Python {platform.python_version()}, seed {options.seed}\n{HEADER}", flush=True)
        harness = Harness(folder, server, options.seed, deadline=time.monotonic() + 60 * options.minutes)
        if options.every_step:
            tallies.append(harness.every_step())
            print(report("every", options.store, tallies[-1]), flush=True)
        for target, kills in divide(options.kills, targets).items():
            with ExitStack() as ray:
                cluster = ray.enter_context(LocalCluster(NODES)) if target in ON_RAY else None
                tallies.append(harness.run(target, kills, cluster))
            print(report(target, options.store, tallies[-1]), flush=True)
    for fault in (fault for tally in tallies for fault in tally.faults):
        print(f"  {fault}")
    wrong = sum(tally.lost + tally.duplicated + tally.unreadable + tally.other for tally in tallies)
    print(f"{sum(tally.kills for tally in tallies)} kills, {wrong} faults")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.kill.harness", description="Kill jobs, run them again, look.")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time, with what was done until then")
    parser.add_argument("--target", default=",".join(SHARES), help=f"of {', '.join(SHARES)}; default: all")
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    parser.add_argument("--every-step", action="store_true", help="also a kill at every crash point of every command")
    parser.add_argument("--keep", action="store_true", help="leave the folders, those of faults above all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
