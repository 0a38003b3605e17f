"""Which quality reaches what the user asked for, and what the source would weigh at it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.codec import DEFAULT_QUALITY
from cnnbatch.evaluation.codecs import CodecSpec
from cnnbatch.evaluation.measurement import Measured
from cnnbatch.evaluation.ours import NAME
from cnnbatch.evaluation.sampling import CONFIDENCE, METHOD, Stratum, estimate
from cnnbatch.evaluation.summary import Choice, Measure, Recommendation
from cnnbatch.storage import ObjectInfo

Qualities = Mapping[str, float]
"""The quality of each picture, by its key."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a quality: the mean over the pictures, dB of PSNR or MS-SSIM in 0…1, or (``each``) every picture by
    itself, its SSIMULACRA2 within ``slack``."""

    measure: Measure
    target: float
    each: bool = False
    slack: float = 0.0


@dataclass(slots=True)
class QualitySearch:
    """The lowest quality of a codec whose value reaches ``target``, from the values at a few qualities (``known``).

    Less by ``slack`` is good enough, and so is more by as much.

    >>> search = QualitySearch(30.0, lowest=0, highest=100, step=1, known={0: 20.0, 100: 50.0})
    >>> search.next()
    34.0
    """

    target: float
    lowest: float
    highest: float
    step: float
    known: dict[float, float] = field(default_factory=dict)
    slack: float = 0.0

    @property
    def answer(self) -> float | None:
        """The lowest known quality that reaches the target; None: none does."""
        return min((quality for quality, value in self.known.items() if value >= self.target - self.slack), default=None)

    def next(self) -> float | None:
        """The quality to measure next; None: the answer stands."""
        above = self.answer
        if above is None:
            return None if self.highest in self.known else self.highest
        if self.slack and self.known[above] <= self.target + self.slack:
            return None
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
    """The sample at one quality of one codec, or each picture at its own: means over the compared pictures, and bytes of every
    picture that was coded."""

    psnr_db: float
    ms_ssim: float | None
    num_bytes: Mapping[str, int]
    ssimulacra2: float | None = None

    def value(self, measure: Measure) -> float | None:
        """The mean that a goal asks for."""
        found: float | None = getattr(self, measure)
        return found


def coded_sample(
    table: pa.Table, codec: str, quality: float | Qualities, keys: frozenset[str], psnr_keys: frozenset[str]
) -> CodedSample | None:
    """From the measurements; None where not all of ``keys`` were measured at that quality. ``psnr_keys``: see `Means`."""
    rows = _measured(table, codec)
    if isinstance(quality, Mapping):
        pairs = zip(rows.column("key").to_pylist(), rows.column("quality").to_pylist(), strict=True)
        rows = rows.filter(pa.array([quality.get(key) == q for key, q in pairs], pa.bool_()))
    else:
        rows = rows.filter(pc.equal(rows.column("quality"), quality))
    compared = rows.filter(_among(rows, keys))
    if not keys or compared.num_rows != len(keys):
        return None
    sizes = dict(zip(rows.column("key").to_pylist(), rows.column("bytes").to_pylist(), strict=True))
    with_psnr = compared.filter(_among(compared, psnr_keys))
    ms_ssim, ssimulacra2 = (pc.mean(compared.column(name)).as_py() for name in ("ms_ssim", "ssimulacra2"))
    return CodedSample(pc.mean(with_psnr.column("psnr_db")).as_py(), ms_ssim, sizes, ssimulacra2)


def _measured(table: pa.Table, codec: str) -> pa.Table:
    return table.filter(pc.and_(pc.equal(table.column("codec").cast(pa.string()), codec), pc.is_valid(table.column("bytes"))))


def _among(table: pa.Table, keys: frozenset[str]) -> pa.ChunkedArray:
    return pc.is_in(table.column("key"), value_set=pa.array(sorted(keys), pa.string()))


@dataclass(frozen=True, slots=True)
class _Sample:
    """The measured rows: all of them, the pictures behind the means, and those of them behind the means of PSNR."""

    table: pa.Table
    keys: frozenset[str]
    psnr_keys: frozenset[str]


class _ForAll:
    """One quality of one codec for all pictures, by the mean over them."""

    def __init__(self, spec: CodecSpec, measure: Measure, search: QualitySearch) -> None:
        self.spec, self.measure, self.search = spec, measure, search
        self._reason = ""

    def learn(self, sample: _Sample, qualities: Iterable[float]) -> None:
        """Notes the means at these qualities."""
        for quality in qualities:
            coded = coded_sample(sample.table, self.spec.name, quality, sample.keys, sample.psnr_keys)
            mean = None if coded is None else coded.value(self.measure)
            if mean is not None:
                self.search.known[quality] = mean
            elif coded is None:
                self._reason = f"not all pictures could be measured at quality {quality:g}"
            else:
                self._reason = "no picture has an MS-SSIM: all are smaller than its window"

    def wanted(self) -> float | None:
        return None if self._reason else self.search.next()

    def choice(self, sample: _Sample, strata: Sequence[Stratum], files: Mapping[str, Measured]) -> Choice:
        quality = self.search.answer
        coded = None
        if quality is not None:
            coded = coded_sample(sample.table, self.spec.name, quality, sample.keys, sample.psnr_keys)
        if quality is None or coded is None:
            best = max(self.search.known.values(), default=None)
            beyond = "" if best is None else f"no quality reaches {self.search.target:g}; the highest gives {best:.4g}"
            return no_choice(self.spec, self._reason or beyond)
        return choice(self.spec, quality, coded, strata, files)


class _ForEach:
    """A quality of its own for each picture that the codec coded."""

    def __init__(self, spec: CodecSpec, goal: Goal) -> None:
        self.spec, self.goal = spec, goal
        self._searches: dict[str, QualitySearch] = {}

    def learn(self, sample: _Sample) -> None:
        """Notes every value that there is."""
        rows = _measured(sample.table, self.spec.name)
        columns = (rows.column(name).to_pylist() for name in ("key", "quality", self.goal.measure))
        for key, quality, value in zip(*columns, strict=True):
            if value is not None:
                self._searches.setdefault(key, self._new_search()).known[quality] = value

    def _new_search(self) -> QualitySearch:
        spec, goal = self.spec, self.goal
        return QualitySearch(goal.target, spec.lowest, spec.highest, spec.step, slack=goal.slack)

    def wanted(self) -> Qualities | None:
        found = {key: quality for key, search in self._searches.items() if (quality := search.next()) is not None}
        return found or None

    def choice(self, sample: _Sample, strata: Sequence[Stratum], files: Mapping[str, Measured]) -> Choice:
        qualities = {key: quality for key, search in self._searches.items() if (quality := search.answer) is not None}
        reached = frozenset(qualities)
        coded = coded_sample(sample.table, self.spec.name, qualities, sample.keys & reached, sample.psnr_keys)
        if coded is None:
            best = max((value for search in self._searches.values() for value in search.known.values()), default=None)
            beyond = "" if best is None else f"; the best gives {best:.4g}"
            return no_choice(self.spec, f"no picture reaches {self.goal.target:g}{beyond}")
        left = len(self._searches.keys() - reached)
        return choice(self.spec, qualities, coded, strata, files).model_copy(update={"out_of_reach": left})


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
        """``keys``, ``psnr_keys``: see `cnnbatch.evaluation.measurement_table.Means`."""
        self._sample = _Sample(table, keys, keys if psnr_keys is None else psnr_keys)
        asked = [spec for spec in specs if not spec.lossless and (goal is not None or spec.name.startswith(NAME))]
        self._searches = {spec.name: self._search(goal, spec) for spec in asked}

    def _search(self, goal: Goal | None, spec: CodecSpec) -> _ForAll | _ForEach:
        if goal is None:
            return _ForAll(spec, "psnr_db", QualitySearch(-math.inf, DEFAULT_QUALITY, DEFAULT_QUALITY, spec.step))
        if goal.each:
            each = _ForEach(spec, goal)
            each.learn(self._sample)
            return each
        search = _ForAll(spec, goal.measure, QualitySearch(goal.target, spec.lowest, spec.highest, spec.step))
        search.learn(self._sample, spec.qualities)
        return search

    def wanted(self) -> dict[str, float | Qualities]:
        """The quality to measure the sample at next, or some pictures each at its own, for each codec that has any."""
        found = {name: search.wanted() for name, search in self._searches.items()}
        return {name: quality for name, quality in found.items() if quality is not None}

    def learn(self, table: pa.Table, measured: Mapping[str, float | Qualities]) -> None:
        """``table``: all measurements so far, those at the qualities that were ``wanted`` among them."""
        self._sample = replace(self._sample, table=table)
        for name, quality in measured.items():
            search = self._searches[name]
            if isinstance(search, _ForEach):
                search.learn(self._sample)
            elif not isinstance(quality, Mapping):
                search.learn(self._sample, (quality,))

    def choices(self, strata: Sequence[Stratum], files: Mapping[str, Measured]) -> list[Choice]:
        """One for each codec, with what the whole source would weigh."""
        return [search.choice(self._sample, strata, files) for search in self._searches.values()]


def kept_bytes(file: Measured, coded_bytes: int | None) -> int:
    """Bytes an archive holds of a file: coded colours and what lies beside them, or the file without loss where that takes no
    more or the other cannot be had (``None``), as `jobs.compress` does it."""
    assert file.lossless_bytes is not None  # results of a baseline pass
    if coded_bytes is None or coded_bytes + file.side_bytes >= file.lossless_bytes:
        return file.lossless_bytes
    return coded_bytes + file.side_bytes


def choice(
    spec: CodecSpec, quality: float | Qualities, coded: CodedSample, strata: Sequence[Stratum], files: Mapping[str, Measured]
) -> Choice:
    """One codec at the quality that was found, or at those of the pictures; one without is kept without loss."""

    def kept(info: ObjectInfo) -> int:
        return kept_bytes(files[info.key], coded.num_bytes.get(info.key))

    return Choice(
        codec=spec.name,
        label=spec.label,
        quality=None if isinstance(quality, Mapping) else quality,
        psnr_db=coded.psnr_db,
        ms_ssim=coded.ms_ssim,
        total=estimate(strata, kept),
        ssimulacra2=coded.ssimulacra2,
        qualities=(min(quality.values()), max(quality.values())) if isinstance(quality, Mapping) else None,
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
        each=goal is not None and goal.each,
        files=sum(len(stratum.sizes) for stratum in strata),
        source_bytes=sum(stratum.num_bytes for stratum in strata),
        sampled=sum(len(stratum.sample) for stratum in strata),
        transcoded=estimate(strata, lambda info: kept_bytes(files[info.key], None)),
        choices=tuple(choices),
        confidence=CONFIDENCE,
        method=METHOD,
        strata=tuple(stratum.summary() for stratum in strata),
    )
