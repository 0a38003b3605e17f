"""What a listing says where something in it is odd: each oddity is its own, and nothing is taken for absent or empty."""

import errno
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cnnbatch.errors import StorageError, Unreadable
from cnnbatch.storage import ObjectInfo, Store, open_store
from cnnbatch.storage.generic_listing import etag_of, mtime_of
from cnnbatch.storage.keys import TEMPORARY_PREFIX
from tests.storage.faulty_s3 import faulty_s3


def faults(store: Store) -> dict[str, str | None]:
    return {info.key: info.fault for info in store.list()}


# A local folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for key in ("a.png", "2024/b.png", "2025/deep/c.png"):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (errno.ENOENT, "vanished"),  # a disk that is away
        (errno.EACCES, "forbidden"),
        (errno.EIO, "io-error"),
        (errno.ESTALE, "io-error"),
        (errno.ENAMETOOLONG, "too-long"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_one_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, fault: str
) -> None:
    real = os.scandir

    def scandir(path: Any) -> Any:
        if os.fsencode(path).endswith(b"2025/deep"):
            raise OSError(code, os.strerror(code))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    store = open_store(str(folder))
    assert faults(store) == {"a.png": None, "2024/b.png": None, "2025/deep": fault}
    with pytest.raises(Unreadable) as caught:
        store.get(next(info for info in store.list() if info.fault))
    assert caught.value.reason == fault


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_what_is_the_machines_fault_ends_a_listing(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def scandir(path: Any) -> Any:
        if os.fsencode(path).endswith(b"deep"):
            raise OSError(code, os.strerror(code))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match="2025/deep"):
        list(open_store(str(folder)).list())


def test_the_folder_itself_is_absent_or_in_trouble_but_never_a_fault_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(open_store(str(folder / "nowhere")).list()) == []
    assert list(open_store(str(folder)).list("a.png")) == []
    monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied")))
    for ask in (lambda store: list(store.list()), lambda store: store.check()):
        with pytest.raises(StorageError, match="Permission denied"):
            ask(open_store(str(folder)))


def test_an_entry_that_cannot_be_looked_at_is_one_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contains(self: object, path: str) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    (folder / "link.png").symlink_to("a.png")
    monkeypatch.setattr("cnnbatch.storage.folder.Folder.contains", contains)
    found = faults(open_store(str(folder)))
    assert found == {"a.png": None, "2024/b.png": None, "2025/deep/c.png": None, "link.png": "io-error"}


def test_a_path_beyond_the_systems_limit_is_one_fault(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = faults(open_store(str(folder)))
    [odd] = found.keys() - {"a.png", "2024/b.png", "2025/deep/c.png"}
    assert (found[odd], set(odd)) == ("too-long", {"d", "/"})


@pytest.mark.parametrize("seconds", [10**12, -(10**12)])
def test_a_time_that_python_has_no_date_for_is_the_same_each_time(seconds: int) -> None:
    memory = Path("/dev/shm")  # most file systems on disks hold no such time
    if not memory.is_dir():
        pytest.skip("no tmpfs")
    path = memory / f"cnnbatch-{uuid.uuid4().hex}" / "odd.png"
    path.parent.mkdir()
    try:
        path.write_bytes(b"x")
        os.utime(path, (seconds, seconds))
        store = open_store(str(path.parent))
        [info] = store.list()
        assert info.mtime == (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)
        assert store.get(info) == b"x"
        assert store.head("odd.png") == info
    finally:
        path.unlink()
        path.parent.rmdir()


def test_a_pipe_is_read_by_nobody(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "way").symlink_to("pipe")
    store = open_store(str(folder))
    for key in ("pipe", "way"):
        for read in (store.read, lambda key: store.read_range(key, 0, 1)):
            with pytest.raises(FileNotFoundError, match="no such object"):
                read(key)
        assert store.head(key) is None
        with pytest.raises(Unreadable):
            store.get(ObjectInfo(key, 3))
    assert not any(key.startswith(TEMPORARY_PREFIX) for key in faults(store))


# A file system of fsspec


class OddFileSystem(MemoryFileSystem):
    """In memory; folders named ``forbidden`` may not be listed, and the server behind ``down`` is away."""

    protocol = "odd"
    store: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    pseudo_dirs: ClassVar[list[str]] = [""]  # type: ignore[misc]
    entries: ClassVar[dict[str, dict[str, Any]]] = {}

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        if path.endswith("forbidden"):
            raise PermissionError(path)
        if path.endswith("down"):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        found = super().ls(path, detail=True)
        return [entry | self.entries.get(entry["name"].rpartition("/")[2], {}) for entry in found]

    def info(self, path: str, **_: Any) -> Any:
        return super().info(path)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("odd://", "memory://", 1))


@pytest.fixture
def odd() -> Store:
    fsspec.register_implementation("odd", OddFileSystem, clobber=True)
    OddFileSystem.store.clear()
    OddFileSystem.pseudo_dirs[:] = [""]
    OddFileSystem.entries.clear()
    store = open_store("odd://photos")
    for key in ("a/1.png", "a/forbidden/2.png", "b/3.png"):
        store.put(key, b"123")
    return store


def test_a_folder_that_may_not_be_listed_is_told_and_not_left_out(odd: Store) -> None:
    assert faults(odd) == {"a/1.png": None, "a/forbidden": "forbidden", "b/3.png": None}


def test_a_server_that_does_not_answer_ends_the_listing(odd: Store) -> None:
    odd.put("a/down/4.png", b"4")
    with pytest.raises(StorageError, match="a/down: ConnectionRefusedError"):
        list(odd.list())


def test_a_file_of_which_the_listing_says_nothing_is_asked_itself(odd: Store) -> None:
    OddFileSystem.entries["1.png"] = {"size": None, "created": None}
    infos = {info.key: info for info in odd.list() if info.fault is None}
    assert (infos["a/1.png"].size, infos["b/3.png"].size) == (3, 3)
    assert infos["a/1.png"].mtime is not None


def test_a_link_is_what_it_leads_to_and_a_linked_folder_is_told(odd: Store) -> None:
    OddFileSystem.entries |= {"1.png": {"type": "link", "size": 7}, "b": {"type": "link"}}
    found = {info.key: info for info in odd.list()}
    assert (found["a/1.png"].size, found["b"].fault) == (3, "link")
    assert odd.get(found["a/1.png"]) == b"123"


def test_a_key_that_no_store_can_read_is_one_fault(odd: Store) -> None:
    OddFileSystem.entries |= {"3.png": {"name": "/photos/b/../3.png"}}
    assert faults(odd) == {"a/1.png": None, "a/forbidden": "forbidden", "b/../3.png": "name"}


@pytest.mark.parametrize(
    ("entry", "year"),
    [
        ({"modificationTime": 1_763_000_000_000}, 2025),  # webhdfs
        ({"modify": "20240501123456.789"}, 2024),  # ftp, MLSD
        ({"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, 2015),  # http
        ({"modified": "2023-02-03T04:05:06Z"}, 2023),
        ({"date_time": (2019, 1, 2, 3, 4, 5)}, 2019),  # zip
        ({"mtime": 1_763_000_000.5}, 2025),
        ({"mtime": datetime(2021, 1, 1)}, 2021),
        ({"modify": "Nov 21 10:15"}, None),  # ftp, LIST: no year
        ({"mtime": 10**15}, None),
        ({"created": None}, None),
        ({}, None),
    ],
)
def test_times_are_understood_in_the_words_of_each_file_system(entry: dict[str, Any], year: int | None) -> None:
    found = mtime_of(entry)
    assert (found is None) == (year is None)
    assert found is None or (found.year, found.utcoffset()) == (year, found.utcoffset())


def test_an_etag_is_a_short_text_or_none() -> None:
    assert etag_of({"ETag": '"abc"'}) == "abc"
    assert etag_of({"sha": "f00"}) == "f00"
    assert [etag_of({"ETag": value}) for value in ("", "x" * 2000, "a\nb", None)] == [None] * 4


# A web server


class Web(BaseHTTPRequestHandler):
    """Pictures below /p with an index; ``hidden`` ones have no Content-Length, ``answers`` are for one request each."""

    protocol_version = "HTTP/1.1"
    pictures: ClassVar[dict[str, bytes]] = {}
    links: ClassVar[list[str]] = []
    hidden: ClassVar[set[str]] = set()
    answers: ClassVar[dict[str, list[int]]] = {}
    lock: ClassVar[Lock] = Lock()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        index = "".join(f'<a href="{name}">x</a>' for name in [*self.links, *(p.rpartition("/")[2] for p in self.pictures)])
        body = index.encode() if path.rstrip("/") == "/p" else self.pictures.get(path)
        with self.lock:
            status = self.answers[path].pop(0) if self.answers.get(path) and self.command == "GET" else 200
        status = 404 if body is None else status
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if path.rstrip("/") == "/p" else "image/png")
        if path in self.hidden:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body or b"")))
            self.send_header("ETag", f'"{hash(body)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    Web.pictures, Web.links, Web.hidden, Web.answers = {f"/p/{n}.png": bytes([n]) * (n + 1) for n in range(4)}, [], set(), {}
    monkeypatch.setattr("cnnbatch.storage.generic._PAUSES", (0.0, 0.0))
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield open_store(f"http://127.0.0.1:{server.server_address[1]}/p")
        server.shutdown()


def test_files_of_a_web_server_have_the_sizes_and_versions_that_it_tells_when_asked(web: Store) -> None:
    infos = sorted(web.list(), key=lambda info: info.key)
    assert [(info.key, info.size) for info in infos] == [(f"{n}.png", n + 1) for n in range(4)]
    assert len({info.etag for info in infos} - {None}) == 4
    assert [web.get(info) for info in infos] == list(Web.pictures.values())
    Web.pictures["/p/2.png"] = b"new"
    with pytest.raises(Unreadable, match="it changed"):
        web.get(infos[2])


def test_a_size_that_nobody_tells_is_unknown_and_the_file_is_read(web: Store) -> None:
    Web.hidden.add("/p/3.png")
    info = next(info for info in web.list() if info.key == "3.png")
    assert (info.size, info.etag, info.mtime, info.fault) == (None, None, None, None)
    assert web.get(info) == bytes([3]) * 4
    [(_, body)] = web.get_many([info], max_bytes=10, concurrency=2)
    assert body == bytes([3]) * 4


def test_links_that_sort_an_index_or_lead_elsewhere_are_no_files(web: Store) -> None:
    Web.links = ["?C=M;O=D", "../", "./", "/elsewhere/x.png", "http://other.example/y.png", "#top"]
    assert faults(web) == {f"{n}.png": None for n in range(4)}


@pytest.mark.parametrize(
    ("answers", "reason"),
    [([403], "forbidden"), ([410], "vanished"), ([500, 503], None), ([503, 503, 500], "store-error")],
)
def test_what_a_web_server_refuses_is_the_fault_of_that_file(web: Store, answers: list[int], reason: str | None) -> None:
    infos = {info.key: info for info in web.list()}
    Web.answers["/p/1.png"] = answers
    bodies = {info.key: body for info, body in web.get_many(infos.values(), max_bytes=100, concurrency=1)}
    found = bodies.pop("1.png")
    assert bodies == {f"{n}.png": Web.pictures[f"/p/{n}.png"] for n in (0, 2, 3)}
    assert (found.reason if isinstance(found, Unreadable) else None) == reason


# S3

PAGE = "<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{}</ListBucketResult>"
OBJECT = "<Contents><Key>{}</Key><Size>3</Size><ETag>&quot;e&quot;</ETag><LastModified>{}</LastModified></Contents>"
TIME = "2026-01-02T03:04:05.000Z"


def listed(page: str) -> list[ObjectInfo]:
    with faulty_s3() as s3:
        s3.page = page.encode()
        return list(open_store("s3://bucket/in", s3.config).list())


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<html><a>Sign in to the network</a></html>", "answered a listing with <html>"),
        ("<Error><Code>AccessDenied</Code></Error>", "the credentials do not permit it"),  # with the status 200
        (PAGE.format("<IsTruncated>true</IsTruncated>"), "continues, but not where"),
        (PAGE.format("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"), "same page"),
        (PAGE.format("<Contents><Size>3</Size></Contents>"), "without a key"),
        (PAGE.format(OBJECT.format("other/a", TIME)), "outside of it"),
    ],
)
def test_an_answer_that_is_no_part_of_a_listing_is_not_taken_for_an_empty_one(page: str, words: str) -> None:
    with pytest.raises(StorageError, match=words):
        listed(page)


def test_keys_are_decoded_only_where_the_store_says_that_it_encoded_them() -> None:
    keys = ("in/C++.png", "in/100%25.png")
    raw = PAGE.format("".join(OBJECT.format(key, TIME) for key in keys))
    assert [info.key for info in listed(raw)] == ["C++.png", "100%25.png"]
    encoded = PAGE.format("<EncodingType>url</EncodingType>" + "".join(OBJECT.format(key, TIME) for key in keys))
    assert [info.key for info in listed(encoded)] == ["C  .png", "100%.png"]


def test_what_a_listing_does_not_say_is_unknown() -> None:
    [info] = listed(PAGE.format("<Contents><Key>in/a</Key><LastModified>yesterday</LastModified></Contents>"))
    assert info == ObjectInfo("a", None)
