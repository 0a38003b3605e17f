"""The erased list: which keys are never to come back. It holds only their sha256, so that it does not keep the keys."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cnnbatch.errors import ArchiveError
from cnnbatch.storage import Store

ERASED = "_cnnbatch/erased"
MAX_LIST_BYTES = 1 << 26  # a million keys in one call of ``erase``
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
    parts = [_read_part(store, info.key, info.known_bytes) for info in store.list(ERASED)]
    return ErasedKeys(frozenset().union(*parts))


def add_erased(store: Store, keys: Collection[str]) -> None:
    """Put keys on the list; those that are on it already stay."""
    digests = sorted({key_digest(key) for key in keys} - read_erased(store).digests)
    if not digests:
        return
    data = (json.dumps({"version": 1, "key_sha256": digests}, indent=1) + "\n").encode()
    store.put(f"{ERASED}/{hashlib.sha256(data).hexdigest()[:32]}.json", data)


def _read_part(store: Store, path: str, num_bytes: int) -> frozenset[str]:
    try:
        found = json.loads(store.read(path)) if num_bytes <= MAX_LIST_BYTES else {}
        digests = frozenset(found["key_sha256"]) if found["version"] == 1 else frozenset(["another version"])
        if not all(_DIGEST.fullmatch(digest) for digest in digests):
            raise ValueError("not a list of sha256")
    except (ValueError, KeyError, TypeError, RecursionError, FileNotFoundError) as error:
        raise ArchiveError(f"the erased list {path} of {store.url} is not readable: {error}") from error
    return digests
