"""The outcome of a run of `jobs.compress`: the checks at its end, and its report for people."""

from collections.abc import Sequence

from cnnbatch.errors import CnnbatchError, TooManyFailures
from cnnbatch.stages.records import Failure
from jobs.report import RunReport


def check_some_archived(report: RunReport, failures: Sequence[Failure]) -> None:
    """A run in which nothing could be read is no success, whatever the thresholds allow."""
    archived = sum(count for outcome, count in report.tally.images.items() if outcome != "failed")
    if failures and not (archived or report.unchanged or report.erased):
        first = failures[0]
        raise TooManyFailures(f"none of {report.inputs:,} inputs was archived, first {first.key!r}: {first.message}")


def check_complete(report: RunReport, archive: str, left_by_others: int) -> None:
    """Raises CnnbatchError where the run must be repeated, or left something undone."""
    if not report.complete:
        done = report.unchanged + report.hidden + report.erased + report.tally.total
        raise CnnbatchError(f"{report.inputs} inputs have {done} outcomes: run the same command again")
    if report.hidden:
        raise CnnbatchError(
            f"{report.hidden} images may be in shards that cannot be read, and were left alone: "
            f"python -m jobs.verify {archive} names them"
        )
    if report.blocked:
        raise CnnbatchError(
            f"{report.blocked} images keep their old rows: other rows of their shards cannot be read, "
            f"python -m jobs.verify {archive} names them"
        )
    if left_by_others:
        raise CnnbatchError(
            f"another run wrote {report.superseded} of these images meanwhile, {left_by_others} of them differently: "
            "run the same command again"
        )


def describe(report: RunReport) -> list[str]:
    """The report in a few lines for people."""
    t = report.tally
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(t.images.items())) or "nothing new"
    lines = [f"run {report.run_id}: {report.inputs:,} inputs, {report.unchanged:,} unchanged, {outcomes}"]
    if t.payload_bytes:
        lines.append(
            f"{t.source_bytes / 1e6:,.1f} MB → {t.payload_bytes / 1e6:,.1f} MB, ratio {t.source_bytes / t.payload_bytes:.2f}"
        )
    lines += t.describe_kinds()
    if report.hidden:
        lines.append(f"{report.hidden:,} may be in shards that cannot be read, and were left alone")
    if report.left_out:
        lines.append(f"{report.left_out:,} left out: .DS_Store, Thumbs.db, ._*, markers of folders")
    if report.erased:
        lines.append(f"{report.erased:,} were erased from the archive and stay out")
    if report.outdated:
        lines.append(f"{report.outdated:,} keep their old coding: their originals are gone")
    if report.removed:
        lines.append(f"{report.removed:,} removed; cnnbatch restore-rows brings them back until a sweep deletes their files")
    lines += [f"failed: {f.key}: {f.stage}: {f.error}: {f.message}" for f in report.failures[:10]]
    return lines
