"""From the words a user types to the codecs of an evaluation, with what is missing here named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cnnbatch.errors import UsageError
from cnnbatch.evaluation import codecs, ours, pca, vq
from cnnbatch.evaluation.codecs import CodecSpec
from cnnbatch.evaluation.summary import LeftOut

WORDS: Final = (ours.NAME, *codecs.TABLE, vq.NAME, pca.NAME)
"""Every codec; ``cnn`` may be several codec files."""

ALIASES: Final = {"jpeg": "jpeg420"}
"""Other words for a codec: a JPEG as most are."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The codecs to measure, and those that were asked for and cannot run here."""

    cnn: tuple[CodecSpec, ...]
    classical: tuple[CodecSpec, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def specs(self) -> tuple[CodecSpec, ...]:
        """All to measure, ours first."""
        return (*self.cnn, *self.classical)


def select(words: Sequence[str], cnn: Sequence[CodecSpec], qualities: Mapping[str, Sequence[float]]) -> Selection:
    """``cnn``: of the codec files. ``qualities``: instead of a codec's own, by its word.

    Raises UsageError for a word or a quality that no codec knows.
    """
    words = [ALIASES.get(word, word) for word in words]
    qualities = {ALIASES.get(word, word): points for word, points in qualities.items()}
    unknown = [word for word in words if word not in WORDS and codecs.entry(word) is None]
    if unknown:
        raise UsageError(f"unknown codec {unknown[0]!r}: choose from {', '.join(WORDS)}, and avif@0 … avif-psnr@10")
    ours_asked = tuple(cnn) if ours.NAME in words else ()
    classical, left_out = [], []
    for word in (word for word in dict.fromkeys(words) if word != ours.NAME):
        spec, reason = _found(word)
        if reason is None:
            classical.append(spec)
        else:
            left_out.append(LeftOut(codec=word, label=spec.label, reason=reason))
    asked = [spec.name for spec in (*ours_asked, *classical)]
    stray = [name for name in qualities if name not in asked]
    if stray:
        raise UsageError(f"qualities.{stray[0]}: not among the codecs that are measured: {', '.join(asked)}")
    return Selection(
        tuple(_with_qualities(spec, qualities.get(spec.name)) for spec in ours_asked),
        tuple(_with_qualities(spec, qualities.get(spec.name)) for spec in classical),
        tuple(left_out),
    )


def _found(word: str) -> tuple[CodecSpec, str | None]:
    """A codec other than ours, and why it cannot run here."""
    if word == vq.NAME:
        return vq.SPEC, vq.missing()
    if word == pca.NAME:
        return pca.SPEC, None
    return codecs.library_spec(word), codecs.missing(word)


def _with_qualities(spec: CodecSpec, asked: Sequence[float] | None) -> CodecSpec:
    if asked is None:
        return spec
    if spec.lossless or not asked:
        what = f"{spec.label} is lossless and has no qualities" if spec.lossless else "names no quality"
        raise UsageError(f"qualities.{spec.name}: {what}")
    for quality in asked:
        steps = (quality - spec.lowest) / spec.step
        if not spec.lowest <= quality <= spec.highest or steps != round(steps):
            known = f"{spec.lowest:g}…{spec.highest:g} in steps of {spec.step:g}"
            raise UsageError(f"qualities.{spec.name}: {spec.label} has {known}, not {quality:g}")
    return replace(spec, qualities=tuple(sorted(set(asked))))
