"""Tables on disk: the same rows come back, each value in one range, and nothing stays behind."""

import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch import spill
from cnnbatch.errors import StorageError
from cnnbatch.spill import Pile, Scratch, Spill, ranges

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])
ROOT = Path(__file__).parents[2]


def table(keys: list[str]) -> pa.Table:
    return pa.table([keys, list(range(len(keys)))], schema=SCHEMA)


@settings(max_examples=40, deadline=None)
@given(
    lists=st.lists(st.lists(st.text("abé𝄞", max_size=3), max_size=30), max_size=5),
    others=st.lists(st.text("abé𝄞", max_size=3), max_size=30),
    memory_bytes=st.sampled_from([1, 2000, 1 << 30]),
    batch_rows=st.sampled_from([1, 3, 1024]),
)
def test_rows_come_back_once_in_rising_ranges(
    lists: list[list[str]], others: list[str], memory_bytes: int, batch_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, Scratch(None, memory_bytes=memory_bytes) as scratch:
        patch.setattr(spill, "BATCH_ROWS", batch_rows)
        one, other = Spill(scratch, SCHEMA, by="key"), Spill(scratch, SCHEMA, by="key")
        for keys in lists:
            one.add(table(keys))
        other.add(table(others))
        found = [[part.to_pylist() for part in parts] for parts in ranges(one, other)]
    wanted = [row for keys in lists for row in table(keys).to_pylist()]
    assert sorted(row["key"] for parts in found for row in parts[0]) == sorted(row["key"] for row in wanted)
    assert sorted(row["key"] for parts in found for row in parts[1]) == sorted(others)
    spans = [{row["key"] for part in parts for row in part} for parts in found]
    for lower, upper in pairwise(spans):
        assert not lower or not upper or max(lower) < min(upper)
    assert one.num_rows == len(wanted)


def test_what_is_small_never_touches_the_disk_and_what_is_large_is_gone_at_the_end(tmp_path: Path) -> None:
    with Scratch(str(tmp_path), memory_bytes=1 << 20) as scratch:
        small, pile = Spill(scratch, SCHEMA, by="key"), Pile(scratch, SCHEMA)
        small.add(table(["b", "a"]))
        pile.add(table(["c"]))
        assert [[row["key"] for row in part.to_pylist()] for [part] in ranges(small)] == [["b", "a"]]
        assert list(tmp_path.iterdir()) == []
        for _ in range(3):
            pile.add(table([f"{i:0100}" for i in range(3000)]))
        assert sum(part.num_rows for part in pile) == sum(part.num_rows for part in pile) == 9001
        assert len(list(tmp_path.rglob("*.arrow"))) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_folder_that_the_next_one_removes_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    code = f"""
import sys, time
from cnnbatch.spill import Scratch
with Scratch({str(tmp_path)!r}, memory_bytes=1) as scratch:
    scratch.path().write_bytes(b"rows")
    print("ready", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Scratch(str(tmp_path), memory_bytes=1) as scratch:
            scratch.path()
            assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    [left] = tmp_path.iterdir()
    with Scratch(str(tmp_path), memory_bytes=1) as scratch:
        scratch.path()
        assert not left.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_and_a_folder_that_is_not_there_end_as_one_sentence(tmp_path: Path) -> None:
    full = tmp_path / "full.arrow"
    full.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"the disk is full.*planning\.folder"):
        spill.write_tables(full, [table([str(i) for i in range(100_000)])], SCHEMA)
    with pytest.raises(StorageError, match="No such file"):
        Scratch(str(tmp_path / "nowhere"), memory_bytes=1).path()
