"""Whatever is in the files of an archive, no command ends in a traceback: it does its work, or says what is wrong."""

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from cnnbatch import cli
from cnnbatch.archive.parquet import seal_footer
from cnnbatch.archive.schema import SCHEMA
from cnnbatch.archive.shards import SUMMARY_KEY
from jobs import compress, engine, nightly, reconstruct, verify
from jobs.command import run_command
from tests.fuzz.archives import DIGESTS, ODD_VALUES
from tests.jobs.conftest import run_inline
from tests.stages.pictures import as_file, waves

MADE = Path(__file__).parents[1] / "compat" / "v1" / "archive"
KEY = "alpha.png"
DEEP = "deep"
ODD = (*ODD_VALUES, 10**400, float("inf"), float("-inf"), float("nan"), -1.5, "\x1b[2J\n", "\ud800", [[]], {"": {}}, DEEP)
"""JSON values that no file of ours has in most places; `DEEP` stands for lists in lists, deeper than Python's stack."""

RUN = "run-0"
REPORT, NIGHT = f"_cnnbatch/runs/{RUN}.json", "_cnnbatch/runs/nightly-20260101T000000Z-abcdef.json"
Mutation = dict[str, bytes]
"""The files that are other than they were."""


@cache
def sound() -> dict[str, bytes]:
    """Every file of a small archive of four commits and a checkpoint, with the report of a run and of a night."""
    files = {str(path.relative_to(MADE)): path.read_bytes() for path in MADE.rglob("*") if path.is_file()}
    report = {"run_id": RUN, "config": {"source": "/nowhere"}, "failures": [{"key": "a"}], "finished_at": "2026-01-01T00:00:00"}
    night = {"archives": [{"cost": {"node_seconds": {"spot": 1.0}}, "source_bytes": 10**9}]}
    files[REPORT] = json.dumps(report).encode()
    files[NIGHT] = json.dumps(night).encode()
    return files


def documents() -> list[str]:
    return sorted(name for name in sound() if name.endswith(("json", "_last_checkpoint")))


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside of a JSON value, itself first; JSON in a string (Delta's statistics) is one too."""
    yield ()
    inside = _inside(value)
    items = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for name, one in items:
        yield from ((name, *rest) for rest in places(one))


def _inside(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def replaced(value: Any, place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    inside = copy.copy(_inside(value))
    inside[place[0]] = replaced(inside[place[0]], place[1:], odd)
    return json.dumps(inside) if isinstance(value, str) else inside


def dumped(value: Any) -> bytes:
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 100_000).encode()


@st.composite
def odd_documents(draw: st.DrawFn) -> Mutation:
    """A value of a JSON file replaced; half of the time no commit has digests that would tell."""
    files = sound()
    name = draw(st.sampled_from(documents()))
    lines = files[name].split(b"\n")
    at = draw(st.sampled_from([i for i, line in enumerate(lines) if line.strip()])) if "_delta_log" in name else 0
    value = json.loads(lines[at] if "_delta_log" in name else files[name])
    place = draw(st.sampled_from(list(places(value))))
    line = dumped(replaced(value, place, draw(st.sampled_from(ODD))))
    found = {name: b"\n".join((*lines[:at], line, *lines[at + 1 :])) if "_delta_log" in name else line}
    if draw(st.booleans()):
        commits = [one for one in files if one.startswith("_delta_log/0") and one.endswith(".json")]
        found = {one: DIGESTS.sub(b"", found.get(one, files[one])) for one in {*commits, name}}
    return found


@st.composite
def odd_footers(draw: st.DrawFn) -> Mutation:
    """What the footer of a shard says of it replaced, and sealed again, so that no digest tells."""
    name = draw(st.sampled_from(sorted(name for name in sound() if name.startswith("data/"))))
    file = pq.ParquetFile(pa.BufferReader(sound()[name]))
    summary = json.loads(file.metadata.metadata[SUMMARY_KEY.encode()])
    place = draw(st.sampled_from(list(places(summary))))
    return {name: with_summary(name, dumped(replaced(summary, place, draw(st.sampled_from(ODD)))))}


def with_summary(name: str, summary: bytes) -> bytes:
    table = pq.ParquetFile(pa.BufferReader(sound()[name])).read()
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCHEMA, write_page_checksum=True) as writer:
        writer.write_table(table.cast(SCHEMA))
        writer.add_key_value_metadata({SUMMARY_KEY: summary})
    return seal_footer(buffer.getvalue())


@st.composite
def damaged_files(draw: st.DrawFn) -> Mutation:
    """A file of any kind with one bit flipped, or without its end, or empty."""
    name = draw(st.sampled_from(sorted(sound())))
    data = bytearray(sound()[name])
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if data and draw(st.booleans()):
        data[at] ^= 1 << draw(st.integers(0, 7))
    else:
        del data[at:]
    return {name: bytes(data)}


def put(folder: Path, files: Mutation) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _cli(*words: str) -> Callable[[Path, Path], int]:
    return lambda archive, work: cli.main([words[0], str(archive), *(word.replace("WORK", str(work)) for word in words[1:])])


def _job(main: Any, *words: str) -> Callable[[Path, Path], int]:
    places = {"ARCHIVE": "archive", "SOURCE": "source"}
    return lambda archive, work: run_command(main, [str(work / places[w]) if w in places else w for w in words])


def _reconstruct(archive: Path, work: Path) -> int:
    return run_command(reconstruct.main, [str(archive), str(work / "back")])


def _nightly(archive: Path, work: Path) -> int:
    config = work / "nightly.yaml"
    config.write_text(json.dumps({"archives": [{"source": str(work / "source"), "archive": str(archive)}]}))
    return run_command(nightly.main, [str(config), "--dry-run"])


COMMANDS: dict[str, Callable[[Path, Path], int]] = {
    "info": _cli("info"),
    "ls": _cli("ls", "-l"),
    "get": _cli("get", KEY, "-o", "WORK/out.png"),
    "doctor": _cli("doctor"),
    "doctor --no-source": _cli("doctor", "--no-source"),
    "doctor --mend": _cli("doctor", "--mend", "--source", "WORK/source", "--json"),
    "doctor --sweep": _cli("doctor", "--sweep", "--grace", "0", "--force"),
    "restore-rows": _cli("restore-rows", "--dry-run"),
    "erase": _cli("erase", KEY, "--verify"),
    "compact": _cli("compact"),
    "verify": _job(verify.main, "ARCHIVE", "--level", "decode"),
    "verify --level log": _job(verify.main, "ARCHIVE", "--level", "log", "--json"),
    "reconstruct": _reconstruct,
    "compress --dry-run": _job(compress.main, "SOURCE", "ARCHIVE", "--dry-run"),
    "compress --retry-failed": _job(compress.main, "SOURCE", "ARCHIVE", "--retry-failed", RUN, "--dry-run"),
    "nightly": _nightly,
}


@pytest.fixture
def no_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "connect", lambda: None)
        patch.setattr(engine, "size_pool", lambda workers: engine.Pool(1, 1, 1, 0, 0, ()))
        patch.setattr(engine, "run", run_inline)
        yield


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder with a sound archive and two pictures to archive."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        work = Path(name)
        put(work / "archive", sound())
        put(work / "source", {KEY: as_file(waves(24, 24)), "new.png": as_file(waves(16, 24))})
        yield work


def run(command: str, mutation: Mutation) -> tuple[int, str]:
    """The exit code and what was printed, of a command on an archive with these files."""
    out, err = io.StringIO(), io.StringIO()
    with workplace() as work, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        put(work / "archive", mutation)
        code = COMMANDS[command](work / "archive", work)
    return code, out.getvalue() + err.getvalue()


def check(command: str, mutation: Mutation) -> None:
    code, said = run(command, mutation)
    assert code in range(6), (command, code)
    assert "Traceback" not in said
    assert "\x1b" not in said


MUTATIONS = st.one_of(odd_documents(), odd_documents(), odd_footers(), damaged_files())
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, phases=PHASES, suppress_health_check=list(HealthCheck), database=None
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_sound_archive_is_read(no_ray: None, command: str) -> None:
    code, said = run(command, {})
    assert code in ((0, 5) if command == "erase" else (0,)), said  # 5: replaced files still hold the erased image


@QUICK
@example(command="compress --retry-failed", mutation={REPORT: b"[" * 100_000})
@example(command="nightly", mutation={NIGHT: b'{"archives": [{"cost": {"node_seconds": {}}, "source_bytes": Infinity}]}'})
@given(command=st.sampled_from(sorted(COMMANDS)), mutation=MUTATIONS)
def test_no_command_ends_in_a_traceback(no_ray: None, command: str, mutation: Mutation) -> None:
    check(command, mutation)


@pytest.mark.slow
@settings(QUICK, max_examples=5000, derandomize=False, print_blob=True)
@given(command=st.sampled_from(sorted(COMMANDS)), mutation=MUTATIONS)
def test_no_command_ends_in_a_traceback_at_length(no_ray: None, command: str, mutation: Mutation) -> None:
    check(command, mutation)


FORMAT = "_cnnbatch/format.json"
COMMIT = f"_delta_log/{4:020}.json"


@pytest.mark.parametrize(
    ("command", "name", "data"),
    [
        ("info", FORMAT, b'{"version": Infinity}'),
        ("doctor", COMMIT, b"[" * 100_000),
        ("ls", "_delta_log/_last_checkpoint", b'{"version": -1e400}'),
    ],
)
def test_nor_as_a_process(command: str, name: str, data: bytes) -> None:
    with workplace() as work:
        put(work / "archive", {name: data})
        argv = [sys.executable, "-m", "cnnbatch.cli", command, str(work / "archive")]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode in range(6)
    assert "Traceback" not in ended.stderr + ended.stdout
