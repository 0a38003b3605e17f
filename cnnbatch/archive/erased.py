"""The erased list: which keys are never to come back. It holds only their sha256, so that it does not keep the keys."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cnnbatch.errors import ArchiveError, TooLarge
from cnnbatch.storage import Store, parse_json

ERASED = "_cnnbatch/erased"
MAX_LIST_BYTES = 1 << 26  # a million keys in one call of ``erase``
MAX_MENDED_BYTES = 1 << 15
"""Size of a part, a call of ``erase`` with 450 keys, in which the one flipped bit is searched for: it takes the square
of that."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ErasedKeys:
    """``key in erased``; false when nothing was ever erased."""

    digests: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def __contains__(self, key: str) -> bool:
        return bool(self.digests) and key_digest(key) in self.digests

    def among(self, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` that are erased; costs a hash a key, and nothing where the list is empty."""
        return [key for key in keys if key in self] if self.digests else []


def key_digest(key: str) -> str:
    """How the list names a key: the sha256 of its UTF-8, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_erased(store: Store) -> ErasedKeys:
    """Read the whole list: a listing, and one small object for each call of ``erase``.

    Raises:
        ArchiveError: a part of it is damaged; going on without it could bring an erased image back.
    """
    keys, damaged = read_erased_parts(store)
    if damaged:
        raise ArchiveError(f"the erased list {damaged[0]} of {store.url} is damaged: run cnnbatch doctor for details")
    return keys


def read_erased_parts(store: Store) -> tuple[ErasedKeys, list[str]]:
    """The readable part of the list, and the paths of its damaged parts."""
    parts = {info.key: _read_part(store, info.key) or _read_part(store, info.key) for info in store.list(ERASED)}
    sound = [digests for digests in parts.values() if digests is not None]
    return ErasedKeys(frozenset().union(*sound)), [path for path, digests in parts.items() if digests is None]


def add_erased(store: Store, keys: Collection[str]) -> None:
    """Put keys on the list; those that are on it already stay. A damaged part of it is in nobody's way."""
    digests = sorted({key_digest(key) for key in keys} - read_erased_parts(store)[0].digests)
    if digests:
        data = (json.dumps({"version": 1, "key_sha256": digests}, indent=1) + "\n").encode()
        store.put(part_path(data), data)


def part_path(data: bytes) -> str:
    """Where a part of the list lies: its name is its digest."""
    return _part_path(hashlib.sha256(data).hexdigest())


def _part_path(sha256: str) -> str:
    return f"{ERASED}/{sha256[:32]}.json"


def mended_part(store: Store, path: str) -> bytes | None:
    """A damaged part with the one bit put right that has flipped; ``None`` where it is something else."""
    try:
        data = store.read(path, max_bytes=MAX_MENDED_BYTES)
    except (FileNotFoundError, TooLarge):
        return None
    before, rest = hashlib.sha256(), memoryview(data)
    for at, byte in enumerate(data):
        for bit in range(8):
            digest, right = before.copy(), bytes([byte ^ 1 << bit])
            digest.update(right)
            digest.update(rest[at + 1 :])
            if _part_path(digest.hexdigest()) == path:
                return data[:at] + right + data[at + 1 :]
        before.update(rest[at : at + 1])
    return None


def _read_part(store: Store, path: str) -> frozenset[str] | None:
    """Its digests; ``None`` where it is damaged."""
    try:
        data = store.read(path, max_bytes=MAX_LIST_BYTES)
        found = parse_json(data) if part_path(data) == path else {}
        digests = frozenset(map(str, found["key_sha256"])) if found["version"] == 1 else frozenset(["of another version"])
    except (ValueError, KeyError, TypeError, FileNotFoundError, TooLarge):
        return None
    return digests if all(map(_DIGEST.fullmatch, digests)) else None
