"""A contact sheet of small pictures: every example, and below it what each codec gave back."""

import base64
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnnbatch.evaluation.codecs import Pixels, as_rgb
from cnnbatch.evaluation.summary import Example, Panel

COLUMNS: Final = 12
LARGEST_SIDE: Final = 128
"""Pixels; larger pictures are looked at one by one, on the page."""

_TILE: Final = 84
"""Pixels a side that a picture is enlarged to, about."""
_LABELS: Final = 250
_GAP: Final = 6
_PAPER: Final = 255


def grid(versions: Sequence[Sequence[Pixels]], *, columns: int, scale: int) -> Image.Image:
    """Pictures of one shape, ``columns`` of ``versions[0]`` in a row, and below them the same ones of the other versions.

    A last row that is not full is filled with white.
    """
    paper = np.full_like(versions[0][0], _PAPER)
    rows = []
    for first in range(0, len(versions[0]), columns):
        for version in versions:
            row = list(version[first : first + columns])
            rows.append(np.hstack(row + [paper] * (columns - len(row))))
    image = Image.fromarray(np.vstack(rows))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def contact_sheet(examples: Sequence[Example]) -> bytes | None:
    """A PNG file; None where there is nothing to show or a picture is larger than `LARGEST_SIDE`."""
    sides = [side for example in examples for side in (example.crop_width, example.crop_height)]
    if not sides or max(sides) > LARGEST_SIDE:
        return None
    shape = max(e.crop_height for e in examples), max(e.crop_width for e in examples), 3
    panels = {codec: _panels(examples, codec) for codec in dict.fromkeys(p.codec for e in examples for p in e.panels)}
    originals = [_tile(example.original, shape) for example in examples]
    versions = [originals] + [[_tile(panel.image if panel else None, shape) for panel in row] for row in panels.values()]
    pictures = grid(versions, columns=min(COLUMNS, len(examples)), scale=max(1, _TILE // max(shape)))
    names = ["Original", *(_name([panel for panel in row if panel]) for row in panels.values())]
    buffer = io.BytesIO()
    _labelled(pictures, names, tile=pictures.width // min(COLUMNS, len(examples)) * shape[0] // shape[1]).save(buffer, "PNG")
    return buffer.getvalue()


def _panels(examples: Sequence[Example], codec: str) -> list[Panel | None]:
    return [next((panel for panel in example.panels if panel.codec == codec), None) for example in examples]


def _tile(image: str | None, shape: tuple[int, int, int]) -> Pixels:
    """A picture in base64 in the upper left of white paper."""
    tile = np.full(shape, _PAPER, np.uint8)
    if image is not None:
        pixels = as_rgb(np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))))
        tile[: pixels.shape[0], : pixels.shape[1]] = pixels
    return tile


def _name(panels: Sequence[Panel]) -> str:
    num_bytes, psnr_db = (float(np.mean([getattr(panel, name) for panel in panels])) for name in ("bytes", "psnr_db"))
    scores = [panel.ssimulacra2 for panel in panels if panel.ssimulacra2 is not None]
    score = f", SSIMULACRA2 {np.mean(scores):.0f}" if scores else ""
    return f"{panels[0].label}\n{num_bytes:,.0f} bytes, {psnr_db:.1f} dB{score}"


def _labelled(pictures: Image.Image, names: Sequence[str], *, tile: int) -> Image.Image:
    """``names`` in turn on the left of the rows, each ``tile`` pixels high; a gap below each group of them."""
    group = tile * len(names)
    groups = pictures.height // group
    sheet = Image.new("RGB", (_LABELS + pictures.width, groups * (group + _GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number in range(groups):
        top = number * (group + _GAP)
        sheet.paste(pictures.crop((0, number * group, pictures.width, (number + 1) * group)), (_LABELS, top))
        for row, name in enumerate(names):
            draw.multiline_text((_GAP, top + row * tile + tile // 2), name, fill="black", font=font, anchor="lm")
    return sheet
