"""A night's notes in an archive for the next one: the verified shards, the damaged ones, the time."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Self

from cnnbatch.errors import ArchiveError, TooLarge
from cnnbatch.stages.records import Finding
from cnnbatch.storage import Store, parse_json

RECORD: Final = "_cnnbatch/nightly.json"
MAX_RECORD_BYTES: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class Record:
    """``verified_log_version``: all shards that are live in it were looked at when they were new.

    ``damaged`` are paths of shards to look at again, until they are sound or not live any more.
    """

    verified_log_version: int
    damaged: tuple[str, ...] = ()
    wall_seconds: float | None = None
    """This machine's clock at the end of the last night; None: no night has ended."""

    @classmethod
    def read(cls, store: Store) -> Self:
        """Raises FileNotFoundError, and ArchiveError where it is not one."""
        try:
            found = parse_json(store.read(RECORD, max_bytes=MAX_RECORD_BYTES))
            wall = found.get("wall_seconds")
            damaged = tuple(str(path) for path in found.get("damaged", ()))
            return cls(int(found["verified_log_version"]), damaged, None if wall is None else float(wall))
        except (ValueError, KeyError, TypeError, AttributeError, TooLarge) as error:
            raise ArchiveError(f"{RECORD} of {store.url} is not readable, remove it: {error!r}") from error

    def write(self, store: Store) -> None:
        """Takes the place of the one before."""
        store.put(RECORD, json.dumps(asdict(self)).encode())


def damaged_shards(findings: Sequence[Finding], *, opened: Collection[str], live: Collection[str]) -> tuple[str, ...]:
    """Shards that show these findings again when they are looked at: those named, and all of the ``opened`` ones where a
    finding is about something else, such as a codec file or a key that is live twice."""
    named = {finding.path for finding in findings}
    return tuple(sorted(named.intersection(live).union(() if named <= set(live) else opened)))
