"""Fuzzes one reader of untrusted bytes, and prints what it did.

    python -m tests.fuzz.run --target bitstream --count 100000 --seed 1
    python -m tests.fuzz.run --target images --engine atheris --count 100000

Inputs are mutations of valid ones and of the difficult files; more than half of them get right checksums, so that they
reach what lies behind. ``random`` needs nothing; ``atheris`` (`pip install cnnbatch[fuzz]`) follows the coverage of the
Python code. Inputs under which something was wrong are kept in --findings. Ends with 1 if there were any.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import MEMORY_MIB, SECONDS, save
from tests.fuzz.state import State

TARGETS = ("bitstream", "entropy", "codec_file", "dense", "dense_file", "log", "parquet", "images", "cnb", "planted")
WALL_SECONDS = 30.0
"""An input that neither ends nor uses a processor for so long is a hang as well."""

START_SECONDS = 120.0
MAX_DEATHS = 20


@dataclass(slots=True)
class Campaign:
    """One run of the command. ``deaths`` counts by what the process died of."""

    target: str
    engine: str
    count: int
    seed: int
    findings: Path
    deaths: Counter[str] = field(default_factory=Counter)
    exceptions: int = 0

    def run(self) -> str:
        """Fuzz to the end; returns the line to print."""
        self.findings.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            state = State(Path(folder, "state"))
            while state.read().executions < self.count and self.deaths.total() < MAX_DEATHS:
                self._run_child(Path(folder, "state"), state)
            self.exceptions = state.findings
            rose = state.peak_kib - state.base_kib >> 10
            seconds = time.monotonic() - started
            return (
                f"{self.target:<11}{self.engine:<9}seed {self.seed:<6}{state.executions:>9,} executions  "
                f"{self.deaths['crash'] + self.exceptions} crashes  {self.deaths['hang']} hangs  "
                f"peak memory {state.peak_kib >> 10} MiB, {rose} MiB over the loaded program (limit {MEMORY_MIB})  "
                f"{seconds:.0f} s"
            )

    def _run_child(self, path: Path, state: State) -> None:
        before = state.executions
        options = {"target": self.target, "engine": self.engine, "state": path, "findings": self.findings, "count": self.count}
        options["seed"] = self.seed + 1000 * self.deaths.total()
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        environment = os.environ | {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        log = self.findings / f"{self.target}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child", *words], stdout=output, stderr=output, env=environment
            )
        hung = self._wait(child, state)
        state.read()
        if hung or child.returncode == -signal.SIGPROF:
            self._died("hang", state, f"took over {SECONDS:g} s")
        elif child.returncode and state.started:
            self._died("crash", state, f"ended with {child.returncode}, see {log}")
        elif state.executions == before:
            raise SystemExit(f"the fuzzing process ended with {child.returncode} before its first input, see {log}")

    def _died(self, of: str, state: State, text: str) -> None:
        self.deaths[of] += 1
        print(f"{of}: {text}: {save(self.findings, self.target, state.input, text)}", file=sys.stderr)
        state.executions += 1  # the one it died of
        state.started = 0.0
        state._write()

    def _wait(self, child: "subprocess.Popen[bytes]", state: State) -> bool:
        """Whether it had to be ended: nothing came to an end for `WALL_SECONDS`."""
        begun = time.monotonic()
        while child.poll() is None:
            time.sleep(0.05)
            state.read()
            limit, since = (WALL_SECONDS, state.started) if state.started else (START_SECONDS, begun)
            if not state.started and state.executions:
                begun = time.monotonic()
            if time.monotonic() - since > limit:
                child.kill()
                child.wait()
                return True
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Fuzz one reader of untrusted bytes.")
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--count", type=int, default=10_000, help="inputs to run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir(), "cnnbatch-fuzz"))
    args = parser.parse_args(argv)
    campaign = Campaign(args.target, args.engine, args.count, args.seed, args.findings)
    print(campaign.run(), flush=True)
    return 1 if campaign.deaths or campaign.exceptions else 0


if __name__ == "__main__":
    sys.exit(main())
