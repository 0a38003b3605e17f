"""A shard that is gone or damaged leaves the log on demand: what can be read stays, what the source has comes again."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest

from cnnbatch.archive import ArchiveLog, shards, write_shard
from cnnbatch.archive.orphans import find_orphans
from cnnbatch.archive.restore import removed_rows, restore
from cnnbatch.errors import ArchiveError
from cnnbatch.spill import Scratch
from cnnbatch.stages.difference import ArchivedRows, compare
from cnnbatch.stages.listing import Scan
from cnnbatch.stages.mending import Loss, examine_shards
from cnnbatch.storage import open_store
from tests.archive.rows import CODEC_FILE, LINEAGE, coded, keys_of, rows_of, shard_of
from tests.archive.test_archive_around import flipped_footer, gone, spoiled


@pytest.fixture
def log(tmp_path: Path) -> ArchiveLog:
    return ArchiveLog.create_or_open(str(tmp_path / "archive"), codec_files=[CODEC_FILE])


def source_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"?")
    return folder


def examine(log: ArchiveLog, source: Path | None, *, mend: bool = False) -> list[Loss]:
    return examine_shards(log, None if source is None else open_store(str(source)), run_id="doctor-1", mend=mend)


def to_archive(log: ArchiveLog, source: Path) -> list[str]:
    """What the next run takes as new."""
    rows, scan = ArchivedRows(log.store, log.snapshot().shards), Scan(open_store(str(source)))
    with Scratch(None, memory_bytes=1 << 30) as scratch:
        found = compare(scratch, scan, rows, num_shards=9, hides=scan.hides, unreadable=rows.unreadable)
        new = (table.filter(pc.is_null(table.column("held"))) for table in found.todo)
        return [key for table in new for key in table.column("key").to_pylist()]


@spoiled
def test_what_the_source_has_is_archived_again_and_the_rest_is_told(
    log: ArchiveLog, spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    bad = shard_of(log, "b", "c", "d")
    log.commit("run", 0, [shard_of(log, "a"), bad, shard_of(log, "c1", "y")])
    spoil(Path(log.store.url, bad.path))
    source = source_of(tmp_path, "a", "b", "c1", "d", "z")
    [loss] = examine(log, source)
    assert (loss.path, loss.kept, loss.again, loss.lost, loss.mended) == (bad.path, 0, ("b", "d"), 1, False)
    assert log.snapshot().num_rows == 6  # looking changes nothing
    assert [one.mended for one in examine(log, source, mend=True)] == [True]
    assert examine(log, source) == []
    assert keys_of(rows_of(log)) == ["a", "c1", "y"]
    assert to_archive(log, source) == ["b", "d", "z"]
    assert bad.path not in {orphan.path for orphan in find_orphans(log) if orphan.ripe}


def test_rows_that_can_be_read_are_kept(log: ArchiveLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "TINY_GROUP_ROWS", 2)
    bad = shard_of(log, *"bcdefg")
    log.commit("run", 0, [bad])
    path = Path(log.store.url, bad.path)
    data = bytearray(path.read_bytes())
    data[40] ^= 4  # in the keys of the first two
    path.write_bytes(data)
    source = source_of(tmp_path, "b", "d")
    [loss] = examine(log, source, mend=True)
    assert (loss.kept, loss.again, loss.lost, loss.mended) == (4, ("b",), 1, True)
    assert keys_of(rows_of(log)) == list("defg")
    assert to_archive(log, source) == ["b"]


def test_rows_that_can_only_be_named_are(log: ArchiveLog, tmp_path: Path) -> None:
    icc = bytes(range(250))
    bad = write_shard(log.store, [coded("a", icc=icc), coded("b"), coded("c")], footer=LINEAGE)
    log.commit("run", 0, [bad])
    path = Path(log.store.url, bad.path)
    path.write_bytes(path.read_bytes().replace(icc[100:150], b"!" * 50))
    [loss] = examine(log, source_of(tmp_path, "b"), mend=True)
    assert (loss.kept, loss.again, loss.lost, loss.lost_keys) == (0, ("b",), 2, ("a", "c"))
    assert rows_of(log) == []


def test_without_a_source_all_that_cannot_be_read_is_lost(log: ArchiveLog) -> None:
    bad = shard_of(log, "b", "c")
    log.commit("run", 0, [bad, shard_of(log, "x")])
    flipped_footer(Path(log.store.url, bad.path))
    [loss] = examine(log, None, mend=True)
    assert (loss.again, loss.lost, loss.mended) == ((), 2, True)
    assert keys_of(rows_of(log)) == ["x"]


def test_a_file_that_comes_back_gives_its_rows_back(log: ArchiveLog) -> None:
    bad = shard_of(log, "b", "c")
    log.commit("run", 0, [bad, shard_of(log, "x")])
    path = Path(log.store.url, bad.path)
    data = path.read_bytes()
    gone(path)
    examine(log, None, mend=True)
    path.write_bytes(data)
    restore(log, removed_rows(log), run_id="restore")
    assert keys_of(rows_of(log)) == ["b", "c", "x"]


def test_an_archive_whose_files_are_all_away_is_left_as_it_is(log: ArchiveLog) -> None:
    log.commit("run", 0, [shard_of(log, "b"), shard_of(log, "x")])
    for info in list(log.store.list("data")):
        log.store.delete(info.key)
    assert [loss.lost for loss in examine(log, None)] == [1, 1]
    with pytest.raises(ArchiveError, match="none of the 2 shards"):
        examine(log, None, mend=True)
    assert log.snapshot().num_rows == 2


def test_an_archive_that_is_sound_stays_as_it_is(log: ArchiveLog, tmp_path: Path) -> None:
    log.commit("run", 0, [shard_of(log, "b"), shard_of(log, "x")])
    version = log.snapshot().version
    assert examine(log, source_of(tmp_path, "c"), mend=True) == []
    assert log.snapshot().version == version
