"""An evaluation as text: table of means, matrix of BD-rates, recommendation."""

from collections.abc import Iterator, Sequence
from typing import Final

from cnnbatch.evaluation.scales import SCALES
from cnnbatch.evaluation.summary import BdRate, Choice, Curve, Estimate, EvaluationSummary, Measure, Point, Recommendation
from cnnbatch.text import visible

SHOWN_UNMEASURED: Final = 20
_COLUMNS: Final[dict[Measure, str]] = {
    "ssimulacra2": "SSIMULACRA2",
    "butteraugli": "Butteraugli 3-norm",
    "butteraugli_max": "maximum",
}
"""Columns of the table of means, where they were measured."""


def describe(summary: EvaluationSummary) -> str:
    """For people, about 120 columns wide."""
    parts = [
        _head(summary),
        *_curves(summary.curves, with_bytes=summary.small),
        *(_matrix(summary, measure) for measure in SCALES if any(rate.measure == measure for rate in summary.bd_rates)),
    ]
    if summary.recommendation is not None:
        parts.append("\n".join(_recommendation(summary.recommendation)))
    parts += ["\n".join(lines) for lines in (list(_left_out(summary)),) if lines]
    return "\n\n".join(parts)


def _head(summary: EvaluationSummary) -> str:
    return (
        f"{visible(summary.source)}: means over {summary.images:,} pictures, {summary.pixels / 1e6:,.1f} MP, "
        f"{summary.source_bytes / 1e6:,.1f} MB in their files\n{summary.hardware}\nspeeds: {summary.timing}"
    )


def _curves(curves: Sequence[Curve], *, with_bytes: bool) -> Iterator[str]:
    if not curves:
        return
    width = max(len(curve.label) for curve in curves)
    head = "   bytes" if with_bytes else ""
    asked = [
        measure for measure in _COLUMNS if any(_value(point, measure) is not None for curve in curves for point in curve.points)
    ]
    names = "".join(f"  {_COLUMNS[measure]}" for measure in asked)
    lines = [f"{'codec':{width}}  quality{head}    bpp  PSNR dB  MS-SSIM{names}  encode  decode MP/s   threads"]
    for curve in curves:
        for point in curve.points:
            quality = "lossless" if curve.lossless else f"{point.quality:g}"
            ms_ssim = "–" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"
            psnr = "exact" if point.exact_images == point.images else f"{point.psnr_db:.2f}"
            num_bytes = f" {point.bytes:7,.1f}" if with_bytes else ""
            others = "".join(f"  {_figure(point, measure):>{len(_COLUMNS[measure])}}" for measure in asked)
            lines.append(
                f"{curve.label:{width}} {quality:>8}{num_bytes} {point.bpp:6.3f} {psnr:>8} {ms_ssim:>8}{others} "
                f"{_speed(point.encode_mps):>7} {_speed(point.decode_mps):>7} {curve.threads:>13}"
            )
    yield "\n".join(lines)
    yield "\n".join(f"{curve.label:{width}}  {curve.version}" for curve in curves)
    fewer = {(p.ms_ssim_images, p.images) for curve in curves for p in curve.points if p.ms_ssim_images < p.images}
    if fewer:
        counts = ", ".join(f"{few:,} of {all_:,}" for few, all_ in sorted(fewer))
        yield f"MS-SSIM is over the pictures that are large enough for its window and not huge: {counts}"
    without = max((p.images - p.psnr_images for curve in curves for p in curve.points if p.psnr_images), default=0)
    if without:
        yield f"PSNR is over the pictures that no lossy codec gave back exactly: without {without:,}"
    elif any(0 < p.exact_images < p.images for curve in curves for p in curve.points):
        yield "every picture came back exactly by some lossy codec: they count as 100 dB"


def _value(point: Point, measure: Measure) -> float | None:
    value: float | None = getattr(point, measure)
    return value


def _figure(point: Point, measure: Measure) -> str:
    value = _value(point, measure)
    return "–" if value is None else SCALES[measure].show(value)


def _speed(mps: float | None) -> str:
    return "–" if mps is None else f"{mps:.2f}" if mps < 100 else f"{mps:.0f}"


def _lossy(summary: EvaluationSummary) -> list[Curve]:
    return [curve for curve in summary.curves if not curve.lossless]


def _matrix(summary: EvaluationSummary, measure: Measure) -> str:
    """A row's codec against each column's, with the range that both reach."""
    lossy = _lossy(summary)
    found = {(bd.codec, bd.anchor): bd for bd in summary.bd_rates if bd.measure == measure}
    cells = [[_cell(found.get((row.codec, column.codec))) for column in lossy] for row in lossy]
    first = max(len(curve.codec) for curve in lossy)
    widths = [max(len(c.codec), *(len(row[i]) for row in cells)) for i, c in enumerate(lossy)]
    scale = SCALES[measure]
    lines = [f"BD-rate by {scale.name}: % more bits than the column's codec at equal {scale.name} (over {scale.unit})"]
    lines.append("  ".join([" " * first, *(f"{c.codec:>{w}}" for c, w in zip(lossy, widths, strict=True))]))
    for curve, row in zip(lossy, cells, strict=True):
        lines.append("  ".join([f"{curve.codec:{first}}", *(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True))]))
    return "\n".join(lines)


def _cell(bd: BdRate | None) -> str:
    if bd is None:
        return "·"
    if bd.percent is None or bd.low is None or bd.high is None:
        return "–"
    return f"{bd.percent:+.1f} ({bd.low:.0f}…{bd.high:.0f})"


def _recommendation(found: Recommendation) -> Iterator[str]:
    how = "all of them measured" if found.sampled == found.files else f"{found.sampled:,} of them measured"
    yield f"SOURCE weighs {_bytes(found.source_bytes)} in {found.files:,} files, {how}"
    yield f"without loss, JPEGs as JPEG XL transcodes: {_share(found.transcoded, found)}"
    if found.target is not None and found.measure is not None:
        scale = SCALES[found.measure]
        asked = f"{scale.name} of {found.target:g}{scale.suffix}"
        what = f"with {asked} for each picture" if found.each else f"at a mean {asked}"
        yield f"{what}, with alpha and metadata; what would not shrink is kept without loss:"
    for choice in found.choices:
        yield f"  {_choice(choice, found)}"
    yield f"({found.confidence:.0%} intervals: {found.method})"


def _choice(choice: Choice, found: Recommendation) -> str:
    if choice.total is None or choice.psnr_db is None:
        return visible(f"{choice.label}: {choice.reason}")
    figures = [SCALES["psnr_db"].show(choice.psnr_db)]
    others: tuple[tuple[Measure, float | None], ...] = (("ms_ssim", choice.ms_ssim), ("ssimulacra2", choice.ssimulacra2))
    figures += [f"{SCALES[name].name} {SCALES[name].show(value)}" for name, value in others if value is not None]
    left = f"; {choice.out_of_reach:,} of them do not reach it" if choice.out_of_reach else ""
    return f"{choice.label} at {choice.at}: {_share(choice.total, found)} ({', '.join(figures)}{left})"


def _share(total: Estimate, found: Recommendation) -> str:
    interval = "" if total.low_bytes == total.high_bytes else f" ({_bytes(total.low_bytes)}…{_bytes(total.high_bytes)})"
    percent = f", {100 * total.bytes / found.source_bytes:.1f} %" if found.source_bytes else ""
    return f"{_bytes(total.bytes)}{interval}{percent}"


def _bytes(number: int) -> str:
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number} B"


def _left_out(summary: EvaluationSummary) -> Iterator[str]:
    yield from (visible(f"left out: {item.label}: {item.reason}") for item in summary.left_out)
    for missed in summary.unmeasured[:SHOWN_UNMEASURED]:
        by = "" if missed.codec is None else f" by {missed.codec}"
        yield visible(f"not measured{by}: {missed.key}: {missed.stage}: {missed.error}")
    if len(summary.unmeasured) > SHOWN_UNMEASURED:
        yield f"… and {len(summary.unmeasured) - SHOWN_UNMEASURED:,} more, all in --json and the Parquet file"
