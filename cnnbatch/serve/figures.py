"""The dashboard's figures: what was saved, outcomes, formats, months, folders and quality, all from the index."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.serve.index import Index

MOST_GROUPS: Final = 40
"""Folders, formats or reasons that are shown; the rest is one group."""

BINS: Final = {"psnr_db": (20.0, 60.0, 40), "ssimulacra2": (0.0, 100.0, 40), "quality": (0.0, 64.0, 32)}
"""Column → lowest, highest, number of bins; what lies outside is in the first or last."""


def figures(index: Index, payload: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Everything that the dashboard draws, as JSON. Sizes in bytes."""
    table = index.table.append_column("payload", pa.array(payload))
    top = pc.replace_substring_regex(index.keys, r"/.*$", "/")
    in_root = pc.invert(pc.match_substring(index.keys, "/"))
    table = table.append_column("folder", pc.if_else(in_root, "", top))
    table = table.append_column("month", _months(table))
    return {
        "images": len(index),
        "source_bytes": _sum(table, "source_size"),
        "payload_bytes": round(float(payload.sum())),
        "archive_bytes": sum(shard.num_bytes for shard in index.shards),
        "pixels": _pixels(table),
        "log_version": index.version,
        "faults": len(index.faults),
        "outcomes": _groups(table, "outcome"),
        "reasons": _groups(table.filter(pc.equal(table.column("outcome"), "store")), "reason"),
        "formats": _groups(table, "source_format"),
        "folders": _groups(table, "folder"),
        "months": sorted(_groups(table, "month", most=600), key=lambda group: group["name"]),
        "histograms": {name: _histogram(table.column(name), *bins) for name, bins in BINS.items()},
    }


def _sum(table: pa.Table, name: str) -> int:
    return int(pc.sum(table.column(name)).as_py() or 0)


def _pixels(table: pa.Table) -> int:
    each = pc.multiply(table.column("width").cast(pa.int64()), table.column("height").cast(pa.int64()))
    return int(pc.sum(each).as_py() or 0)


def _months(table: pa.Table) -> pa.ChunkedArray:
    """``2026-11`` of the original's time, or of the archive's where there is none."""
    moments = pc.coalesce(table.column("source_mtime"), table.column("ingested_at"))
    return pc.strftime(pc.cast(moments, pa.timestamp("s", "UTC"), safe=False), format="%Y-%m")


def _groups(table: pa.Table, column: str, *, most: int = MOST_GROUPS) -> list[dict[str, Any]]:
    """Images and bytes of each value of a column, the most bytes first."""
    plain = table.select([column, "source_size", "payload"])
    if pa.types.is_dictionary(plain.schema.field(column).type):
        plain = plain.set_column(0, column, plain.column(column).cast(pa.string()))
    found = plain.group_by(column).aggregate([("source_size", "sum"), ("payload", "sum"), (column, "count")])
    groups: list[dict[str, Any]] = [
        {
            "name": row[column] or "",
            "images": row[f"{column}_count"] or 0,
            "source_bytes": row["source_size_sum"] or 0,
            "payload_bytes": round(row["payload_sum"] or 0),
        }
        for row in found.to_pylist()
    ]
    groups.sort(key=lambda group: (-group["source_bytes"], group["name"]))
    return groups if len(groups) <= most else [*groups[: most - 1], _rest(groups[most - 1 :])]


def _rest(groups: list[dict[str, Any]]) -> dict[str, Any]:
    total = {name: sum(group[name] for group in groups) for name in ("images", "source_bytes", "payload_bytes")}
    return {"name": f"{len(groups)} others", "others": True, **total}


def _histogram(values: pa.ChunkedArray, low: float, high: float, bins: int) -> dict[str, Any]:
    """Counts between ``low`` and ``high``; the median, and the value that 5 % are below."""
    known = values.drop_null().to_numpy().astype(np.float64)
    known = known[np.isfinite(known)]
    counts, _ = np.histogram(np.clip(known, low, high), bins, (low, high))
    middle = {} if not known.size else {"median": float(np.median(known)), "p5": float(np.percentile(known, 5))}
    return {"low": low, "high": high, "counts": counts.tolist(), "images": int(known.size), **middle}
