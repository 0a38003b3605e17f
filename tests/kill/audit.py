"""What an archive must be after a kill and after the rerun: nothing lost, nothing twice, everything readable."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from cnnbatch.archive import ArchiveLog, ArchiveRow, open_archive
from cnnbatch.archive.doctor import Diagnosis, examine
from cnnbatch.codec import Codec
from cnnbatch.errors import ArchiveError, CnnbatchError
from cnnbatch.images import decode
from cnnbatch.metrics import psnr_db
from cnnbatch.picture import Picture
from tests.kill.child import CODEC
from tests.kill.world import World

PSNR_TOLERANCE_DB = 0.1


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of an archive; ``rows`` by key, ``twice`` and ``unreadable`` what should not be. ``version`` of the log."""

    rows: Mapping[str, ArchiveRow]
    twice: tuple[str, ...]
    unreadable: tuple[str, ...]
    version: int


NOTHING = Contents({}, (), (), -1)


@dataclass(slots=True)
class Verdict:
    """Counts of what was found wrong, with a sentence for each; all must be empty."""

    lost: list[str]
    duplicated: list[str]
    unreadable: list[str]
    other: list[str]

    @classmethod
    def clean(cls) -> "Verdict":
        return cls([], [], [], [])

    def __bool__(self) -> bool:
        return bool(self.lost or self.duplicated or self.unreadable or self.other)


def read(world: World) -> Contents:
    """Every row, its checksum checked; nothing at all where the archive is not made yet. Raises CnnbatchError."""
    try:
        archive = open_archive(world.archive, None if world.server is None else world.server.config)
    except ArchiveError as error:
        if "there is no cnnbatch archive" in str(error) or "creation did not finish" in str(error):
            return NOTHING
        raise
    found = list(archive.rows())
    counts = Counter(row.key for row in found)
    return Contents(
        rows={row.key: row for row in found if isinstance(row, ArchiveRow)},
        twice=tuple(str(key) for key, count in counts.items() if count > 1),
        unreadable=tuple(str(row) for row in found if not isinstance(row, ArchiveRow)),
        version=archive.snapshot.version,
    )


def after_the_kill(world: World, before: Contents, leaving: Collection[str], verdict: Verdict) -> Contents:
    """What was committed before is there, each key once; of a changed image the old picture or the new one."""
    try:
        now = read(world)
    except CnnbatchError as error:
        verdict.unreadable.append(f"the archive after the kill: {error}")
        return NOTHING
    verdict.duplicated += now.twice
    verdict.unreadable += now.unreadable
    for key, old in before.rows.items():
        row = now.rows.get(key)
        if row is None and key not in leaving:
            verdict.lost.append(f"{key}: committed before the run")
        elif row is not None and row.source_sha256 not in (old.source_sha256, _sha256(world.files.get(key))):
            verdict.other.append(f"{key}: neither the old picture nor the new one")
    return now


def after_the_rerun(world: World, killed: Contents, leaving: Collection[str], verdict: Verdict) -> Contents:
    """Each input has one row, of its bytes, that decodes; what the killed run had committed was not made again."""
    try:
        now = read(world)
        diagnosis = examine(world.archive, None if world.server is None else world.server.config)
    except CnnbatchError as error:
        verdict.unreadable.append(f"the archive after the rerun: {error}")
        return NOTHING
    verdict.duplicated += now.twice
    verdict.unreadable += now.unreadable
    expected = world.expected
    verdict.lost += [f"{key}: an input without a row" for key in expected.keys() - now.rows.keys()]
    verdict.other += [f"{key}: a row that must not be" for key in now.rows.keys() - expected.keys()]
    for key, row in now.rows.items():
        if key in expected:
            _check_row(row, expected[key], verdict)
        old = killed.rows.get(key)
        if old is not None and old.source_sha256 == row.source_sha256 and old.ingested_at != row.ingested_at:
            verdict.other.append(f"{key}: committed before the kill, and made again by the rerun")
    _check_files(world, diagnosis, now, verdict)
    return now


def given_back(world: World, rows: Mapping[str, ArchiveRow], verdict: Verdict) -> None:
    """The destination has a file for each row, of its pixels or byte for byte, and no marks."""
    store = world.store(world.destination)
    found = {info.key: store.read(info.key) for info in store.list()}
    verdict.lost += [f"{key}: not given back" for key in rows.keys() - found.keys()]
    verdict.other += [f"{key}: nobody asked for it" for key in found.keys() - rows.keys()]
    for key in rows.keys() & found.keys():
        if rows[key].outcome == "store" and _sha256(found[key]) != rows[key].source_sha256:
            verdict.unreadable.append(f"{key}: given back with other bytes")
        elif rows[key].outcome == "cnn" and not _is_near(found[key], rows[key]):
            verdict.unreadable.append(f"{key}: given back as another picture")


def uncommitted(world: World) -> frozenset[str]:
    """Files below ``data/`` that no version of the log ever named: the work that a kill has cost."""
    try:
        diagnosis = examine(world.archive, None if world.server is None else world.server.config)
    except CnnbatchError:
        return frozenset()
    return frozenset(orphan.path for orphan in diagnosis.orphans if not orphan.replaced)


def _check_row(row: ArchiveRow, original: bytes, verdict: Verdict) -> None:
    if row.source_sha256 != _sha256(original):
        verdict.lost.append(f"{row.key}: not the picture that SOURCE has now")
    elif row.payload_sha256 != _sha256(row.payload):
        verdict.unreadable.append(f"{row.key}: payload sha256")
    elif (fault := _fault(row, original)) is not None:
        verdict.unreadable.append(f"{row.key}: {fault}")


def _fault(row: ArchiveRow, original: bytes) -> str | None:
    """Decode, and compare with the original: its bytes where it was stored, the recorded PSNR where it was coded."""
    picture = Picture(row, {_codec().id: _codec()})
    try:
        if row.outcome == "store":
            return None if picture.file() == original else "not the original's bytes"
        found = psnr_db(decode(original, max_pixels=1 << 20).pixels, picture.image())
    except CnnbatchError as error:
        return str(error)
    if row.psnr_db is None or abs(found - row.psnr_db) > PSNR_TOLERANCE_DB:
        return f"PSNR {found:.2f}, recorded {row.psnr_db}"
    return None


def _is_near(file: bytes, row: ArchiveRow) -> bool:
    [pixels] = _codec().reconstruct([row.payload])
    found = decode(file, max_pixels=1 << 20).pixels
    return found.shape == pixels.shape and bool((abs(found.astype(int) - pixels) <= 1).all())


@cache
def _codec() -> Codec:
    torch.set_num_threads(1)  # two that wait for each other on a busy machine cost ten times as much
    return Codec(CODEC.read_bytes(), device="cpu")


def _check_files(world: World, diagnosis: Diagnosis, now: Contents, verdict: Verdict) -> None:
    verdict.lost += [f"{fault.where}: {fault.kind}: {fault.message}" for fault in diagnosis.faults]
    config = None if world.server is None else world.server.config
    live = {shard.path for shard in ArchiveLog.open(world.archive, config).snapshot().shards}
    verdict.other += [f"{orphan.path}: live, and called an orphan" for orphan in diagnosis.orphans if orphan.path in live]
    if diagnosis.num_images != len(now.rows):
        verdict.lost.append(f"the log counts {diagnosis.num_images} images, {len(now.rows)} were read")


def _sha256(data: bytes | None) -> bytes:
    return b"" if data is None else hashlib.sha256(data).digest()
