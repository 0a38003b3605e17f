"""The interface of a store: objects under keys, below one URL."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from cnnbatch.errors import StorageError, TooLarge, Unreadable, UsageError


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object.

    ``key`` is relative to the store's root, separated by ``/``, always encodable as UTF-8. ``size``, ``etag`` and ``mtime``
    are ``None`` where the store does not tell them; ``etag`` has no quotes, ``mtime`` is in UTC, to the microsecond.

    ``fault`` is set on what was listed but cannot be read under that key, a word of `FAULTS`: an object, or a folder, of
    which then nothing is listed. `Store.get` raises ``Unreadable(fault)`` for it, so the caller counts it as failed with no
    special case.

    ``part`` is set on what lies in another object, a tar, say: where, in words of `cnnbatch.containers` alone. ``beside``:
    columns of the archive that what lay beside it fills, known once it was read.
    """

    key: str
    size: int | None
    etag: str | None = None
    mtime: datetime | None = None
    part: str | None = None
    fault: str | None = None
    beside: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def known_bytes(self) -> int:
        """The size; 0 where it is unknown."""
        return self.size or 0


FAULTS: Final[Mapping[str, str]] = {
    "name": "a name that is not UTF-8, empty, '.' or '..', or a key that is too long; wrong bytes are shown as escapes",
    "link": "a symbolic link that is broken or leads out of the folder, or to a folder: links are not followed there",
    "forbidden": "it may not be read",
    "vanished": "it vanished while it was listed",
    "too-long": "its path is too long for the system",
    "io-error": "the system cannot read it",
    "damaged": "what should hold pictures cannot be read, or not to its end",
    "truncated": "what should hold pictures ends too early",
    "duplicate": "it has the name of another one in the same file",
    "unsupported": "it is held in a way that is not read here",
    "missing": "the list names it, and it is not there",
    "outside": "the list names it, and it is not below the source",
    "unreachable": "its server does not answer, or not as it should",
}
"""Faults of something that was listed, in words."""

MAX_READ_BYTES = 1 << 30
"""The most bytes that `Store.read` reads by default: the limit of a codec file, the largest of such objects."""

Refusal = StorageError | UsageError
"""Why an object was not written."""


class Source(Protocol):
    """Inputs below one URL: what can be listed and read. Safe to share between threads; pickles as its URL and configuration.

    Every method raises `StorageError` with one sentence when the store cannot be reached or refuses, after the
    retries and within the time limits of `StorageConfig`.
    """

    @property
    def url(self) -> str:
        """The normalised URL, without credentials and without a final ``/``."""

    def check(self) -> None:
        """Probe cheaply that the store answers and lets us list.

        Raises:
            StorageError: missing folder or bucket, wrong credentials, unreachable endpoint.
        """

    def list(self, prefix: str = "", *, markers: bool = False) -> Iterator[ObjectInfo]:
        """Stream every object below the folder ``prefix``, in any order, names with ``_`` and ``.`` included.

        ``markers``: also the empty objects whose key ends with ``/``, by which clients of object stores show folders.

        Memory does not grow with the number of objects. A folder that does not exist is empty. What cannot be listed or read
        for a reason of its own, also a folder below ``prefix``, comes with its ``fault``; a listing without any is complete.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """Describe one object, or return ``None`` where there is none."""

    def get(self, info: ObjectInfo) -> bytes:
        """Read a listed object and check that its length, ETag and time are those listed, where they were told, and its MD5 or
        the store's checksum.

        Raises:
            Unreadable: the object's own fault, with the reason ``vanished``, ``forbidden``, ``changed``, ``checksum``,
                ``truncated``, ``io-error``, ``name`` or ``link``.
        """

    def get_many(
        self, infos: Iterable[ObjectInfo], *, max_bytes: int, concurrency: int
    ) -> Iterator[tuple[ObjectInfo, bytes | Unreadable]]:
        """Read many listed objects as `get` does, in the order in which they complete.

        ``max_bytes`` bounds what is in flight together with what waits for the caller; ``concurrency`` bounds the
        requests. ``infos`` is consumed lazily. An object larger than ``max_bytes`` comes back as
        ``Unreadable("too-large")`` and is not read.
        """


class Store(Source, Protocol):
    """Objects below one URL, to be written, too.

    What writes or deletes takes only keys that `is_safe_key` allows, and raises `UsageError` for others.
    """

    def check_writable(self) -> None:
        """Probe the same for a store to write to, which may not exist yet; nothing is written."""

    def read(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Read a whole small object.

        Raises:
            FileNotFoundError: there is none.
            TooLarge: it has more than ``max_bytes``; nothing of it was read.
        """

    def read_versioned(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, str]:
        """Read a small object with the version token that `put_if_match` takes; raises what `read` does."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Read ``length`` bytes from byte ``start``; exactly that many, or `StorageError`.

        Raises:
            FileNotFoundError: there is none.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write a whole object: readers see the old bytes or the new ones, and it is durable on return."""

    def put_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[Refusal | None]:
        """Like `put` for each key and its data; returns for each what `put` would raise. All are durable on return.

        On a local disk far cheaper than one after the other. More than a few MB at a time bring nothing.
        """

    def create_many(self, items: Sequence[tuple[str, bytes]]) -> Sequence[bool | Refusal]:
        """Like `put_if_absent` for each key and its data, at the price of `put_many`; returns for each what `put_if_absent`
        would return or raise. All that were created are durable on return.
        """

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file's bytes as an object, like `put`, without holding it in memory."""

    def create_file(self, key: str, path: Path) -> bool:
        """Like `put_file`, where there is no object yet; ``False`` when there is one, which stays as it is."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object; ``False`` when there is one already, which stays as it is.

        An object store may also say ``True`` where the object holds exactly ``data``: after a lost response a client's
        retry meets its own first write. So bytes that tell writers apart must differ, as a lease's do.
        """

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        """Replace the version ``etag`` (of `read_versioned`); ``False`` when the object is another one by now.

        ``etag=None`` means that there must be no object, as in `put_if_absent`; so does what holds for equal bytes.
        """

    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""

    def remove_unfinished(self, *, older_than: timedelta) -> int:
        """Delete what interrupted local writes left behind, when it is older than any write takes; return how many.

        Folders without anything in them go too, uncounted: other stores have none.
        """


def require_small(where: str, size: int, max_bytes: int) -> None:
    """Raise `TooLarge` for an object over the limit of what is read at once."""
    if size > max_bytes:
        raise TooLarge(f"{where} has {size} bytes: the limit is {max_bytes}")
