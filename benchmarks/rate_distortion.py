"""Rate and distortion of codecs on a folder of pictures, in this process, and held against published points.

    python -m benchmarks.rate_distortion FOLDER [--codecs A,B] [--codec FILE] [--measures A,B] [--published FOLDER] [--json]
        [--plot FILE.svg]

The codecs, means and BD-rates are those of `cnnbatch.evaluation`, as in `jobs.evaluate`, which needs Ray and does more. Ours is
``cnn``, ``cnn:NAME`` another codec file that comes with cnnbatch, and ``@N`` behind either says with which effort. With
``--published`` the BD-rate of each pair in `SAME` is printed beside the published one, over the same range of dB. Measures are
words of `cnnbatch.evaluation.scales`; the first is what ``--plot`` draws.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from statistics import harmonic_mean

import numpy as np
import torch
from PIL import Image

from benchmarks.hardware import hardware
from cnnbatch.codec import Codec
from cnnbatch.evaluation import plots
from cnnbatch.evaluation.bd_rate import Difference, RatePoints, bd_rate, bd_rates, rate_points
from cnnbatch.evaluation.codecs import ImageCodec, Pixels, library_codec
from cnnbatch.evaluation.measurement import Measured, measure
from cnnbatch.evaluation.measurement_table import Measurements, means
from cnnbatch.evaluation.ours import NAME, CnnCodec
from cnnbatch.evaluation.published import read_published
from cnnbatch.evaluation.scales import SCALES, WORDS, measures_of
from cnnbatch.evaluation.selection import ALIASES
from cnnbatch.evaluation.summary import BdRate, Curve, Measure, Published

CODECS = ("cnn", "jpeg444", "jpeg420", "webp", "jxl", "avif", "avif-psnr", "jpeg2000")
SAME = {"jpeg420": "jpeg", "webp": "webp", "jpeg2000": "jpeg2000", "avif": "av1", "avif-psnr": "av1"}
"""Codec → the published curve of the same format."""


Picture = tuple[str, Pixels]
"""Name and pixels."""


def curve(
    pictures: Sequence[Picture],
    codec: ImageCodec,
    qualities: Sequence[float] | None = None,
    measures: Sequence[Measure] = ("psnr_db",),
) -> Curve:
    """Means over the pictures at each of the ``qualities``, or the codec's own."""
    spec = codec.spec if qualities is None else replace(codec.spec, qualities=tuple(qualities))
    found = Measurements()
    for key, image in pictures:
        rows = tuple(measure(codec, quality, image, measures) for quality in spec.qualities)
        found.add(Measured(key, image.nbytes, None, rows, "png", image.shape[1], image.shape[0]))
    [only] = means(found.table(), [spec], pictures=len(pictures)).curves
    return only


def against_published(found: Sequence[Curve], published: Sequence[Published], boxes_bpp: Mapping[str, float]) -> Iterator[str]:
    """For each measured pair its BD-rate and that of the published pair, over one range; then each codec against its own, and
    without its container where that is known (``boxes_bpp``, by codec)."""
    others = {other.name: other.points for other in published}
    ours = {one.codec: rate_points(one, "psnr_db") for one in found if published_name(one.codec) in others}
    for anchor, codec in permutations(ours, 2):
        if published_name(anchor) == published_name(codec):
            other = bd_rate(ours[anchor], ours[codec])
            if isinstance(other, Difference):
                yield f"{codec} against {anchor}: {other.percent:+.1f} % over {_range(other)}"
            continue
        here, there = ours[anchor], ours[codec]
        both = _over_one_range((here, there), (others[published_name(anchor)], others[published_name(codec)]))
        if both is not None:
            measured, printed = both
            figures = f"{measured.percent:+.1f} %, published {printed.percent:+.1f} %"
            yield f"{codec} against {anchor}: {figures} over {_range(printed)}"
    for codec, points in ours.items():
        published_points = others[published_name(codec)]
        own = bd_rate(published_points, points)
        if isinstance(own, Difference):
            yield f"{codec} against the published {published_name(codec)}: {own.percent:+.1f} % over {_range(own)}"
        if boxes_bpp.get(codec):
            bare = bd_rate(published_points, [(bpp - boxes_bpp[codec], db) for bpp, db in points])
            if isinstance(bare, Difference):
                yield f"{codec} without its container, {boxes_bpp[codec]:.4f} bpp: {bare.percent:+.1f} % over {_range(bare)}"


def published_name(codec: str) -> str:
    """The published curve of the same format, at whatever speed; empty: there is none."""
    return SAME.get(codec.partition("@")[0], "")


def is_ours(word: str) -> bool:
    """Whether ``word`` is ``cnn``, ``cnn:NAME`` for another codec file of ours, or either with ``@N`` for effort N."""
    return word.partition("@")[0].partition(":")[0] == NAME


_load = cache(Codec.load)
"""Once for all words that name the same file."""


def _ours(word: str, given: str | None) -> CnnCodec:
    """``given``: the codec file that ``cnn`` means, None: the default."""
    name, _, effort = word.partition("@")
    file = name.partition(":")[2] or None
    return CnnCodec(_load(file or given), file, effort=int(effort or 0))


def tables_of(found: Sequence[Curve], rates: Sequence[BdRate], measures: Sequence[Measure]) -> Iterator[str]:
    """For each measure the points of every curve, then the BD-rates of ours, over the measure's own scale."""
    for name in measures:
        scale = SCALES[name]
        yield f"bits per pixel and {scale.name}{scale.suffix and f' in{scale.suffix}'}"
        for one in found:
            values = ((point.bpp, getattr(point, name)) for point in one.points)
            shown = (f"{bpp:.3f} {value:.{scale.digits}f}" for bpp, value in values if value is not None)
            yield f"{one.label:20} {'  '.join(shown)}"
        for rate in rates:
            if rate.measure == name and is_ours(rate.codec) and rate.percent is not None:
                reach = f"{rate.low:.1f}…{rate.high:.1f} ({scale.unit})"
                yield f"BD-rate of {rate.codec} against {rate.anchor}: {rate.percent:+.1f} % over {reach}"


def speeds(found: Sequence[Curve]) -> Iterator[str]:
    """How fast ours encodes at each effort, in megapixels a second of processor time."""
    for one in found:
        rates = [point.encode_mps for point in one.points if point.encode_mps]
        if is_ours(one.codec) and rates:
            yield f"{one.label}: encodes {harmonic_mean(rates):.2f} megapixels a second of processor time"


def boxes(codec: ImageCodec, pictures: Sequence[Picture]) -> float:
    """Bits per pixel of an AVIF file's container, which published points do not have: all but the content of its box mdat."""
    _, image = pictures[0]
    data = codec.encode(image, codec.spec.lowest)
    place = data.index(b"mdat") - 4
    payload = int.from_bytes(data[place : place + 4], "big") - 8
    return 8 * (len(data) - payload) / (image.shape[0] * image.shape[1])


def _over_one_range(
    first: tuple[RatePoints, RatePoints], second: tuple[RatePoints, RatePoints]
) -> tuple[Difference, Difference] | None:
    """Both differences over the range that all four curves reach."""
    reached = bd_rate(*first)
    if isinstance(reached, str):
        return None
    narrow = bd_rate(*second, low=reached.low, high=reached.high)
    if isinstance(narrow, str):
        return None
    again = bd_rate(*first, low=narrow.low, high=narrow.high)
    return None if isinstance(again, str) else (again, narrow)


def _range(difference: Difference) -> str:
    return f"{difference.low:.1f}…{difference.high:.1f} dB"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--codecs", default=",".join(CODECS), help="words of cnnbatch.evaluation, cnn:NAME and cnn@N, by commas"
    )
    parser.add_argument("--codec", help="codec file that cnn means")
    parser.add_argument("--measures", default="psnr,ssimulacra2", help=f"of {','.join(WORDS)}, by commas")
    parser.add_argument("--published", type=Path, help="folder with published curves")
    parser.add_argument("--pictures", type=int, help="only the first so many")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    torch.set_num_threads(2)
    words = [ALIASES.get(word, word) for word in args.codecs.split(",")]
    codecs = [_ours(word, args.codec) if is_ours(word) else library_codec(word) for word in words]
    ids = list(dict.fromkeys(codec.codec.id for codec in codecs if isinstance(codec, CnnCodec)))
    paths = sorted(args.folder.glob("*.png"))[: args.pictures]
    pictures = [(path.stem, np.asarray(Image.open(path).convert("RGB"))) for path in paths]
    measures = measures_of(args.measures.split(","))
    found = [curve(pictures, codec, measures=measures) for codec in codecs]
    rates = list(bd_rates(found))
    if args.plot:
        title = f"{args.folder.name}, mean of {len(paths)} pictures"
        args.plot.write_bytes(plots.draw(found, WORDS[args.measures.split(",")[0]][0], title=title))
    if args.json:
        print_json(found, rates, ids, len(paths))
        return
    names = "".join(f", codec {one[:12]}" for one in ids)
    print(f"{len(paths)} pictures of {args.folder.name}{names}")
    print(*tables_of(found, rates, measures), sep="\n")
    print(*speeds(found), sep="\n")
    if args.published is not None:
        containers = {codec.spec.name: boxes(codec, pictures) for codec in codecs if codec.spec.name.startswith("avif")}
        print(*against_published(found, read_published(args.published), containers), sep="\n")
    print("; ".join(hardware().values()))


def print_json(found: Iterable[Curve], rates: Iterable[BdRate], codec_ids: Sequence[str], images: int) -> None:
    """The same as JSON."""
    content = {
        "images": images,
        "codecs": list(codec_ids),
        "curves": [one.model_dump() for one in found],
        "bd_rate": [rate.model_dump() for rate in rates],
        **hardware(),
    }
    json.dump(content, sys.stdout)


if __name__ == "__main__":
    main()
