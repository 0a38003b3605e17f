"""The files of an evaluation: page, Parquet, JSON and plots."""

import io
import json
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from cnnbatch.errors import UsageError
from cnnbatch.evaluation import plots
from cnnbatch.evaluation.bd_rate import rate_points
from cnnbatch.evaluation.page import render_page
from cnnbatch.evaluation.scales import SCALES
from cnnbatch.evaluation.sheet import contact_sheet
from cnnbatch.evaluation.summary import EvaluationSummary, Measure
from cnnbatch.storage import Store

PAGE: Final = "report.html"
MEASUREMENTS: Final = "measurements.parquet"
SHEET: Final = "contact_sheet.png"
SUMMARY: Final = "summary.json"
RUN: Final = "run.json"
"""The run report, which is there before any of the others."""
JOB: Final = "evaluate"
PLOTS: Final[dict[Measure, str]] = {
    measure: "rate_distortion.svg" if measure == "psnr_db" else f"rate_distortion_{measure}.svg" for measure in SCALES
}


def check_place(out: Store) -> None:
    """Raises UsageError where a file would be replaced that no evaluation has written; `RUN` says whose the others are."""
    names = (RUN, PAGE, MEASUREMENTS, SHEET, SUMMARY, *PLOTS.values())
    there = [name for name in names if out.head(name) is not None]
    if there and not _is_of_an_evaluation(out):
        raise UsageError(f"{out.url} holds {there[0]!r}, which was not written by an evaluation: choose another folder")


def _is_of_an_evaluation(out: Store) -> bool:
    try:
        return bool(json.loads(out.read(RUN))["job"] == JOB)
    except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
        return False


def write(out: Store, summary: EvaluationSummary, measurements: pa.Table) -> None:
    """Writes all of them; a contact sheet of small pictures only, no plots where matplotlib is missing (`plots.missing`).

    Page and sheet have the pictures, the JSON has none.
    """
    buffer = io.BytesIO()
    pq.write_table(measurements, buffer, compression="zstd")
    out.put(MEASUREMENTS, buffer.getvalue())
    out.put(SUMMARY, summary.model_copy(update={"examples": ()}).model_dump_json(indent=1).encode())
    if plots.missing() is None:
        title = f"{summary.source.rsplit('/', 1)[-1]}, mean of {summary.images:,} pictures"
        for measure, name in PLOTS.items():
            if measure == "psnr_db" or any(rate_points(curve, measure) for curve in summary.curves):
                out.put(name, plots.draw(summary.curves, measure, title=title, published=summary.published))
    if summary.small and (sheet := contact_sheet(summary.examples)) is not None:
        out.put(SHEET, sheet)
    out.put(PAGE, render_page(summary).encode())
