"""An evaluation for the report page: real photographs of scikit-image, coded by the real codecs, in a few seconds."""

import base64
import io
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photographs import NAMES
from cnnbatch.codec import Codec
from cnnbatch.evaluation.bd_rate import bd_rates
from cnnbatch.evaluation.codecs import ImageCodec, Pixels, as_rgb, library_codec
from cnnbatch.evaluation.examples import MEDIA_TYPE, MOST_EXAMPLES, PAGE_BYTES, fitting_crop, nearest_quality
from cnnbatch.evaluation.measurement import Measured, measure
from cnnbatch.evaluation.measurement_table import Measurements, means
from cnnbatch.evaluation.ours import CnnCodec
from cnnbatch.evaluation.summary import (
    Choice,
    Estimate,
    EvaluationSummary,
    Example,
    LeftOut,
    Panel,
    Published,
    Recommendation,
    Stratum,
    Unmeasured,
)
from cnnbatch.metrics import psnr_db

DISTINCT_EXAMPLES = 8
"""The page holds each of them three times, under another key."""

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "<!--<script>window.hacked=1",
    "<svg/onload=window.hacked=1>",
    "javascript:window.hacked=1",
    "{{ 7 * 7 }}{% raw %}",
    "__proto__",
    "a\u202egpj.exe\u2028\n\x00\x1b[31m",
    "']]>&lt;b&gt;\\u003cscript\\u003e",
    "long/" + "x" * 900,
)


@cache
def photographs() -> tuple[Pixels, ...]:
    folder = files("skimage") / "data"
    return tuple(
        np.array(Image.open(io.BytesIO((folder / name).read_bytes())).convert("RGB")) for name in NAMES if name != "ihc.png"
    )


def region(number: int, height: int = 384, width: int = 512) -> Pixels:
    """A part of a photograph, another one for every number."""
    picture = photographs()[number % len(photographs())]
    top = (picture.shape[0] - height) * (number * 7 % 10) // 10 if picture.shape[0] > height else 0
    left = (picture.shape[1] - width) * (number * 3 % 10) // 10 if picture.shape[1] > width else 0
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


@cache
def codecs() -> dict[str, ImageCodec]:
    names = ("jpeg444", "jpeg420", "webp", "jxl", "jpeg2000", "png", "jpegls")
    return {"cnn": CnnCodec(Codec.load(device="cpu")), **{name: library_codec(name) for name in names}}


@cache
def summary() -> EvaluationSummary:
    """Curves of eight codecs on two small regions, and as many examples as a page may have."""
    specs = [replace(codec.spec, qualities=codec.spec.qualities[::2]) for codec in codecs().values()]
    measurements = Measurements()
    for number in range(2):
        picture = region(number, 192, 256)
        rows = tuple(measure(codecs()[spec.name], quality, picture) for spec in specs for quality in spec.qualities)
        measurements.add(Measured(f"photo{number}.png", 80_000, None, rows, "png", 256, 192, 0))
    curves = means(measurements.table(), specs, pictures=2).curves
    made = [example(number) for number in range(DISTINCT_EXAMPLES)]
    return EvaluationSummary(
        source="s3://holiday/pictures",
        images=2,
        pixels=2 * 192 * 256,
        source_bytes=160_000,
        created_at="2026-11-22T19:05:11+00:00",
        hardware="a processor, 2 cores",
        timing="Megapixels over the seconds of the calls, one call at a time.",
        curves=curves,
        bd_rates=tuple(bd_rates(curves)),
        recommendation=recommendation(),
        unmeasured=(
            Unmeasured(key="2019/broken.jpg", codec=None, stage="decode", error="truncated: 1,024 of 88,120 bytes"),
            Unmeasured(key="2021/panorama.tif", codec="webp", stage="encode", error="ValueError: more than 16383 pixels wide"),
        ),
        left_out=(LeftOut(codec="avif", label="AVIF", reason="Pillow was built without avif"),),
        examples=tuple(
            made[number % len(made)].model_copy(update={"key": f"2024/holiday/IMG_{4000 + number}.jpg"})
            for number in range(MOST_EXAMPLES)
        ),
        published=(Published(label="A codec of a paper", points=((0.1, 28.9), (0.6, 35.4), (1.3, 39.2)), source="a paper"),),
    )


def recommendation() -> Recommendation:
    return Recommendation(
        measure="psnr_db",
        target=36.0,
        files=1_204_332,
        source_bytes=1_240_000_000_000,
        sampled=400,
        transcoded=Estimate(bytes=1_052_000_000_000, low_bytes=1_038_000_000_000, high_bytes=1_066_000_000_000),
        choices=(
            choice("cnn", "cnnbatch", 38, 310_000_000_000),
            choice("jpeg444", "JPEG 4:4:4", 84, 470_000_000_000),
            choice("jxl", "JPEG XL", 82, 355_000_000_000),
            Choice(
                codec="vq",
                label="Codebook",
                quality=None,
                psnr_db=None,
                ms_ssim=None,
                total=None,
                reason="it ends at 31.0 dB",
            ),
        ),
        confidence=0.95,
        method="ratio estimate in strata by format and file size",
        strata=(
            Stratum(format="jpg", smallest_bytes=2_000, largest_bytes=900_000, files=800_000, bytes=34 * 10**10, sampled=110),
            Stratum(
                format="jpg", smallest_bytes=900_001, largest_bytes=9_000_000, files=404_332, bytes=9 * 10**11, sampled=290
            ),
        ),
    )


def choice(codec: str, label: str, quality: float, num_bytes: int) -> Choice:
    total = Estimate(bytes=num_bytes, low_bytes=round(num_bytes * 0.93), high_bytes=round(num_bytes * 1.07))
    return Choice(codec=codec, label=label, quality=quality, psnr_db=36.02, ms_ssim=0.9871, total=total)


def example(number: int) -> Example:
    picture = region(number)
    height, width = picture.shape[:2]
    coded = {"cnn": (20.0, codecs()["cnn"].encode(picture, 20))}
    for name in ("jpeg444", "jpeg420"):
        quality = nearest_quality(codecs()[name], picture, len(coded["cnn"][1]))
        coded[name] = (quality, codecs()[name].encode(picture, quality))
    (left, top, right, bottom), original = fitting_crop(picture, PAGE_BYTES // MOST_EXAMPLES // (1 + len(coded)))
    panels = []
    for name, (quality, data) in coded.items():
        decoded = as_rgb(codecs()[name].decode(data))
        panels.append(
            Panel(
                codec=name,
                label=codecs()[name].spec.label,
                quality=quality,
                bytes=len(data),
                bpp=8 * len(data) / (height * width),
                psnr_db=psnr_db(picture, decoded),
                ms_ssim=None,
                image=lossless(decoded[top:bottom, left:right]),
            )
        )
    return Example(
        key=f"photo{number}",
        width=width,
        height=height,
        left=left,
        top=top,
        crop_width=right - left,
        crop_height=bottom - top,
        source_bytes=picture.size // 4,
        media_type=MEDIA_TYPE,
        original=base64.b64encode(original).decode(),
        panels=tuple(panels),
    )


def lossless(picture: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", lossless=True, quality=20, method=1)
    return base64.b64encode(buffer.getvalue()).decode()


def hostile() -> EvaluationSummary:
    """The same with `HOSTILE` in every place that comes from the source, a codec or a published file."""
    usual = summary()
    text = "".join(HOSTILE)
    assert usual.recommendation is not None
    first = usual.examples[0]
    return usual.model_copy(
        update={
            "source": text,
            "hardware": text,
            "timing": text,
            "created_at": text,
            "curves": tuple(
                curve.model_copy(update={"label": bad, "codec": bad, "version": text})
                for curve, bad in zip(usual.curves, HOSTILE, strict=False)
            ),
            "bd_rates": tuple(
                rate.model_copy(update={"anchor": HOSTILE[0], "codec": HOSTILE[1], "percent": None, "reason": text})
                for rate in usual.bd_rates[:1]
            ),
            "recommendation": usual.recommendation.model_copy(
                update={"method": text, "choices": tuple(choice("cnn", bad, 3, 1_000) for bad in HOSTILE)}
            ),
            "unmeasured": tuple(Unmeasured(key=bad, codec=bad, stage=bad, error=bad) for bad in HOSTILE),
            "left_out": tuple(LeftOut(codec=bad, label=bad, reason=bad) for bad in HOSTILE),
            "examples": tuple(
                first.model_copy(
                    update={
                        "key": bad,
                        "media_type": bad,
                        "panels": tuple(p.model_copy(update={"label": bad}) for p in first.panels),
                    }
                )
                for bad in HOSTILE
            ),
            "published": tuple(Published(label=bad, points=((0.1, 30.0), (0.5, 35.0)), source=bad) for bad in HOSTILE),
        }
    )


def write(page: str, path: Path) -> str:
    """Writes the page; gives back its URL."""
    path.write_text(page, encoding="utf-8")
    return path.as_uri()
