"""Which quality reaches what the user asked for, and what the source would weigh at it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.codec import DEFAULT_QUALITY
from cnnbatch.evaluation.codecs import CodecSpec
from cnnbatch.evaluation.measurement import Measured
from cnnbatch.evaluation.ours import NAME
from cnnbatch.evaluation.sampling import CONFIDENCE, METHOD, Stratum, estimate
from cnnbatch.evaluation.summary import Choice, Measure, Recommendation
from cnnbatch.storage import ObjectInfo


@dataclass(frozen=True, slots=True)
class Goal:
    """The mean that a quality has to reach: dB of PSNR, or MS-SSIM in 0…1."""

    measure: Measure
    target: float


@dataclass(slots=True)
class QualitySearch:
    """The lowest quality of a codec whose mean reaches ``target``, from the means at a few qualities (``known``).

    >>> search = QualitySearch(30.0, lowest=0, highest=100, step=1, known={0: 20.0, 100: 50.0})
    >>> search.next()
    34.0
    """

    target: float
    lowest: float
    highest: float
    step: float
    known: dict[float, float] = field(default_factory=dict)

    @property
    def answer(self) -> float | None:
        """The lowest known quality that reaches the target; None: none does."""
        return min((quality for quality, mean in self.known.items() if mean >= self.target), default=None)

    def next(self) -> float | None:
        """The quality to measure next; None: the answer stands."""
        above = self.answer
        if above is None:
            return None if self.highest in self.known else self.highest
        below = max((quality for quality in self.known if quality < above), default=None)
        if below is None:
            return None if above == self.lowest else self.lowest
        steps = round((above - below) / self.step)
        if steps <= 1:
            return None
        rise = self.known[above] - self.known[below]
        guess = math.ceil((self.target - self.known[below]) / rise * steps) if rise > 0 else steps // 2
        return below + min(max(guess, 1), steps - 1) * self.step


@dataclass(frozen=True, slots=True)
class CodedSample:
    """The sample at one quality of one codec: means over the compared pictures, and bytes of every picture it could code."""

    psnr_db: float
    ms_ssim: float | None
    num_bytes: Mapping[str, int]

    def value(self, measure: Measure) -> float | None:
        """The mean that a goal asks for."""
        return self.psnr_db if measure == "psnr_db" else self.ms_ssim


def coded_sample(
    table: pa.Table, codec: str, quality: float, keys: frozenset[str], psnr_keys: frozenset[str]
) -> CodedSample | None:
    """From the measurements; None where not all of ``keys`` were measured at that quality. ``psnr_keys``: see `Means`."""
    mask = pc.and_(pc.equal(table.column("codec").cast(pa.string()), codec), pc.equal(table.column("quality"), quality))
    rows = table.filter(pc.and_(mask, pc.is_valid(table.column("bytes"))))
    compared = rows.filter(pc.is_in(rows.column("key"), value_set=pa.array(sorted(keys), pa.string())))
    if not keys or compared.num_rows != len(keys):
        return None
    sizes = dict(zip(rows.column("key").to_pylist(), rows.column("bytes").to_pylist(), strict=True))
    with_psnr = compared.filter(pc.is_in(compared.column("key"), value_set=pa.array(sorted(psnr_keys), pa.string())))
    return CodedSample(pc.mean(with_psnr.column("psnr_db")).as_py(), pc.mean(compared.column("ms_ssim")).as_py(), sizes)


class GoalSearch:
    """Finds each lossy codec's lowest quality that reaches the goal, by measuring the sample at a few qualities more.

    Without a goal it asks for `DEFAULT_QUALITY` of our codecs only.
    """

    def __init__(
        self,
        goal: Goal | None,
        specs: Sequence[CodecSpec],
        table: pa.Table,
        keys: frozenset[str],
        psnr_keys: frozenset[str] | None = None,
    ) -> None:
        """``keys``, ``psnr_keys``: see `cnnbatch.evaluation.table.Means`."""
        self._goal, self._keys, self._table = goal, keys, table
        self._psnr_keys = keys if psnr_keys is None else psnr_keys
        self._specs = [spec for spec in specs if not spec.lossless and (goal is not None or spec.name.startswith(NAME))]
        self._reasons: dict[str, str] = {}
        self._searches = {spec.name: self._search(spec) for spec in self._specs}

    def _search(self, spec: CodecSpec) -> QualitySearch:
        if self._goal is None:
            return QualitySearch(-math.inf, DEFAULT_QUALITY, DEFAULT_QUALITY, spec.step)
        search = QualitySearch(self._goal.target, spec.lowest, spec.highest, spec.step)
        for quality in spec.qualities:
            self._note(spec, search, quality)
        return search

    def _note(self, spec: CodecSpec, search: QualitySearch, quality: float) -> None:
        measure = "psnr_db" if self._goal is None else self._goal.measure
        coded = coded_sample(self._table, spec.name, quality, self._keys, self._psnr_keys)
        mean = None if coded is None else coded.value(measure)
        if mean is not None:
            search.known[quality] = mean
        elif coded is None:
            self._reasons[spec.name] = f"not all pictures could be measured at quality {quality:g}"
        else:
            self._reasons[spec.name] = "no picture has an MS-SSIM: all are smaller than its window"

    def wanted(self) -> dict[str, float]:
        """The quality to measure the whole sample at next, for each codec that has one."""
        found = {name: search.next() for name, search in self._searches.items() if name not in self._reasons}
        return {name: quality for name, quality in found.items() if quality is not None}

    def learn(self, table: pa.Table, measured: Mapping[str, float]) -> None:
        """``table``: all measurements so far, those at the qualities that were ``wanted`` among them."""
        self._table = table
        for spec in self._specs:
            if spec.name in measured:
                self._note(spec, self._searches[spec.name], measured[spec.name])

    def choices(self, strata: Sequence[Stratum], files: Mapping[str, Measured]) -> list[Choice]:
        """One for each codec, with what the whole source would weigh."""
        return [self._choice(spec, strata, files) for spec in self._specs]

    def _choice(self, spec: CodecSpec, strata: Sequence[Stratum], files: Mapping[str, Measured]) -> Choice:
        search = self._searches[spec.name]
        quality = search.answer
        coded = None if quality is None else coded_sample(self._table, spec.name, quality, self._keys, self._psnr_keys)
        if quality is None or coded is None:
            best = max(search.known.values(), default=None)
            beyond = "" if best is None else f"no quality reaches {search.target:g}; the highest gives {best:.4g}"
            return no_choice(spec, self._reasons.get(spec.name, beyond))
        return choice(spec, quality, coded, strata, files)


def kept_bytes(file: Measured, coded_bytes: int | None) -> int:
    """Bytes an archive holds of a file: coded colours and what lies beside them, or the file without loss where that is not
    smaller than the file or cannot be had (``None``), as `jobs.compress` does it."""
    assert file.lossless_bytes is not None  # results of a baseline pass
    if coded_bytes is None or coded_bytes + file.side_bytes >= file.source_bytes:
        return file.lossless_bytes
    return coded_bytes + file.side_bytes


def choice(
    spec: CodecSpec, quality: float, coded: CodedSample, strata: Sequence[Stratum], files: Mapping[str, Measured]
) -> Choice:
    """One codec at the quality that was found."""

    def kept(info: ObjectInfo) -> int:
        return kept_bytes(files[info.key], coded.num_bytes.get(info.key))

    return Choice(
        codec=spec.name,
        label=spec.label,
        quality=quality,
        psnr_db=coded.psnr_db,
        ms_ssim=coded.ms_ssim,
        total=estimate(strata, kept),
    )


def no_choice(spec: CodecSpec, reason: str) -> Choice:
    """A codec that has no quality for the goal."""
    return Choice(codec=spec.name, label=spec.label, quality=None, psnr_db=None, ms_ssim=None, total=None, reason=reason)


def recommendation(
    goal: Goal | None, strata: Sequence[Stratum], files: Mapping[str, Measured], choices: Sequence[Choice]
) -> Recommendation:
    """``files``: results of the baseline pass, one for each sampled file."""
    return Recommendation(
        measure=None if goal is None else goal.measure,
        target=None if goal is None else goal.target,
        files=sum(len(stratum.sizes) for stratum in strata),
        source_bytes=sum(stratum.num_bytes for stratum in strata),
        sampled=sum(len(stratum.sample) for stratum in strata),
        transcoded=estimate(strata, lambda info: kept_bytes(files[info.key], None)),
        choices=tuple(choices),
        confidence=CONFIDENCE,
        method=METHOD,
        strata=tuple(stratum.summary() for stratum in strata),
    )
