"""The report of a night: one JSON for machines, and the same as a Markdown page for people."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from cnnbatch.archive.leftovers import RUNS
from cnnbatch.errors import LeaseHeld
from cnnbatch.stages.records import Failure, Finding
from cnnbatch.storage import Store, parse_json
from cnnbatch.version import VERSION
from jobs.night.cost import Cost
from jobs.report import RunReport

STEPS: Final = ("lease", "diff", "compress", "verify", "compact", "retention", "report")
PREFIX: Final = "nightly-"
SHOWN: Final = 20
"""Failures and findings on the page; the JSON has all."""

Figures = Mapping[str, int | float | str]
Outcome = Literal["done", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one step."""

    name: str
    outcome: Outcome
    seconds: float = 0.0
    exit_code: int = 0
    message: str = ""
    figures: Figures = field(default_factory=dict)


@dataclass(slots=True)
class ArchiveReport:
    """One archive's night. ``exit_code`` is that of the first step that failed."""

    source: str
    archive: str
    steps: list[Step] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    """Run ids of its compress jobs, whose reports lie beside."""
    images: int = 0
    source_bytes: int = 0
    failures: Sequence[Failure] = ()
    findings: Sequence[Finding] = ()
    cost: Cost | None = None
    held: tuple[int, int] | None = None
    """Bytes of all originals, and of the archive that holds them; None where that was not found out."""

    @property
    def exit_code(self) -> int:
        """0 if every step is done or was left out on purpose."""
        return next((step.exit_code for step in self.steps if step.exit_code), 0)


@dataclass(slots=True)
class NightReport:
    """A whole night, or with `part` one archive of it."""

    run_id: str
    config: Mapping[str, Any]
    seed: int
    """Seed of the sample of old shards that are verified."""
    archives: list[ArchiveReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    """Reports that could not be written, which is a fault of the night."""
    cost: Cost | None = None
    """Cost of all archives, from the leases to the last step; what idles after it, until the idle time-out, is not in it."""
    job: str = "nightly"
    version: str = VERSION
    host: str = field(default_factory=platform.node)
    started_at: str = field(default_factory=lambda: _now())
    finished_at: str | None = None
    interruption: int = 0
    """Exit code of what stopped the night before its end; 0: nothing did."""

    @property
    def exit_code(self) -> int:
        """The code of what stopped the night, else that of all failed archives, or 1 where they differ or a report
        could not be written."""
        if self.interruption:
            return self.interruption
        codes = {archive.exit_code for archive in self.archives} | {int(bool(self.unwritten))}
        codes.discard(0)
        return codes.pop() if len(codes) == 1 else int(bool(codes))

    @property
    def touched_nothing(self) -> bool:
        """Whether another run held every lease."""
        return all(archive.exit_code == LeaseHeld.exit_code and len(archive.steps) == 1 for archive in self.archives)

    def finish(self) -> None:
        """Notes when the night ended."""
        self.finished_at = _now()

    def part(self, archive: ArchiveReport) -> "NightReport":
        """The report as one archive gets it."""
        return replace(self, archives=[archive])

    def to_json(self) -> str:
        """All of it. ``failures`` on top are those of all archives, as a run report of `jobs.compress` has them."""
        content = asdict(self)
        for described, archive in zip(content["archives"], self.archives, strict=True):
            described["exit_code"] = archive.exit_code
        failures = [asdict(failure) for archive in self.archives for failure in archive.failures]
        return json.dumps({**content, "exit_code": self.exit_code, "failures": failures}, indent=2, sort_keys=True)

    def to_markdown(self) -> str:
        """The page."""
        lines = [f"# Night {self.run_id}: {_cell(self.summary())}", ""]
        times = f"{self.started_at} to {self.finished_at or 'now'}"
        lines += [f"cnnbatch {self.version} on {self.host}, {times}, seed {self.seed}"]
        lines += ["", *(f"**Not written:** {_cell(fault)}  " for fault in self.unwritten)]
        lines += [f"**Warning:** {_cell(warning)}  " for warning in self.warnings]
        if self.cost is not None and len(self.archives) != 1:
            lines += ["", f"All archives: {_cost_line(self.cost)}"]
        if self.cost is not None:
            lines += ["", "Not in a cost: nodes that idle after the last step, until the cluster's idle time-out."]
        for archive in self.archives:
            lines += [
                "",
                f"## {_cell(archive.archive)}",
                "",
                f"from {_cell(archive.source)}, exit code {archive.exit_code}",
                "",
            ]
            lines += _step_table(archive)
            lines += _cost_lines(archive)
            lines += _list("Failed", [f"{f.key}: {f.stage}: {f.error}: {f.message}" for f in archive.failures])
            lines += _list("Found", [f"{f.path} {f.key or ''}: {f.kind}: {f.message}" for f in archive.findings])
        return "\n".join(lines).rstrip() + "\n"

    def summary(self) -> str:
        """One sentence."""
        bad = [archive for archive in self.archives if archive.exit_code]
        images = sum(archive.images for archive in self.archives)
        if self.interruption:
            return f"{images:,} images into {_count(len(self.archives), 'archive')}, then it was stopped"
        if not bad and self.unwritten:
            return f"{images:,} images into {_count(len(self.archives), 'archive')}, but {self.unwritten[0]}"
        if not bad:
            return f"{images:,} images into {_count(len(self.archives), 'archive')}, all well"
        first = next(step for step in bad[0].steps if step.exit_code)
        all_of_them = _count(len(self.archives), "archive")
        return f"{len(bad)} of {all_of_them} failed, first {bad[0].archive}: {first.name}: {first.message}"

    def write(self, store: Store, folder: str) -> None:
        """JSON and page, beside one another; the JSON last, so that it is there only with its page."""
        name = f"{folder}/{PREFIX}{self.run_id}" if folder else f"{PREFIX}{self.run_id}"
        store.put(f"{name}.md", self.to_markdown().encode())
        store.put(f"{name}.json", self.to_json().encode())


def add_run(archive: ArchiveReport, report: RunReport) -> None:
    """Takes up what one compress job did; a night may need several to get through."""
    if report.finished_at is not None:
        archive.runs.append(report.run_id)
    archive.images += report.tally.images.get("cnn", 0) + report.tally.images.get("store", 0)
    archive.source_bytes += report.tally.source_bytes
    archive.failures = tuple(report.failures)


@dataclass(frozen=True, slots=True)
class Spent:
    """The price of a past night: node-seconds by kind, for so many bytes of originals."""

    node_seconds: Mapping[str, float]
    source_bytes: int


def last_costs(store: Store, *, nights: int, least_bytes: int) -> list[Spent]:
    """Costs of the newest ``nights`` that compressed ``least_bytes`` or more into this archive; a file that is no such report
    is passed over."""
    names = sorted(info.key for info in store.list(RUNS) if info.key.startswith(f"{RUNS}/{PREFIX}"))
    found: list[Spent] = []
    for name in reversed([name for name in names if name.endswith(".json")]):
        spent = _spent(store.read(name))
        if spent is not None and spent.source_bytes >= least_bytes:
            found.append(spent)
        if len(found) == nights:
            break
    return found


def _spent(report: bytes) -> Spent | None:
    try:
        archive = parse_json(report)["archives"][0]
        seconds = {str(kind): float(spent) for kind, spent in archive["cost"]["node_seconds"].items()}
        return Spent(seconds, int(archive["source_bytes"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _step_table(archive: ArchiveReport) -> list[str]:
    rows = ["| step | outcome | seconds | |", "|---|---|---|---|"]
    for step in archive.steps:
        figures = ", ".join(
            f"{value:,} {name}" if not isinstance(value, str) else value for name, value in step.figures.items()
        )
        code = f" ({step.exit_code})" if step.exit_code else ""
        text = "; ".join(filter(None, (_cell(step.message), _cell(figures.replace("_", " ")))))
        rows.append(f"| {step.name} | {step.outcome}{code} | {step.seconds:,.1f} | {text} |")
    return rows


def _cost_lines(archive: ArchiveReport) -> list[str]:
    cost = archive.cost
    if cost is None:
        return []
    lines = ["", f"Cost: {_cost_line(cost)}"]
    if cost.saved_per_month is not None:
        lines += ["", f"The archive saves {cost.saved_per_month:,.2f} {cost.currency} a month once the originals are gone."]
    return lines


def _cost_line(cost: Cost) -> str:
    line = ", ".join(f"{_cell(kind)} {seconds / 3600:,.3f} h" for kind, seconds in cost.node_seconds.items())
    if cost.amount is None:
        return f"{line}; no price for {', '.join(map(_cell, cost.unpriced))}"
    line += f" = {cost.amount:,.2f} {cost.currency}"
    if cost.per_million_images is not None:
        line += f", {cost.per_million_images:,.2f} a million images"
    if cost.per_source_tb is not None:
        line += f", {cost.per_source_tb:,.2f} a terabyte of originals"
    return line


def _list(title: str, rows: Sequence[str]) -> list[str]:
    if not rows:
        return []
    shown = [f"- {_cell(row)}" for row in rows[:SHOWN]]
    more = [f"- … and {len(rows) - SHOWN:,} more in the JSON"] if len(rows) > SHOWN else []
    return ["", f"{title}: {len(rows):,}", "", *shown, *more]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cell(text: str) -> str:
    """Keys and messages are others' text: one line, no table cell and no markup broken by it."""
    plain = "".join(character if character.isprintable() else "�" for character in text)
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'").replace("[", "\\[")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
