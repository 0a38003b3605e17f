"""Pictures before and after, by several codecs at about equal bytes, as lossless files small enough for one page."""

import base64
import io
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from PIL import Image

from cnnbatch.errors import ImageError
from cnnbatch.evaluation.codecs import CodecSpec, ImageCodec, Pixels, as_rgb
from cnnbatch.evaluation.distortion import distortion
from cnnbatch.evaluation.measurement import Limits, read
from cnnbatch.evaluation.ours import NAME
from cnnbatch.evaluation.summary import Example, Panel
from cnnbatch.images import decode
from cnnbatch.storage import ObjectInfo, Source

MEDIA_TYPE: Final = "image/webp"
MOST_EXAMPLES: Final = 24
USUAL_EXAMPLES: Final = 6
PAGE_BYTES: Final = 10_500_000
"""Bytes of all pictures together before base64, so that a page stays below 15 MB."""

MOST_PANELS: Final = 5
_PREFERRED: Final = ("pca", "jpeg420", "webp", "avif", "jxl")

LARGEST_SIDE: Final = 1024
_SHRINK: Final = 0.95
_SMALLEST_SIDE: Final = 32


@dataclass(frozen=True, slots=True)
class ExampleTask:
    """One picture, by each of ``codecs``: at ``quality``, or (None) at the quality whose file is nearest to ``num_bytes``.

    ``picture_bytes``: the most that one lossless file may have.
    """

    info: ObjectInfo
    codecs: tuple[str, ...]
    picture_bytes: int
    quality: float | None = None
    num_bytes: int | None = None


class ExampleMaker:
    """Makes one example after the other on one worker."""

    def __init__(self, source: Source, codecs: Mapping[str, ImageCodec], limits: Limits) -> None:
        self.source, self.codecs, self.limits = source, codecs, limits
        self._making = threading.Lock()

    def __call__(self, task: ExampleTask) -> Example | None:
        """None where the picture, which was measured before, is not there or not the same any more."""
        with self._making:
            try:
                data = read(self.source, task.info, self.limits)
                image = decode(data, max_pixels=self.limits.pixels).pixels
            except ImageError:
                return None
            return self._example(task, image, len(data))

    def _example(self, task: ExampleTask, image: Pixels, source_bytes: int) -> Example:
        crop, original = fitting_crop(image, task.picture_bytes)
        panels = []
        for codec in (self.codecs[name] for name in task.codecs):
            with suppress(*codec.faults):  # beyond the qualities it was measured at: then it has no panel
                quality = task.quality if task.quality is not None else nearest_quality(codec, image, task.num_bytes or 0)
                panels.append(_panel(codec, image, quality, crop))
        left, top, right, bottom = crop
        return Example(
            key=task.info.key,
            width=image.shape[1],
            height=image.shape[0],
            left=left,
            top=top,
            crop_width=right - left,
            crop_height=bottom - top,
            source_bytes=source_bytes,
            media_type=MEDIA_TYPE,
            original=_base64(original),
            panels=tuple(panels),
        )


def panel_codecs(specs: Sequence[CodecSpec]) -> tuple[CodecSpec, ...]:
    """The lossy codecs shown side by side, at most `MOST_PANELS`; the first is the one whose bytes the others are to have."""
    lossy = [spec for spec in specs if not spec.lossless]
    preferred = sorted(lossy, key=lambda spec: _PREFERRED.index(spec.name) if spec.name in _PREFERRED else len(_PREFERRED))
    ours = [spec for spec in lossy if spec.name.startswith(NAME)]
    return tuple((ours + [spec for spec in preferred if spec not in ours])[:MOST_PANELS])


def spread(keys: Iterable[str], number: int) -> tuple[str, ...]:
    """``number`` of the keys, evenly over their order."""
    ordered = sorted(keys)
    number = min(number, len(ordered))
    return tuple(ordered[(2 * index + 1) * len(ordered) // (2 * number)] for index in range(number))


def picture_bytes(examples: int, panels: int) -> int:
    """The most bytes that one lossless file may have, so that a page of this many stays below its limit."""
    return PAGE_BYTES // (max(1, examples) * (1 + panels))


def joined(parts: Iterable[Example], order: Sequence[str]) -> tuple[Example, ...]:
    """The parts of each picture as one example, their panels in the order of the codecs ``order``; by key."""
    found: dict[str, Example] = {}
    for part in parts:
        known = found.get(part.key)
        panels = part.panels if known is None else (*known.panels, *part.panels)
        ordered = tuple(sorted(panels, key=lambda panel: order.index(panel.codec)))
        found[part.key] = part.model_copy(update={"panels": ordered})
    return tuple(found[key] for key in sorted(found))


Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


def fitting_crop(image: Pixels, num_bytes: int) -> tuple[Box, bytes]:
    """The largest part round the middle, of its shape, whose lossless file has at most ``num_bytes``; and that file."""
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    while True:
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (width - across) // 2, (height - down) // 2
        box = (left, top, left + across, top + down)
        data = _lossless_file(image, box)
        if len(data) <= num_bytes or max(across, down) <= _SMALLEST_SIDE:
            return box, data
        scale *= min(_SHRINK, _SHRINK * (num_bytes / len(data)) ** 0.5)


def nearest_quality(codec: ImageCodec, image: Pixels, num_bytes: int) -> float:
    """The quality whose file's size is nearest to ``num_bytes``, by bisection: more quality is more bytes."""
    spec = codec.spec
    low, high = 0, round((spec.highest - spec.lowest) / spec.step)
    sizes: dict[int, int] = {}

    def size(steps: int) -> int:
        if steps not in sizes:
            sizes[steps] = len(codec.encode(image, spec.lowest + steps * spec.step))
        return sizes[steps]

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < num_bytes else (low, middle)
    best = min((low, high), key=lambda steps: abs(size(steps) - num_bytes))
    return spec.lowest + best * spec.step


def _panel(codec: ImageCodec, image: Pixels, quality: float, crop: Box) -> Panel:
    data = codec.encode(image, quality)
    decoded = codec.decode(data)
    found = distortion(image, decoded)
    return Panel(
        codec=codec.spec.name,
        label=codec.spec.label,
        quality=quality,
        bytes=len(data),
        bpp=8 * len(data) / (image.shape[0] * image.shape[1]),
        psnr_db=found.psnr_db,
        ms_ssim=found.ms_ssim,
        ssimulacra2=found.ssimulacra2,
        image=_base64(_lossless_file(decoded, crop)),
    )


def _lossless_file(image: Pixels, box: Box) -> bytes:
    left, top, right, bottom = box
    buffer = io.BytesIO()
    Image.fromarray(as_rgb(image[top:bottom, left:right])).save(buffer, "WEBP", lossless=True, quality=75, method=4)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
