"""What is special about folders: links, odd files and names, durability, leftovers."""

import errno
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from cnnbatch.errors import StorageError, Unreadable, UsageError
from cnnbatch.storage import local, open_store
from cnnbatch.storage.durable import has_hard_links
from cnnbatch.storage.keys import TEMPORARY_PREFIX


def faults(root: Path) -> dict[str, str | None]:
    return {info.key: info.fault for info in open_store(str(root)).list()}


def test_links_are_read_inside_the_root_and_never_followed_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "sub/file").write_bytes(b"x")
    (root / "inside").symlink_to("sub/file")
    (root / "folder").symlink_to("sub")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to("..")
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    store = open_store(str(root))
    found = {info.key: info for info in store.list()}
    assert {key: info.fault for key, info in found.items()} == {
        "sub/file": None,
        "inside": None,
        "outside": "link",
        "up": "link",
        "broken": "link",
        "loop": "link",
    }
    assert store.get(found["inside"]) == b"x"
    with pytest.raises(Unreadable) as caught:
        store.get(found["outside"])
    assert caught.value.reason == "link"


def test_a_link_that_appears_after_the_listing_is_not_followed_out(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    store = open_store(str(tmp_path / "root"))
    store.put("a", b"secret")
    info = next(store.list())
    (tmp_path / "root/a").unlink()
    (tmp_path / "root/a").symlink_to(tmp_path / "secret")
    with pytest.raises(Unreadable) as caught:
        store.get(info)
    assert caught.value.reason == "link"
    with pytest.raises(StorageError):
        store.read("a")


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "root/way").symlink_to(tmp_path / "out")
    with pytest.raises(UsageError):
        open_store(str(tmp_path / "root")).put("way/file", b"x")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("key", ["../secret", "sub/../../secret", "/etc/passwd", "", "."])
def test_nothing_is_read_outside_the_root(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root").mkdir()
    with pytest.raises(UsageError):
        open_store(str(tmp_path / "root")).read(key)


def test_a_name_that_is_not_utf8_is_listed_as_a_fault(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    store = open_store(str(tmp_path))
    info = next(store.list())
    assert (info.key, info.fault, info.size) == ("caf\\xe9.jpg", "name", 1)
    info.key.encode()
    with pytest.raises(Unreadable) as caught:
        store.get(info)
    assert caught.value.reason == "name"


def test_pipes_and_sockets_are_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    assert faults(tmp_path) == {"file": None}


def test_a_folder_we_may_not_list_is_a_fault_and_not_silence(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    (tmp_path / "closed").mkdir(mode=0)
    assert faults(tmp_path) == {"closed": "forbidden"}


def test_an_odd_local_name_is_listed_and_read_though_never_written(tmp_path: Path) -> None:
    (tmp_path / "a\nb\\c").write_bytes(b"x")
    store = open_store(str(tmp_path))
    info = next(store.list())
    assert info.key == "a\nb\\c"
    assert store.get(info) == b"x"


def test_a_rewrite_of_equal_length_is_noticed_by_its_time(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"before")
    info = next(store.list())
    time.sleep(0.02)  # kernel time stamps are 4 ms apart
    store.put("a", b"behind")
    with pytest.raises(Unreadable) as caught:
        store.get(info)
    assert caught.value.reason == "changed"


def test_a_file_in_the_way_of_a_folder_is_one_sentence(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"x")
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StorageError, match=r"cannot write .*/a/b: "):
            write("a/b", b"x")
    store.put("folder/x", b"x")
    with pytest.raises(StorageError):
        store.put("folder", b"x")
    with pytest.raises(FileNotFoundError):
        store.read("folder")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"old")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("cnnbatch.storage.durable.os.fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(StorageError, match="No space left"):
        store.put("a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert store.read("a") == b"old"


def test_of_many_each_file_is_synced_before_it_has_its_name_and_then_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    store.put_many([("x/first", b""), ("y/first", b"")])
    done: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(tmp_path)}")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        assert f"sync {path.relative_to(tmp_path)}" in done
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    assert list(store.put_many([("x/1", b"1"), ("y/2", b"2"), ("x/3", b"3")])) == [None] * 3
    assert sorted(done[-2:]) == ["sync x", "sync y"]
    assert (done.count("rename"), len(done)) == (3, 8)
    done.clear()
    assert list(store.create_many([("x/1", b"1"), ("x/4", b"2"), ("y/5", b"3")])) == [False, True, True]
    assert sorted(done[-2:]) == ["sync x", "sync y"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["1", "2", "3", "4", "5", "first", "first"]


def test_of_many_those_that_cannot_be_written_are_named_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    store.put("folder/x", b"x")
    store.put("file", b"x")
    outcomes = store.put_many([("folder", b"1"), ("good", b"2"), ("file/below", b"3")])
    assert [type(outcome) for outcome in outcomes] == [StorageError, type(None), StorageError]
    assert [getattr(outcome and outcome.__cause__, "errno", None) for outcome in outcomes[::2]] == [errno.EISDIR, errno.EEXIST]
    monkeypatch.setattr(local, "_writes", lambda data: lambda file: _full_disk(file, data))
    assert {str(outcome)[-23:] for outcome in store.put_many([("a", b"1"), ("good", b"3")])} == {"No space left on device"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "good", "x"]
    assert store.read("good") == b"2"


FEW_FILES = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from cnnbatch.storage import open_store
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
store = open_store(sys.argv[1])
with ThreadPoolExecutor(16) as pool:
    for outcomes in pool.map(store.put_many, [[(f"{n}/{m}", b"x") for m in range(64)] for n in range(16)]):
        assert list(outcomes) == [None] * 64, outcomes
"""


def test_a_process_that_may_have_few_files_open_writes_as_many(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FEW_FILES, str(tmp_path)], check=True)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 16 * 64


def _full_disk(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    raise OSError(errno.ENOSPC, "No space left on device")


KILLED_WRITER = """
import sys, time
from cnnbatch.storage.durable import replace_file
from pathlib import Path
def fill(file):
    file.write(b"half"); file.flush(); print("half", flush=True); time.sleep(60)
replace_file(Path(sys.argv[1]), fill)
"""


def test_a_killed_writer_leaves_nothing_that_is_listed_and_the_sweep_removes_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"old")
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
    assert store.read("a") == b"old"
    assert faults(tmp_path) == {"a": None}
    assert len(list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))) == 1
    assert store.remove_unfinished(older_than=timedelta(hours=1)) == 0
    assert store.remove_unfinished(older_than=timedelta(0)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_missing_source_and_an_impossible_destination_fail_the_check(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "absent/archive"))
    with pytest.raises(StorageError, match="no such folder"):
        store.check()
    store.check_writable()
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        open_store(str(tmp_path / "file/archive")).check_writable()


def test_without_hard_links_a_file_is_created_once_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    assert has_hard_links(tmp_path)
    monkeypatch.setattr(os, "link", link)
    assert not has_hard_links(tmp_path)
    store = open_store(str(tmp_path))
    assert store.put_if_absent("a", b"1")
    assert not store.put_if_absent("a", b"2")
    assert store.read("a") == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_sweep_takes_empty_folders_that_are_old(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("kept/a", b"x")
    (tmp_path / "runs/1/attempts").mkdir(parents=True)
    assert store.remove_unfinished(older_than=timedelta(hours=1)) == 0
    assert (tmp_path / "runs/1/attempts").is_dir()
    assert store.remove_unfinished(older_than=timedelta(0)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
