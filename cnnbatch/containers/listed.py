"""A source whose inputs are those that a list names."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from itertools import islice
from threading import Lock
from typing import Any, Final

from cnnbatch.archive.fields import dump_fields
from cnnbatch.containers.beside import read_beside, with_columns
from cnnbatch.containers.manifest import Entry, Manifest, key_below
from cnnbatch.containers.samples import MAX_FIELDS_BYTES
from cnnbatch.errors import StorageError
from cnnbatch.storage import ObjectInfo, Store
from cnnbatch.storage.generic_listing import fault_of
from cnnbatch.storage.many import Outcome, get_one
from cnnbatch.storage.urls import parse_url

LOOK_THREADS: Final = 16
TOGETHER: Final = 512
"""Rows that are looked at before the next are read."""


class ListedSource:
    """The objects of ``base`` that a list names, each with the other columns of its row. Safe to share between threads.

    Of an object that the list names twice the first counts. What is not there, or not below ``base``, has a fault; nothing else
    is read. The keys that were seen are in memory, 16 bytes of each.
    """

    def __init__(self, base: Store, manifest: Manifest, label: str | None) -> None:
        self.base, self.manifest, self.label = base, manifest, label
        self._has_hosts = parse_url(base.url).scheme in {"http", "https"}
        self._lock = Lock()
        self._named: set[bytes] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.base, self.manifest, self.label)

    @property
    def url(self) -> str:
        return self.base.url

    def check(self) -> None:
        self.manifest.check()
        if not self._has_hosts:  # many have no page that lists what they hold
            self.base.check()

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        seen: set[bytes] = set()
        below = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        entries = iter(self.manifest)
        with ThreadPoolExecutor(LOOK_THREADS, thread_name_prefix="look") as pool:
            while part := list(islice(entries, TOGETHER)):
                found = [info for info in map(partial(self._wanted, seen), part) if info[1].key.startswith(below)]
                yield from pool.map(self._looked_at, found)

    def head(self, key: str) -> ObjectInfo | None:
        """The object under a key, where the list names it."""
        with self._lock:
            if self._named is None:
                self._named = {_digest(key_below(one.value, self.url)[0]) for one in self.manifest if one.value is not None}
        return self.base.head(key) if _digest(key) in self._named else None

    def get(self, info: ObjectInfo) -> bytes:
        return get_one(self.get_many, info)

    def get_many(self, infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int) -> Iterator[Outcome]:
        plain: list[ObjectInfo] = []

        def parts() -> Iterator[ObjectInfo]:
            for info in infos:
                if info.part is None:
                    plain.append(info)
                else:
                    yield info

        limits = {"max_bytes": max_bytes, "concurrency": concurrency}
        yield from read_beside(self.base, parts(), label=self.label, apart=self._has_hosts, **limits)
        yield from self.base.get_many(plain, **limits)

    def _wanted(self, seen: set[bytes], entry: Entry) -> tuple[Entry, ObjectInfo]:
        """A row, and its object as far as the list says what it is."""
        if entry.value is None:
            return entry, ObjectInfo(f"{self.manifest.name}:{entry.number}", None, fault="damaged")
        key, fault = key_below(entry.value, self.url)
        if not entry.value or "\0" in key:
            return entry, ObjectInfo(f"{self.manifest.name}:{entry.number}", None, fault="name")
        digest = _digest(key)
        if fault is None and digest in seen:
            fault = "duplicate"
        seen.add(digest)
        return entry, ObjectInfo(key, None, fault=fault)

    def _looked_at(self, found: tuple[Entry, ObjectInfo]) -> ObjectInfo:
        entry, named = found
        if named.fault is not None:
            return named
        try:
            fields = dump_fields(entry.fields)
        except ValueError:  # names that are too long, text that is none
            fields = bytes(MAX_FIELDS_BYTES + 1)
        if fields is not None and len(fields) > MAX_FIELDS_BYTES:
            return ObjectInfo(named.key, None, fault="unsupported")
        try:
            info = self.base.head(named.key)
        except StorageError as error:
            fault = fault_of(error.__cause__) if isinstance(error.__cause__, Exception) else None
            if fault is None and not self._has_hosts:
                raise
            return ObjectInfo(named.key, None, fault=fault or "unreachable")
        if info is None:
            return ObjectInfo(named.key, None, fault="missing")
        return with_columns(info, self.manifest.name, fields)


def _digest(key: str) -> bytes:
    return blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()
