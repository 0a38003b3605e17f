"""One shard that is gone, or cannot be read, is in nobody's way: what else there is is read, archived and erased."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cnnbatch.archive import ArchiveLog, open_archive, read_shard, write_shard
from cnnbatch.archive.maintenance import erase
from cnnbatch.errors import ArchiveError, DamagedRow
from cnnbatch.spill import Scratch
from cnnbatch.stages.difference import ArchivedRows, compare
from cnnbatch.stages.listing import Scan
from cnnbatch.stages.reconstruct import plan_tasks
from cnnbatch.storage import open_store
from tests.archive.rows import LINEAGE, coded, keys_of, shard_of


def gone(path: Path) -> None:
    path.unlink()


def flipped_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)


def flipped_keys(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 4
    path.write_bytes(data)


spoiled = pytest.mark.parametrize("spoil", [gone, flipped_footer, flipped_keys])


def make(log: ArchiveLog, spoil: Callable[[Path], None]) -> str:
    bad = shard_of(log, "b", "d")
    log.commit("run", 0, [shard_of(log, "a"), bad, shard_of(log, "x", "y")])
    spoil(Path(log.store.url, bad.path))
    return bad.path


@spoiled
def test_the_others_are_read_before_it_is_told(log: ArchiveLog, spoil: Callable[[Path], None]) -> None:
    bad = make(log, spoil)
    archive = open_archive(log.store.url)
    for read in (archive.keys, lambda: archive.columns(["outcome"])):
        found: list[object] = []
        with pytest.raises(ArchiveError, match=bad):
            found.extend(read())  # type: ignore[operator]
        assert len(found) == 3
    assert [task.num_images for task in plan_tasks(archive, "*[abxy]")] == [1, 0, 2]


@spoiled
def test_what_it_cannot_hold_is_new(log: ArchiveLog, spoil: Callable[[Path], None], tmp_path: Path) -> None:
    make(log, spoil)
    for name in ("a", "b", "c", "new", "x"):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(b"?")
    rows = ArchivedRows(log.store, log.snapshot().shards)
    scan = Scan(open_store(str(tmp_path / "source")))
    with Scratch(None, memory_bytes=1 << 30) as scratch:
        found = compare(scratch, scan, rows, num_shards=3, hides=scan.hides, unreadable=rows.unreadable)
        todo = [key for table in found.todo for key in table.column("key").to_pylist()]
    assert (todo, found.hidden, found.vanished) == (["a", "new", "x"], 2, 1)


@spoiled
def test_others_are_erased_and_it_is_named(log: ArchiveLog, spoil: Callable[[Path], None]) -> None:
    bad = make(log, spoil)
    result = erase(log, ["c", "x"], run_id="erase")
    assert (result.erased, result.unreadable) == (("x",), (bad,))


def test_rows_whose_metadata_is_damaged_are_named(log: ArchiveLog) -> None:
    icc = bytes(range(250))
    shard = write_shard(log.store, [coded("a", icc=icc), coded("b")], footer=LINEAGE)
    path = Path(log.store.url, shard.path)
    data = path.read_bytes()
    at = data.index(icc[100:150])
    path.write_bytes(data[:at] + b"!" + data[at + 1 :])
    rows = list(read_shard(log.store, shard.path))
    assert [row.key for row in rows if isinstance(row, DamagedRow)] == ["a", "b"]
    assert keys_of(rows) == []
