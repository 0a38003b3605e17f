"""The commits of the log, as files: what each says, and the digests by which a flipped bit in the log is noticed.

Delta has no checksum of its own log, and ignores what it does not know: with one bit flipped an ``add`` is nothing at all.
So each commit of ours names three digests in its ``commitInfo``, which every other reader of the log leaves alone:

- ``cnnbatch.actions``: of the commit's own adds, removes and transactions;
- ``cnnbatch.live``: its version, and the digest of all shards that are live after it. This one covers the commits before
  it, too, and a checkpoint that stands for them;
- ``cnnbatch.previous``: the sha256 of the file of the commit before, whoever made that.

The digest of several things is the sum of the sha256 of each, modulo 2²⁵⁶, so that their order does not matter. It is there
against accidents; who can write to an archive can replace all of it.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from cnnbatch.errors import ArchiveError, TooLarge
from cnnbatch.storage import Store, parse_json

LOG: Final = "_delta_log"
RUN_ID: Final = "cnnbatch.run_id"
ACTIONS: Final = "cnnbatch.actions"
LIVE: Final = "cnnbatch.live"
PREVIOUS: Final = "cnnbatch.previous"
MAX_COMMIT_BYTES: Final = 1 << 28
MAX_MENDED_BYTES: Final = 1 << 17
"""Size of a commit in which the one flipped bit is searched for; in a larger one only lines that are no JSON any more are."""

MAX_MENDED_LINE_BYTES: Final = 1 << 13
"""Size of a line in which it is searched for: the time that takes grows with its square."""

_MODULUS: Final = 1 << 256
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LIVE: Final = re.compile(r"(\d{1,19}) ([0-9a-f]{64})")

# Of each action what its digest covers: all that Delta needs of it. Another field that a later deltalake writes is not.
_COVERED: Final[Mapping[str, tuple[str, ...]]] = {
    "add": ("path", "partitionValues", "size", "modificationTime", "dataChange", "stats"),
    "remove": ("path", "partitionValues", "size", "deletionTimestamp", "dataChange"),
    "txn": ("appId", "version"),
}

Action = Mapping[str, Any]
"""An action as the JSON object that it is in the log."""


def digest_of(parts: Iterable[tuple[object, ...]]) -> int:
    """The digest of several things, each a row of values."""
    return sum(int.from_bytes(hashlib.sha256(_joined(part)).digest(), "big") for part in parts) % _MODULUS


def _joined(part: tuple[object, ...]) -> bytes:
    return "\0".join(map(str, part)).encode("utf-8", "surrogatepass")


def digest_of_actions(actions: Iterable[Action]) -> int:
    """The digest that ``cnnbatch.actions`` has; actions of other kinds do not count."""
    return digest_of(_covered(actions))


def _covered(actions: Iterable[Action]) -> Iterator[tuple[object, ...]]:
    for action in actions:
        for kind, names in _COVERED.items():
            if kind in action:
                yield (kind, *map(_part(action, kind).get, names))


def digests(*, version: int, actions: Iterable[Action], live: int, previous: bytes) -> dict[str, str]:
    """The ``commitInfo`` of a commit that becomes ``version``; ``previous`` is the file of the one before."""
    return {
        ACTIONS: f"{digest_of_actions(actions):064x}",
        LIVE: f"{version} {live % _MODULUS:064x}",
        PREVIOUS: hashlib.sha256(previous).hexdigest(),
    }


@dataclass(frozen=True)
class Commit:
    """One commit: its file, and its actions in the order of the file."""

    version: int
    data: bytes
    actions: tuple[Action, ...]

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """Its ``commitInfo``; empty where it has none."""
        return next((_part(action, "commitInfo") for action in self.actions if "commitInfo" in action), {})

    @property
    def run_id(self) -> str | None:
        """The run that made it; None: another tool did, or nobody knows."""
        found = self.info.get(RUN_ID)
        return None if found is None else str(found)

    @property
    def moment(self) -> datetime | None:
        """When it was made, by its writer's clock."""
        try:
            return datetime.fromtimestamp(self.info["timestamp"] / 1000, UTC)
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            return None

    @property
    def changes_rows(self) -> bool:
        """Whether it makes files live, or takes them away."""
        return any("add" in action or "remove" in action for action in self.actions)

    @property
    def live(self) -> int | None:
        """The digest of what is live after it; None: it does not say so."""
        found = _LIVE.fullmatch(str(self.info.get(LIVE)))
        return int(found[2], 16) if found and int(found[1]) == self.version else None

    @property
    def previous(self) -> str | None:
        """The sha256 of the file of the commit before; None: it does not say so."""
        return self._digest(PREVIOUS)

    @property
    def is_as_written(self) -> bool:
        """Whether its actions are the ones that it was written with, as far as it tells.

        A torn one lacks its end: where there are no digests, the transaction that its first line announces.
        """
        if self.recorded is not None:
            return self.recorded == digest_of_actions(self.actions)
        announced = self._texts("commitInfo", RUN_ID)
        return announced <= self._texts("txn", "appId")

    @cached_property
    def recorded(self) -> int | None:
        """The digest of its actions, as it says itself; None: it does not."""
        found = self._digest(ACTIONS)
        return None if found is None else int(found, 16)

    @cached_property
    def sha256(self) -> str:
        """sha256 of its file."""
        return hashlib.sha256(self.data).hexdigest()

    def _texts(self, kind: str, name: str) -> set[str]:
        """Values of a name in all actions of a kind; what is no text, as only damage makes it, as text of its own."""
        found = (_part(action, kind).get(name) for action in self.actions)
        return {value if isinstance(value, str) else repr(value) for value in found if value is not None}

    def _digest(self, name: str) -> str | None:
        found = self.info.get(name)
        return found if isinstance(found, str) and _DIGEST.fullmatch(found) else None


def commit_path(version: int) -> str:
    """Where a commit lies in an archive."""
    return f"{LOG}/{version:020}.json"


def parse_commit(version: int, data: bytes) -> Commit:
    """A commit out of its file; raises ValueError for what is not lines of JSON objects, at least one."""
    actions = tuple(_actions(data))
    if not actions:
        raise ValueError("it is empty")
    return Commit(version, data, actions)


def _actions(data: bytes) -> Iterator[Action]:
    for line in data.split(b"\n"):
        if line.strip():
            action = parse_json(line)
            if not isinstance(action, dict):
                raise ValueError(f"{line[:40]!r} is not an action")
            yield action


def read_commit(store: Store, version: int) -> Commit | None:
    """One commit of the log; ``None`` where its file is not there, as a checkpoint stands for it.

    Raises:
        ArchiveError: it is damaged.
    """
    path = commit_path(version)
    try:
        return parse_commit(version, store.read(path, max_bytes=MAX_COMMIT_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, TooLarge) as error:
        raise ArchiveError(f"{path} in {store.url} is damaged: {' '.join(str(error).split())[:200]}") from error


def unflipped(version: int, data: bytes, is_right: Callable[[Commit], bool]) -> Commit | None:
    """The commit with the one bit put right that makes it fit the digest of its actions, where it tells one, and what
    ``is_right`` compares it with; ``None`` where no bit does.
    """
    for start, end in _suspicious(data):
        if end - start > MAX_MENDED_LINE_BYTES:
            continue
        others = data[:start] + data[end:]
        rest = tuple(_actions(others))
        known = digest_of_actions(rest)
        for part in _one_bit_off(data[start:end]):
            try:
                actions = tuple(_actions(part))
            except ValueError:
                continue
            commit = Commit(version, data[:start] + part + data[end:], (*actions, *rest))
            if commit.recorded in (None, (known + digest_of_actions(actions)) % _MODULUS) and is_right(commit):
                return commit
    return None


def _one_bit_off(data: bytes) -> Iterator[bytes]:
    """Everything that ``data`` may have been before one of its bits flipped."""
    for at, byte in enumerate(data):
        for bit in range(8):
            yield data[:at] + bytes([byte ^ 1 << bit]) + data[at + 1 :]


def _suspicious(data: bytes) -> Sequence[tuple[int, int]]:
    """Where a flipped bit may be: between the first and the last line that is no JSON object; else in any line."""
    if (data.rstrip()[-1:] or b"\0")[0] ^ ord("}") not in {0, *(1 << bit for bit in range(8))}:
        return []  # its end is missing
    spans, start = [], 0
    for line in data.split(b"\n"):
        spans.append((start, start + len(line)))
        start += len(line) + 1
    broken = [span for span in spans if not _is_sound(data[slice(*span)])]
    if broken:
        return [(broken[0][0], broken[-1][1])]
    return spans if len(data) <= MAX_MENDED_BYTES else []


def _is_sound(line: bytes) -> bool:
    try:
        return len(list(_actions(line))) <= 1
    except ValueError:
        return False


def _part(action: Action, kind: str) -> Mapping[str, Any]:
    found = action.get(kind)
    return found if isinstance(found, dict) else {}
