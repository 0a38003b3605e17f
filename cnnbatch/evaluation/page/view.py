"""The template's needs beyond the summary: lengths of bars, cells of the matrix, rows of speeds."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cnnbatch.evaluation.page import wording
from cnnbatch.evaluation.scales import SCALES
from cnnbatch.evaluation.summary import (
    BdRate,
    Choice,
    Curve,
    Estimate,
    EvaluationSummary,
    LeftOut,
    Measure,
    Panel,
    Point,
    Recommendation,
    Unmeasured,
)

OURS = "cnn"
"""The word of our codec; that of another codec file begins with it and a colon (`cnnbatch.evaluation.ours`)."""

MOST_MISSED = 200
"""Rows of the list of unmeasured images; the Parquet file beside the page has all of them."""

_STEPS = (3, 10, 25, 45)
"""Percent from which a cell of the matrix takes the next tint."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The weight of the source in one way. Lengths are in percent of the longest bar."""

    label: str
    note: str
    weight: str
    share: str
    interval: str | None
    length: float
    low: float
    high: float
    ours: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair of codecs in the matrix; ``tint`` is a class of the style sheet, ``note`` the number of a footnote."""

    percent: str
    overlap: str
    tint: str
    note: int | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """BD-rates by one measure: a row's codec against each column's. A row is its label, whether it is ours, and its cells."""

    measure: Measure
    name: str
    unit: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, bool, tuple[Cell | None, ...]], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One codec's speeds over its qualities; bars in percent of the fastest codec, on a logarithmic scale."""

    label: str
    threads: int
    encode: str
    decode: str
    encode_bar: tuple[float, float] | None
    decode_bar: tuple[float, float] | None
    version: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Missed:
    """Images and codecs without figures: ``counts`` by what failed, the first ``rows``, and how many more there are."""

    counts: tuple[tuple[str, int], ...]
    rows: tuple[Unmeasured, ...]
    more: int
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Hero:
    """The page's first words: what becomes of the source with our codec."""

    now: str
    then: str | None
    choice: Choice | None


def hero(summary: EvaluationSummary) -> Hero:
    """Before and after: the whole source where there is a recommendation, else the images that were measured."""
    advice = summary.recommendation
    if advice is None:
        return Hero(wording.weight(summary.source_bytes), None, None)
    choice = our_choice(advice)
    total = choice.total if choice else None
    return Hero(wording.weight(advice.source_bytes), wording.weight(total.bytes) if total else None, choice)


def bars(advice: Recommendation | None) -> tuple[Bar, ...]:
    """The source as it is, transcoded without loss, and with each choice that reaches the target; ours before the others."""
    if advice is None:
        return ()
    reached = [(choice, choice.total) for choice in advice.choices if choice.total is not None]
    longest = max(advice.source_bytes, advice.transcoded.high_bytes, *(total.high_bytes for _, total in reached), 1)
    now = Estimate(bytes=advice.source_bytes, low_bytes=advice.source_bytes, high_bytes=advice.source_bytes)
    bar = partial(_bar, now=now.bytes, longest=longest)
    return (
        bar(now, label="As it is", note=f"{advice.files:,} files"),
        bar(advice.transcoded, label="JPEGs transcoded without loss", note="JPEG XL, every bit comes back"),
        *(
            bar(total, label=choice.label, note=_at(choice), ours=is_ours(choice.codec))
            for choice, total in sorted(reached, key=lambda pair: not is_ours(pair[0].codec))
        ),
    )


def _bar(total: Estimate, *, label: str, note: str, now: int, longest: int, ours: bool = False) -> Bar:
    exact = total.low_bytes == total.high_bytes
    return Bar(
        label=label,
        note=note,
        weight=wording.weight(total.bytes),
        share=wording.share(total.bytes, now),
        interval=None if exact else f"{wording.weight(total.low_bytes)} – {wording.weight(total.high_bytes)}",
        length=_percent(total.bytes, longest),
        low=_percent(total.low_bytes, longest),
        high=_percent(total.high_bytes, longest),
        ours=ours,
    )


def matrices(summary: EvaluationSummary) -> tuple[Matrix, ...]:
    """One matrix a measure, for the codecs that any pair names, in the order of the curves."""
    found = []
    for measure, scale in SCALES.items():
        pairs = {(rate.codec, rate.anchor): rate for rate in summary.bd_rates if rate.measure == measure}
        named = {codec for pair in pairs for codec in pair}
        curves = [curve for curve in summary.curves if curve.codec in named]
        notes = tuple(dict.fromkeys(_reason(rate) for rate in pairs.values() if rate.percent is None))
        rows = tuple(
            (row.label, is_ours(row.codec), tuple(_cell(pairs.get((row.codec, column.codec)), notes) for column in curves))
            for row in curves
        )
        if rows:
            found.append(Matrix(measure, scale.name, scale.unit, tuple(curve.label for curve in curves), rows, notes))
    return tuple(found)


def speed_rows(curves: Sequence[Curve]) -> tuple[SpeedRow, ...]:
    """Slowest and fastest of each codec's qualities."""
    encode = [[p.encode_mps for p in curve.points if p.encode_mps is not None] for curve in curves]
    decode = [[p.decode_mps for p in curve.points if p.decode_mps is not None] for curve in curves]
    everything = [value for values in (*encode, *decode) for value in values]
    return tuple(
        SpeedRow(
            label=curve.label,
            threads=curve.threads,
            encode=wording.speeds(encoded),
            decode=wording.speeds(decoded),
            encode_bar=_span(encoded, everything),
            decode_bar=_span(decoded, everything),
            version=curve.version,
            ours=is_ours(curve.codec),
        )
        for curve, encoded, decoded in zip(curves, encode, decode, strict=True)
    )


def missed(summary: EvaluationSummary) -> Missed:
    """The images left out, those without any figure first, and the codecs left out."""
    rows = sorted(summary.unmeasured, key=lambda row: (row.codec is not None, row.key, row.codec or ""))
    counts = Counter(f"{row.codec or 'every codec'}, {row.stage}" for row in rows)
    return Missed(tuple(counts.most_common()), tuple(rows[:MOST_MISSED]), max(0, len(rows) - MOST_MISSED), summary.left_out)


def is_ours(codec: str) -> bool:
    """Whether a codec's word names one of our codec files."""
    return codec.partition(":")[0] == OURS


def our_codec(curves: Sequence[Curve]) -> str | None:
    """The word of the codec that the page puts first: ours, or the first of several codec files."""
    return next((curve.codec for curve in curves if is_ours(curve.codec)), None)


def our_choice(advice: Recommendation) -> Choice | None:
    """The weight that the source would have with our codec, where it was asked about."""
    return next((choice for choice in advice.choices if is_ours(choice.codec)), None)


def figures(found: Point | Panel | Choice) -> list[str]:
    """A measured value, for people: ``36.02 dB``, ``MS-SSIM 0.9871``, ``SSIMULACRA2 80.1``."""
    values = ((measure, scale, getattr(found, measure, None)) for measure, scale in SCALES.items())
    return [
        scale.show(value) if measure == "psnr_db" else f"{scale.name} {scale.show(value)}"
        for measure, scale, value in values
        if value is not None
    ]


def asked_for(advice: Recommendation) -> str | None:
    """The target in words; None: none."""
    if advice.measure is None or advice.target is None:
        return None
    scale = SCALES[advice.measure]
    return f"{scale.name} of {advice.target:g}{scale.suffix}{', for each picture' if advice.each else ''}"


def measured(curves: Sequence[Curve]) -> tuple[tuple[Measure, str], ...]:
    """The measures that any curve has, with their names; PSNR in any case."""
    points = [point for curve in curves for point in curve.points]
    return tuple(
        (measure, scale.name)
        for measure, scale in SCALES.items()
        if measure == "psnr_db" or any(getattr(point, measure) is not None for point in points)
    )


def _at(choice: Choice) -> str:
    return ", ".join([choice.at, *figures(choice)])


def _reason(rate: BdRate) -> str:
    return rate.reason or "not computed"


def _cell(rate: BdRate | None, notes: Sequence[str]) -> Cell | None:
    if rate is None:
        return None
    if rate.percent is None:
        return Cell(wording.MISSING, "", "", notes.index(_reason(rate)) + 1)
    level = sum(abs(rate.percent) >= step for step in _STEPS)
    tint = f"{'fewer' if rate.percent < 0 else 'more'}{level}" if level else ""
    reach = rate.low is not None and rate.high is not None
    return Cell(f"{wording.signed(rate.percent)} %", f"{rate.low:.1f}–{rate.high:.1f}" if reach else "", tint, None)


def _span(values: Sequence[float], everything: Sequence[float]) -> tuple[float, float] | None:
    """Where ``values`` lie on a logarithmic axis over the decades of ``everything``: start and width in percent."""
    if not values or min(everything) <= 0:
        return None
    first, last = math.floor(math.log10(min(everything))), math.ceil(math.log10(max(everything)))
    decades = max(1, last - first)
    start, end = ((math.log10(value) - first) / decades for value in (min(values), max(values)))
    return round(100 * start, 2), round(max(1.5, 100 * (end - start)), 2)


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2)
