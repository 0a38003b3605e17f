"""The commands ``cnnbatch doctor``, ``erase``, ``compact`` and ``restore-rows``; their options are in `cnnbatch.cli`.

None of it imports torch.
"""

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cnnbatch.archive import ArchiveLog, Lease
from cnnbatch.archive.doctor import Diagnosis, examine
from cnnbatch.archive.maintenance import compact as compact_archive
from cnnbatch.archive.maintenance import erase as erase_images
from cnnbatch.archive.orphans import OF_SHARDS, Swept, check_grace, holders, sweep
from cnnbatch.archive.restore import removed_rows, restore
from cnnbatch.commands.output import show
from cnnbatch.containers import open_source, parse_source
from cnnbatch.errors import ArchiveError, UsageError, VerifyFailed
from cnnbatch.storage import Source, open_store

if TYPE_CHECKING:
    from cnnbatch.stages.mending import Loss


def doctor(options: argparse.Namespace) -> None:
    """The state of log and files; with ``--mend`` and ``--sweep``, put in order first."""
    grace = _grace(options)
    source = _source(options)
    diagnosis = examine(options.archive, mend=options.mend, grace=grace)
    losses: Sequence[Loss] = ()
    if diagnosis.log_is_sound and (source is not None or options.no_source):
        losses = _losses(options, source)
    swept = None
    if options.sweep and diagnosis.log_is_sound:
        swept = sweep(ArchiveLog.open(options.archive), grace=grace, forced=options.force)
    if swept is not None or any(loss.mended for loss in losses):
        mended = tuple(fault for fault in diagnosis.faults if fault.mended)
        after = examine(options.archive, grace=grace)
        diagnosis = replace(after, faults=(*mended, *after.faults))
    told = {loss.path for loss in losses}
    faults = (*(fault for fault in diagnosis.faults if fault.where not in told), *(loss.as_fault() for loss in losses))
    diagnosis = replace(diagnosis, faults=faults)
    document = asdict(diagnosis) | {"is_sound": diagnosis.is_sound, "losses": [asdict(loss) for loss in losses]}
    document["swept"] = None if swept is None else asdict(swept)
    show(options, document, *_describe_diagnosis(diagnosis, swept, losses))
    if not diagnosis.is_sound:
        left = [fault for fault in diagnosis.faults if not fault.mended]
        raise VerifyFailed(f"{len(left)} faults, first {left[0].where}: {left[0].kind}: {left[0].message}")


def _source(options: argparse.Namespace) -> Source | None:
    """The originals, with tars and tables taken apart as a run does it."""
    if options.source is None:
        if options.settings:
            raise UsageError(f"{options.settings[0]} is a setting of --source, which is missing")
        return None
    url, settings = parse_source(options.source, options.settings)
    source = open_source(open_store(url), settings, archive=open_store(options.archive))
    source.check()
    return source


def _losses(options: argparse.Namespace, source: Source | None) -> "Sequence[Loss]":
    from cnnbatch.stages.mending import examine_shards  # imports torch

    log = ArchiveLog.open(options.archive)
    return examine_shards(log, source, run_id=_run_id("doctor"), mend=options.mend)


def erase(options: argparse.Namespace) -> None:
    """Images out of the archive for good; what still holds them is deleted after its grace."""
    grace = _grace(options)
    keys = frozenset(map(_checked_key, options.keys))
    log = ArchiveLog.open(options.archive)
    result = erase_images(log, keys, run_id=_run_id("erase"))
    swept = sweep(log, grace=grace, forced=options.force)
    held = sorted(holders(log.store, keys)) if options.verify else None
    document = {"erased": result.erased, "listed": len(keys), "replaced": result.replaced, "held": held, "swept": asdict(swept)}
    lines = [f"{len(result.erased)} of {len(keys)} keys had an image, which is gone; all are on the erased list"]
    if result.replaced and not held:
        lines.append(f"{len(result.replaced)} replaced files go after their grace: run it again then, or doctor --sweep")
    show(options, document, *lines)
    if result.unreadable:
        shown = ", ".join(result.unreadable[:5])
        raise ArchiveError(
            f"{len(result.unreadable)} live shards may still have an erased image, as they cannot be read: {shown}"
        )
    if held:
        raise VerifyFailed(f"{len(held)} files still hold an erased image until their grace is over: {', '.join(held[:5])}")


def compact(options: argparse.Namespace) -> None:
    """Small shards merged. Holds the lease: a run beside it would find the shards gone that it wants to replace."""
    log = ArchiveLog.open(options.archive)
    run_id = _run_id("compact")
    before = len(log.snapshot().shards)
    with Lease(log.store, run_id=run_id):
        result = compact_archive(log, run_id=run_id)
    after = len(log.snapshot().shards)
    lines = [f"{result.merged} shards merged into {result.written}; the archive has {after}, had {before}"]
    lines += [f"left as it is, for it is damaged: {path}" for path in result.damaged]
    show(options, asdict(result) | {"shards_before": before, "shards_after": after}, *lines)


def restore_rows(options: argparse.Namespace) -> None:
    """Images that a run removed because their originals were gone, back from the files that still have them."""
    log = ArchiveLog.open(options.archive)
    found = removed_rows(log, options.glob)
    if options.dry_run:
        show(options, {"keys": [row.key for row in found]}, *(row.key for row in found))
        return
    result = restore(log, found, run_id=_run_id("restore"))
    line = f"{len(result.keys)} of {len(found)} removed images are back"
    show(options, asdict(result), line + ("; the next --mirror-deletes removes what SOURCE still lacks" if found else ""))
    if result.damaged:
        key, fault = next(iter(result.damaged.items()))
        raise VerifyFailed(f"{len(result.damaged)} rows cannot be read, first {key}: {fault}")


def _grace(options: argparse.Namespace) -> timedelta:
    if not 0 <= options.grace <= 24 * 3650:
        raise UsageError(f"--grace: {options.grace:g} is not a number of hours from 0 to {24 * 3650}")
    grace = timedelta(hours=options.grace)
    check_grace(grace, forced=options.force)
    return grace


def _checked_key(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise UsageError(f"not a key, as it is not UTF-8: {key!r}") from None
    return key


def _run_id(job: str) -> str:
    return f"{job}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _describe_diagnosis(diagnosis: Diagnosis, swept: Swept | None, losses: "Sequence[Loss]") -> list[str]:
    ripe = [orphan for orphan in diagnosis.orphans if orphan.ripe]
    log = f"log version {diagnosis.log_version}"
    if diagnosis.log_version is None:
        log = "the table is not made yet: run the job again" if diagnosis.is_sound else "the log cannot be read"
    lines = [f"{log}, {diagnosis.num_images:,} images"]
    lines += [f"{'mended' if f.mended else 'FAULT'}: {f.where}: {f.kind}: {f.message}" for f in diagnosis.faults]
    lines += [line for loss in losses for line in _describe_loss(loss)]
    if not losses and any(fault.kind in OF_SHARDS for fault in diagnosis.faults):
        lines.append(
            "note: --source SOURCE tells which originals are still there; with --mend, the next run archives them again"
        )
    lines += [f"note: {note}" for note in diagnosis.notes]
    if swept is not None:
        lines.append(f"swept {swept.files} files of {swept.num_bytes:,} bytes, and {swept.unfinished} unfinished ones")
    if diagnosis.orphans:
        size = sum(orphan.num_bytes for orphan in diagnosis.orphans)
        lines.append(f"{len(diagnosis.orphans)} files of {size:,} bytes that nothing needs, {len(ripe)} past their grace")
        lines += [f"  {o.path} ({'replaced' if o.replaced else 'never committed'})" for o in diagnosis.orphans[:20]]
    return lines


def _describe_loss(loss: "Loss") -> list[str]:
    """Every key that is known to be lost, and those that the next run takes again."""
    lines = [f"  lost: {key}" for key in loss.lost_keys]
    if (unnamed := loss.lost - len(loss.lost_keys)) > 0:
        lines.append(f"  lost: {unnamed:,} images whose keys nobody can tell")
    return lines + [f"  again: {key}" for key in loss.again]
