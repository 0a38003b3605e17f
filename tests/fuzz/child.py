"""The process that runs one target over many inputs; started, watched and started again by `tests.fuzz.run`.

Every input has `SECONDS` of processor time, after which the kernel ends the process, be it in Python or in C. Memory is
measured after every input, against what the process had when the target was loaded.
"""

import argparse
import contextlib
import hashlib
import importlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.mutations import mutate
from tests.fuzz.state import State

SECONDS = 2.0
MEMORY_MIB = 256
ADDRESS_SPACE_MIB = 8192  # beyond what is loaded: an allocation that is not used costs nothing, but has a limit too
REPAIRED = 0.4
"""Share of inputs whose checksums are made right."""

INSTRUMENTED = ["cnnbatch.archive", "cnnbatch.codec.container", "cnnbatch.codec.codec_file", "cnnbatch.images",
                "cnnbatch.reading", "cnnbatch.stages.restoring", "PIL"]  # fmt: skip
BEFORE = ("torch", "pyarrow.parquet", "deltalake", "imagecodecs", "botocore.session", "skimage", "hypothesis",
          "cnnbatch.codec.entropy_coding.rans")  # fmt: skip
"""Imported without instrumentation: slow to instrument, or compiled by numba."""


class Runner:
    """Runs inputs and notes what goes wrong."""

    def __init__(self, name: str, state: State, findings: Path) -> None:
        from tests.fuzz.targets import TARGETS

        self.target, self.state, self.folder = TARGETS[name], state, findings
        self.corpus = list(self.target.seeds())
        self.known: set[str] = set()
        self.target.run(self.corpus[0])  # what is loaded or compiled at first use belongs to no input
        state.base_kib = state.peak_kib = peak_kib()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + (ADDRESS_SPACE_MIB << 20), hard))

    def __call__(self, data: bytes) -> None:
        self.state.begin(data, time.monotonic())
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            self.target.run(data)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            self._note(data, "".join(traceback.format_exception(error)), of=f"{type(error)}{places(error)}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self._check_memory(data)
        self.state.end()

    def change(self, rng: random.Random, data: bytes) -> bytes:
        """An input made of another one."""
        changed = mutate(rng, data, self.corpus, max_size=self.target.max_size)
        return self.target.repair(changed, rng) if rng.random() < REPAIRED else changed

    def _check_memory(self, data: bytes) -> None:
        peak = peak_kib()
        if peak <= self.state.peak_kib:
            return
        self.state.peak_kib = peak
        if peak - self.state.base_kib > MEMORY_MIB << 10:
            self._note(data, f"memory rose by {peak - self.state.base_kib >> 10} MiB", of=f"memory {peak >> 17}")

    def _note(self, data: bytes, text: str, *, of: str) -> None:
        self.state.findings += 1
        if of not in self.known:
            self.known.add(of)
            save(self.folder, self.target.name, data, text)


def save(folder: Path, target: str, data: bytes, text: str) -> Path:
    """Keep an input that something is wrong with, and beside it what."""
    path = folder / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(text)
    return path


def places(error: BaseException) -> list[tuple[str, int | None]]:
    """Where it was raised: the same bug under two inputs is saved once."""
    return [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)[-3:]]


def peak_kib() -> int:
    """Largest resident memory of this process so far; ``ru_maxrss`` would begin with that of its parent."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run_random(runner: Runner, *, count: int, seed: int) -> None:
    """The seeds as they are, then mutations of them."""
    rng = random.Random(seed)
    for data in runner.corpus[runner.state.executions : count]:  # after a death: the rest of them
        runner(data)
    while runner.state.executions < count:
        runner(runner.change(rng, rng.choice(runner.corpus)))


def run_guided(runner: Runner, *, count: int, seed: int) -> None:
    """Atheris keeps what reaches new lines of Python, and changes it on; every other change is one of ours."""
    import atheris

    def change(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.randrange(2):
            return runner.change(rng, data)[:max_size]
        changed = atheris.Mutate(data, max_size)
        return (runner.target.repair(changed, rng) if rng.random() < REPAIRED else changed)[:max_size]

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(runner.corpus):
            Path(corpus, str(number)).write_bytes(data)
        left = count - runner.state.executions
        options = [f"-runs={left}", f"-seed={seed}", f"-max_len={runner.target.max_size}", "-rss_limit_mb=0", "-timeout=60"]
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=0", "-verbosity=0", corpus], runner, custom_mutator=change)
        atheris.Fuzz()


def instrumented() -> contextlib.AbstractContextManager[None]:
    """Imports inside of it report which of their lines run."""
    import atheris

    for name in BEFORE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    manager: contextlib.AbstractContextManager[None] = atheris.instrument_imports(
        include=INSTRUMENTED, enable_loader_override=False
    )
    return manager


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    for name in ("target", "engine", "state", "findings"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    os.environ["MALLOC_ARENA_MAX"] = "2"
    state = State(Path(args.state))
    guided = args.engine == "atheris"
    with instrumented() if guided else contextlib.nullcontext():
        runner = Runner(args.target, state, Path(args.findings))
    if guided:
        run_guided(runner, count=args.count, seed=args.seed)
    else:
        run_random(runner, count=args.count, seed=args.seed)


if __name__ == "__main__":
    main()
