"""The JSON from which the script draws curves and pictures. Foreign text in it has lost its control characters."""

from typing import Any

from cnnbatch.evaluation.bd_rate import bpp_of
from cnnbatch.evaluation.page import wording
from cnnbatch.evaluation.page.view import figures, our_choice, our_codec
from cnnbatch.evaluation.scales import SCALES
from cnnbatch.evaluation.summary import Curve, EvaluationSummary, Example, Panel, Point, Published
from cnnbatch.text import visible


def for_script(summary: EvaluationSummary) -> dict[str, Any]:
    """The JSON that the script reads; pictures are not in it."""
    choice = our_choice(summary.recommendation) if summary.recommendation else None
    ours = our_codec(summary.curves)
    return {
        "curves": [_curve(curve, ours) for curve in summary.curves],
        "published": [_published(curve) for curve in summary.published],
        "start": {"codec": choice.codec if choice else ours, "quality": choice.quality if choice else None},
        "examples": [_example(example) for example in summary.examples],
    }


def _curve(curve: Curve, ours: str | None) -> dict[str, Any]:
    return {
        "codec": curve.codec,
        "label": visible(curve.label),
        "ours": curve.codec == ours,
        "published": False,
        "points": [_point(point, curve.lossless) for point in curve.points],
    }


def _point(point: Point, lossless: bool) -> dict[str, Any]:
    parts = [f"quality {wording.quality(point.quality)}"] if not lossless else ["lossless"]
    parts += [f"{point.bpp:.3f} bpp", *figures(point)]
    parts += [f"encodes {wording.speed(point.encode_mps)} MP/s"] if point.encode_mps is not None else []
    parts += [f"decodes {wording.speed(point.decode_mps)} MP/s"] if point.decode_mps is not None else []
    exact = lossless or (point.images > 0 and point.exact_images == point.images)
    return {
        "quality": point.quality,
        "exact": exact,
        "values": {measure: {"bpp": bpp_of(point, measure), "value": getattr(point, measure)} for measure in SCALES},
        "text": ", ".join(parts),
    }


def _published(curve: Published) -> dict[str, Any]:
    return {
        "codec": None,
        "label": visible(curve.label),
        "ours": False,
        "published": True,
        "points": [
            {
                "quality": None,
                "exact": False,
                "values": {"psnr_db": {"bpp": bpp, "value": psnr_db}},
                "text": f"{bpp:.3f} bpp, {psnr_db:.2f} dB (published)",
            }
            for bpp, psnr_db in curve.points
        ],
    }


def _example(example: Example) -> dict[str, Any]:
    size = f"{example.crop_width} × {example.crop_height}"
    whole = (example.crop_width, example.crop_height) == (example.width, example.height)
    part = "" if whole else f", of which {size} from ({example.left}, {example.top}) are here"
    return {
        "key": visible(example.key),
        "mediaType": example.media_type,
        "width": example.crop_width,
        "height": example.crop_height,
        "place": f"{example.width} × {example.height} pixels{part}",
        "versions": [
            {"codec": None, "label": "Original", "figures": [f"{wording.weight(example.source_bytes)} as it is in the source"]},
            *(_version(panel, example) for panel in example.panels),
        ],
    }


def _version(panel: Panel, example: Example) -> dict[str, Any]:
    return {
        "codec": panel.codec,
        "label": visible(panel.label),
        "figures": [
            f"quality {wording.quality(panel.quality)}",
            f"{wording.weight(panel.bytes)} ({wording.share(panel.bytes, example.source_bytes)}), {panel.bpp:.3f} bpp",
            ", ".join(figures(panel)),
        ],
    }
