"""Erasing: what is to go goes, whatever else is under way, and does not come back."""

from datetime import timedelta

import pytest

from cnnbatch.archive import ArchiveLog, open_archive, rewrite_without
from cnnbatch.archive import log as log_module
from cnnbatch.archive.doctor import examine
from cnnbatch.archive.erased import ERASED, add_erased, part_path, read_erased
from cnnbatch.archive.maintenance import Erasure, erase
from cnnbatch.archive.merge import Change
from cnnbatch.archive.orphans import holders, sweep
from cnnbatch.archive.trust import Look
from cnnbatch.errors import ArchiveError, DamagedRow
from cnnbatch.stages import verify_plan
from cnnbatch.stages.codec_shelf import CodecShelf
from cnnbatch.stages.records import VerifyTask
from cnnbatch.stages.settings import VerifySettings
from cnnbatch.stages.verify import ShardVerifier
from tests.archive.rows import flip, keys_of, rows_of, shard_of

NOW = timedelta(0)


def test_an_erased_image_is_gone_and_the_others_are_not(log: ArchiveLog) -> None:
    log.commit("run", 0, [shard_of(log, "a", "b", "c"), shard_of(log, "d"), shard_of(log, "e", "f")])
    result = erase(log, ["b", "d", "never"], run_id="erase-1")
    assert (result.erased, len(result.replaced)) == (("b", "d"), 2)
    assert keys_of(rows_of(log)) == ["a", "c", "e", "f"]
    assert log.snapshot().version == 2  # one commit
    assert erase(log, ["b", "d"], run_id="erase-2").erased == ()


def test_the_bytes_are_gone_after_the_grace(log: ArchiveLog) -> None:
    shard_of(log, "secret", "x")  # an orphan that holds it too
    log.commit("run", 0, [shard_of(log, "secret", "y")])
    erase(log, ["secret"], run_id="erase")
    assert len(list(holders(log.store, frozenset(["secret"])))) == 2
    sweep(log, grace=NOW, forced=True)
    assert list(holders(log.store, frozenset(["secret"]))) == []
    assert not any(b"secret" in log.store.read(info.key) for info in log.store.list("data"))


def test_the_list_does_not_keep_the_key(log: ArchiveLog) -> None:
    add_erased(log.store, ["a/private name.jpg"])
    assert "a/private name.jpg" in read_erased(log.store)
    assert "a/private" not in read_erased(log.store)
    assert not any(b"private" in log.store.read(info.key) for info in log.store.list(ERASED))
    before = list(log.store.list(ERASED))
    add_erased(log.store, ["a/private name.jpg"])
    assert list(log.store.list(ERASED)) == before


@pytest.mark.parametrize("data", [b"", b"[]", b'{"version": 2, "key_sha256": []}', b'{"version": 1, "key_sha256": ["x"]}'])
def test_a_damaged_erased_list_stops_everything_rather_than_bring_an_image_back(log: ArchiveLog, data: bytes) -> None:
    log.store.put(part_path(data), data)
    with pytest.raises(ArchiveError, match="erased list"):
        log.commit("run", 0, [shard_of(log, "a")])


def test_a_flipped_bit_of_the_erased_list_is_noticed_and_put_right(log: ArchiveLog) -> None:
    erase(log, ["a"], run_id="erase")
    [part] = log.store.list(ERASED)
    data = log.store.read(part.key)
    for at in range(0, len(data), 7):
        log.store.put(part.key, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(ArchiveError, match=r"erased list.*is damaged"):
            read_erased(log.store)
        assert {f.kind for f in verify_plan.check_log(log.store, log.look())} == {"damaged-erased-list"}
        assert {fault.kind for fault in examine(log.store.url).faults} == {"damaged-erased-list"}
        assert examine(log.store.url, mend=True).is_sound
        assert log.store.read(part.key) == data


def test_a_list_that_is_lost_is_made_again_by_the_same_erasure(log: ArchiveLog) -> None:
    erase(log, ["a"], run_id="erase")
    [part] = log.store.list(ERASED)
    log.store.put(part.key, b"lost")
    assert "erase the same keys again" in examine(log.store.url, mend=True).faults[0].message
    erase(log, ["a", "b"], run_id="erase-2")
    log.store.delete(part.key)
    assert {key for key in ("a", "b", "c") if key in read_erased(log.store)} == {"a", "b"}


def test_a_commit_under_way_beside_an_erasure_is_decided_again(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write = log_module._write_commit
    erasures: list[Erasure] = []

    def is_late(look: Look, change: Change, run_id: str, sequence: int) -> None:
        if not run_id.startswith("erase") and not erasures:  # this one has read the list, and its rows are not in yet
            erasures.append(erase(ArchiveLog.open(log.store.url), ["a"], run_id="erase"))
        write(look, change, run_id, sequence)

    monkeypatch.setattr(log_module, "_write_commit", is_late)
    assert log.commit("run", 0, [shard_of(log, "a", "b")]).dropped == ("a",)
    assert erasures[0].erased == ()
    assert keys_of(rows_of(log)) == ["b"]


def test_verify_names_an_erased_image_that_is_live(log: ArchiveLog) -> None:
    log.commit("run", 0, [shard_of(log, "a", "b")])
    add_erased(log.store, ["b"])  # and nothing else, as a commit that took no notice of it would leave it
    [shard] = log.snapshot().shards
    found = ShardVerifier(log.store, CodecShelf(log.store), VerifySettings())(VerifyTask(0, shard))
    assert [(finding.kind, finding.key) for finding in found.findings] == [("erased-key", "b")]
    assert found.tally.images == {"sound": 1, "faulty": 1}


def test_a_run_that_is_under_way_does_not_bring_an_erased_key_back(log: ArchiveLog) -> None:
    base = log.snapshot()
    waiting = shard_of(log, "a", "b")
    erase(ArchiveLog.open(log.store.url), ["a"], run_id="erase")
    assert log.commit("run", 0, [waiting], base=base).dropped == ("a",)
    assert keys_of(rows_of(log)) == ["b"]


def test_an_erasure_goes_on_when_another_writer_replaces_the_shard(log: ArchiveLog, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(log, "a", "b", "c")
    log.commit("run", 0, [shard])
    commit = ArchiveLog.commit

    def is_late(self: ArchiveLog, *arguments: object, **keywords: object) -> object:
        monkeypatch.setattr(ArchiveLog, "commit", commit)
        rest = rewrite_without(log.store, shard.path, {"c"})
        assert rest is not None
        commit(log, "other", 0, [rest, shard_of(log, "c", text="new ")])
        return commit(self, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(ArchiveLog, "commit", is_late)
    assert erase(ArchiveLog.open(log.store.url), ["a"], run_id="erase").erased == ("a",)
    assert [row.payload for row in rows_of(log)] == [b"b", b"new c"]


def test_a_damaged_neighbour_holds_up_no_erasure_and_stays_reported(log: ArchiveLog) -> None:
    shard = shard_of(log, "a", "neighbour", "sound", text="payload of ")
    log.commit("run", 0, [shard])
    flip(log, shard.path, b"payload of n")
    assert erase(log, ["a"], run_id="erase").erased == ("a",)
    damaged, sound = open_archive(log.store.url).rows()
    assert isinstance(damaged, DamagedRow)
    assert (damaged.key, keys_of([sound])) == ("neighbour", ["sound"])
