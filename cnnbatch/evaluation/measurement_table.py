"""Measurements as Arrow columns: one row for each picture, codec and quality, and the means over the same pictures for all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.evaluation.codecs import CodecSpec
from cnnbatch.evaluation.measurement import Measured, Row
from cnnbatch.evaluation.summary import Curve, LeftOut, Point, Unmeasured
from cnnbatch.metrics import LOSSLESS_DB

_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("format", _WORD),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("source_bytes", pa.int64(), nullable=False),
        pa.field("lossless_bytes", pa.int64()),
        pa.field("codec", _WORD),
        pa.field("quality", pa.float64()),
        pa.field("bytes", pa.int64()),
        pa.field("bpp", pa.float64()),
        pa.field("psnr_db", pa.float64()),
        pa.field("ms_ssim", pa.float64()),
        pa.field("no_ms_ssim", _WORD),
        pa.field("ssimulacra2", pa.float64()),
        pa.field("butteraugli", pa.float64()),
        pa.field("butteraugli_max", pa.float64()),
        pa.field("encode_seconds", pa.float64()),
        pa.field("decode_seconds", pa.float64()),
        pa.field("outcome", _WORD, nullable=False),
        pa.field("stage", _WORD),
        pa.field("error", pa.string()),
    ]
)
"""``outcome`` is ``measured`` or ``failed``. A file that could not be listed, read or decoded is one row without a codec."""

_OVER_ALL = ("ssimulacra2", "butteraugli", "butteraugli_max")
"""Measures that every picture has, or none."""


class Measurements:
    """Collects results as Arrow batches, so that thousands of pictures take megabytes."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []

    def add(self, measured: Measured) -> None:
        """The rows of one result."""
        if measured.rows:
            records = [_record(measured, row) for row in measured.rows]
            columns = [pa.array([record[field.name] for record in records], field.type) for field in SCHEMA]
            self._batches.append(pa.record_batch(columns, schema=SCHEMA))

    def table(self) -> pa.Table:
        """All rows, in the order of key and codec."""
        table = pa.Table.from_batches(self._batches, schema=SCHEMA).unify_dictionaries().combine_chunks()
        plain = table.append_column("_codec", table.column("codec").cast(pa.string()))
        order = pc.sort_indices(plain, [("key", "ascending"), ("_codec", "ascending"), ("quality", "ascending")])
        return table.take(order)


def _record(measured: Measured, row: Row) -> dict[str, object]:
    bits = None if row.num_bytes is None else 8 * row.num_bytes / measured.pixels
    return {
        "key": measured.key,
        "format": measured.format,
        "width": measured.width,
        "height": measured.height,
        "source_bytes": measured.source_bytes,
        "lossless_bytes": measured.lossless_bytes,
        "codec": row.codec,
        "quality": row.quality,
        "bytes": row.num_bytes,
        "bpp": bits,
        "psnr_db": row.psnr_db,
        "ms_ssim": row.ms_ssim,
        "no_ms_ssim": row.no_ms_ssim,
        "ssimulacra2": row.ssimulacra2,
        "butteraugli": row.butteraugli,
        "butteraugli_max": row.butteraugli_max,
        "encode_seconds": row.encode_seconds,
        "decode_seconds": row.decode_seconds,
        "outcome": "measured" if row.error is None else "failed",
        "stage": row.stage,
        "error": row.error,
    }


@dataclass(frozen=True, slots=True)
class Means:
    """``keys`` are the pictures behind every point of every curve, ``psnr_keys`` those of them behind its PSNR."""

    keys: frozenset[str]
    psnr_keys: frozenset[str]
    curves: tuple[Curve, ...]
    left_out: tuple[LeftOut, ...]
    unmeasured: tuple[Unmeasured, ...]


def means(table: pa.Table, specs: Sequence[CodecSpec], *, pictures: int) -> Means:
    """Means over the pictures that every codec coded at all its qualities.

    A codec that did so for less than half of the ``pictures`` that were decoded is left out, not to take them from the others.
    """
    measured = table.filter(pc.equal(table.column("outcome").cast(pa.string()), "measured"))
    complete = {spec.name: _complete(measured, spec) for spec in specs}
    kept = [spec for spec in specs if complete[spec.name] and 2 * len(complete[spec.name]) >= pictures]
    left_out = [
        LeftOut(
            codec=s.name, label=s.label, reason=f"it coded {len(complete[s.name])} of {pictures} pictures at all its qualities"
        )
        for s in specs
        if s not in kept
    ]
    keys = frozenset.intersection(*(complete[spec.name] for spec in kept)) if kept else frozenset()
    common = measured.filter(pc.is_in(measured.column("key"), value_set=pa.array(sorted(keys), pa.string())))
    psnr_keys = (keys - _exact(common, kept)) or keys
    curves = tuple(_curve(common, spec, psnr_keys) for spec in kept) if keys else ()
    return Means(keys, psnr_keys, curves, tuple(left_out), tuple(_unmeasured(table)))


def _exact(common: pa.Table, specs: Sequence[CodecSpec]) -> frozenset[str]:
    """Keys of the pictures that a lossy codec gave back exactly: one of them would count for many others in a mean of dB."""
    lossy = pa.array([spec.name for spec in specs if not spec.lossless], pa.string())
    exact = pc.and_(
        pc.equal(common.column("psnr_db"), LOSSLESS_DB), pc.is_in(common.column("codec").cast(pa.string()), value_set=lossy)
    )
    return frozenset(common.filter(exact).column("key").to_pylist())


def _of_codec(table: pa.Table, name: str) -> pa.Table:
    return table.filter(pc.equal(table.column("codec").cast(pa.string()), name))


def _complete(measured: pa.Table, spec: CodecSpec) -> frozenset[str]:
    """Keys of the pictures with a row for each quality."""
    rows = _of_codec(measured, spec.name)
    wanted = rows.filter(pc.is_in(rows.column("quality"), value_set=pa.array(spec.qualities, pa.float64())))
    counts = wanted.group_by("key").aggregate([("quality", "count_distinct")])
    full = counts.filter(pc.equal(counts.column("quality_count_distinct"), len(spec.qualities)))
    return frozenset(full.column("key").to_pylist())


def _curve(common: pa.Table, spec: CodecSpec, psnr_keys: frozenset[str]) -> Curve:
    rows = _of_codec(common, spec.name)
    points = [_point(rows.filter(pc.equal(rows.column("quality"), q)), q, psnr_keys) for q in spec.qualities]
    return Curve(
        codec=spec.name,
        label=spec.label,
        lossless=spec.lossless,
        threads=spec.threads,
        version=spec.version,
        points=tuple(sorted(points, key=lambda point: point.bpp)),
    )


def _point(rows: pa.Table, quality: float, psnr_keys: frozenset[str]) -> Point:
    pixels = _sum(pc.multiply(rows.column("width").cast(pa.int64()), rows.column("height").cast(pa.int64())))
    with_ms_ssim = rows.filter(pc.is_valid(rows.column("ms_ssim")))
    with_psnr = rows.filter(pc.is_in(rows.column("key"), value_set=pa.array(sorted(psnr_keys), pa.string())))
    return Point(
        quality=quality,
        bpp=_mean(rows, "bpp"),
        psnr_db=_mean(with_psnr, "psnr_db"),
        ms_ssim=_mean(with_ms_ssim, "ms_ssim") if with_ms_ssim.num_rows else None,
        encode_mps=_speed(pixels, rows, "encode_seconds"),
        decode_mps=_speed(pixels, rows, "decode_seconds"),
        images=rows.num_rows,
        exact_images=int(_sum(pc.equal(rows.column("psnr_db"), LOSSLESS_DB))),
        ms_ssim_images=with_ms_ssim.num_rows,
        ms_ssim_bpp=_mean(with_ms_ssim, "bpp") if with_ms_ssim.num_rows else None,
        bytes=_mean(rows, "bytes"),
        psnr_images=with_psnr.num_rows,
        psnr_bpp=_mean(with_psnr, "bpp"),
        **{name: None if rows.column(name).null_count else _mean(rows, name) for name in _OVER_ALL},
    )


def _sum(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0)


def _mean(rows: pa.Table, name: str) -> float:
    return float(pc.mean(rows.column(name)).as_py())


def _speed(pixels: float, rows: pa.Table, name: str) -> float | None:
    seconds = _sum(rows.column(name))
    return pixels / 1e6 / seconds if seconds else None


def _unmeasured(table: pa.Table) -> Iterable[Unmeasured]:
    """One for each picture and codec, however many qualities failed; its first error."""
    failed = table.filter(pc.equal(table.column("outcome").cast(pa.string()), "failed"))
    seen: set[tuple[str, str | None]] = set()
    for row in failed.select(["key", "codec", "stage", "error"]).to_pylist():
        if (row["key"], row["codec"]) not in seen:
            seen.add((row["key"], row["codec"]))
            yield Unmeasured(**row)
