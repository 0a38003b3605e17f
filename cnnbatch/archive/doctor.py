"""Diagnosis of an archive's log and files, and mending without losing a row."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from cnnbatch.archive.commits import LOG
from cnnbatch.archive.erased import mended_part, read_erased_parts
from cnnbatch.archive.layout import read_format
from cnnbatch.archive.log import ArchiveLog
from cnnbatch.archive.log_doctor import Fault, examine_log, is_unmade, mend_live, put_away
from cnnbatch.archive.orphans import GRACE, Orphan, faults_of_shards, find_orphans
from cnnbatch.archive.trust import Look
from cnnbatch.errors import ArchiveError
from cnnbatch.storage import StorageConfig, Store


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of an archive. ``log_version`` is None where the log cannot be read at all, or was never finished; ``notes``
    are sentences on what is no fault."""

    faults: tuple[Fault, ...]
    orphans: tuple[Orphan, ...]
    log_version: int | None
    num_images: int = 0
    notes: tuple[str, ...] = ()
    log_is_sound: bool = False
    """Whether the log may be trusted with deleting what it does not name."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong (any more). Orphans are no fault."""
        return all(fault.mended for fault in self.faults)


def examine(url: str, config: StorageConfig | None = None, *, mend: bool = False, grace: timedelta = GRACE) -> Diagnosis:
    """Look at the log, then at the files it names; with ``mend``, first put right what can be.

    Raises:
        ArchiveError: there is no archive, or one of an unknown format.
        StorageError: the store refused.
    """
    log = ArchiveLog(url, config)
    read_format(log.store)
    faults = examine_log(log.store, mend=mend)
    try:
        found = log.look()
    except ArchiveError as error:
        if not is_unmade(log.store):
            faults.append(Fault(LOG, "unreadable-log", str(error)))
        return Diagnosis(tuple(faults), (), None)
    if found.trust.fault is not None and all(fault.mended for fault in faults):  # else these are why
        found, more = mend_live(log, found, mend=mend)
        faults += more
    faults += _examine_erased(log.store, mend=mend)
    faults += [Fault(*fault) for fault in faults_of_shards(log.store, found.snapshot)]
    is_sound = found.trust.fault is None
    orphans = tuple(find_orphans(log, grace=grace)) if is_sound else ()
    snapshot, notes = found.snapshot, tuple(_notes(found))
    return Diagnosis(tuple(faults), orphans, snapshot.version, snapshot.num_rows, notes, log_is_sound=is_sound)


def _examine_erased(store: Store, *, mend: bool) -> Iterator[Fault]:
    """The parts of the erased list: without one of them an erased image could come back, so nothing new is archived."""
    for path in read_erased_parts(store)[1]:
        right = mended_part(store, path)
        if right is None:
            message = "its sha256 is not its name: erase the same keys again, and delete it then"
            yield Fault(path, "damaged-erased-list", message)
            continue
        fault = put_away(store, [path], "damaged-erased-list", "has one flipped bit", mend=mend)
        if fault.mended:
            store.put(path, right)
        yield fault


def _notes(found: Look) -> Iterator[str]:
    if found.others is not None:
        yield found.others
    elif found.trust.ours is None and found.trust.fault is None and found.snapshot.version > 0:
        yield "no digest says what is live, as older versions of this package wrote none: the next commit will"
