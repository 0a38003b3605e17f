"""The report of `jobs.evaluate`, and what it tells people."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from cnnbatch.containers import SourceSettings
from cnnbatch.evaluation import ours, plots, text_report
from cnnbatch.evaluation.measurement import Measured
from cnnbatch.evaluation.summary import EvaluationSummary, Recommendation
from cnnbatch.stages.records import Tally
from jobs.report import RunReport

FAILED_STAGES: Final = ("list", "read", "worker")
"""Stages of files that could not be read or that killed their process; others are no pictures, or none that can be measured."""


@dataclass(slots=True)
class EvaluationReport(RunReport):
    """The run report with what was found: an `EvaluationSummary` without its pictures."""

    evaluation: dict[str, Any] | None = None


def tally_of(measured: Measured) -> Tally:
    """One file: ``measured`` is a picture, ``unmeasured`` is not one that can be decoded, ``failed`` could not be read."""
    if measured.decoded:
        return Tally(images={"measured": 1}, source_bytes=measured.source_bytes, pixels=measured.pixels)
    row = measured.rows[0]
    outcome = "failed" if row.stage in FAILED_STAGES else "unmeasured"
    return Tally(images={outcome: 1}, reasons={(row.error or "").partition(":")[0]: 1}, source_bytes=measured.source_bytes)


def command_of(advice: Recommendation, config: Mapping[str, Any]) -> str | None:
    """The command that compresses the source as the best of our choices; None where none of them reaches the target."""
    reaching = [choice for choice in advice.choices if choice.codec.startswith(ours.NAME) and choice.total is not None]
    best = min(reaching, key=lambda choice: choice.total.bytes if choice.total else 0, default=None)
    if best is None:
        return None
    words = ["cnnbatch", "compress", config["source"], "ARCHIVE"]
    if advice.each:
        words.append(f"--target-{advice.measure}={advice.target:g}")
    elif best.quality is not None:
        words.append(f"--quality={best.quality:g}")
    name, _, effort = best.codec.partition("@")
    words += [f"--effort={effort}"] if effort else []
    words += [f"--codec={file}" for file in config["codec"] if PurePath(file).stem == name.partition(":")[2]]
    words += [f"--exclude={glob}" for glob in config["exclude"]]
    usual = SourceSettings().model_dump(mode="json")
    given = {name: value for name, value in config["source_settings"].items() if value != usual[name]}
    words += [f"source.{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
    return shlex.join(words)


def describe(report: RunReport) -> list[str]:
    """The findings, for people, after a line on the run."""
    t = report.tally
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(t.images.items())) or "none"
    lines = [f"run {report.run_id}: {report.inputs:,} files: {outcomes}"]
    if isinstance(report, EvaluationReport) and report.evaluation is not None:
        summary = EvaluationSummary.model_validate(report.evaluation)
        lines += ["", *text_report.describe(summary).split("\n")]
        if report.config["out"] and plots.missing():
            lines += ["", f"no plots: {plots.missing()}"]
        command = None if summary.recommendation is None else command_of(summary.recommendation, report.config)
        lines += [] if command is None else ["", f"to compress so: {command}"]
    return lines
