"""The IIIF Image API 3.0 as pure functions: what a URL asks for, of which pixels, and what ``info.json`` says.

::

    request = parse_request("0,0,512,512", "256,", "0", "default.jpg")      # raises BadRequest, NotImplementedHere
    plan = request.resolve(width, height, limits)                           # the same
    plan.region, plan.size, plan.canonical

The specification: https://iiif.io/api/image/3.0/. Level 2, and enlarging (``^``), mirroring, ``gray``, ``bitonal``, WebP.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from cnnbatch.codec.geometry import SCALES, Region

CONTEXT: Final = "http://iiif.io/api/image/3/context.json"
PROFILE: Final = "http://iiif.io/api/image/3/level2.json"
QUALITIES: Final = ("default", "color", "gray", "bitonal")
FORMATS: Final[Mapping[str, str]] = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
KNOWN_FORMATS: Final = frozenset({"tif", "gif", "jp2", "pdf"})
"""Formats of the specification that are not given here."""

TILE: Final = 512
MOST_DIGITS: Final = 12

_INTEGERS: Final = re.compile(r"(\d+),(\d+),(\d+),(\d+)", re.ASCII)
_DECIMAL: Final = r"(\d+(?:\.\d+)?|\.\d+)"
_PERCENTS: Final = re.compile(rf"pct:{_DECIMAL},{_DECIMAL},{_DECIMAL},{_DECIMAL}", re.ASCII)
_SIZE: Final = re.compile(rf"(\^)?(?:(max)|pct:{_DECIMAL}|(!)?(\d*),(\d*))", re.ASCII)
_ROTATION: Final = re.compile(rf"(!)?{_DECIMAL}", re.ASCII)


class BadRequest(ValueError):
    """Not what the specification allows: 400."""


class NotImplementedHere(ValueError):
    """Allowed by the specification, and not done here: 501."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one response; ``info.json`` says so."""

    max_side: int = 8192
    max_area: int = 16_000_000

    def allow(self, width: int, height: int) -> bool:
        return max(width, height) <= self.max_side and width * height <= self.max_area

    def scale(self, width: int, height: int) -> Fraction:
        """By how much a picture has to be made smaller, 1 for not at all."""
        by_side = Fraction(self.max_side, max(width, height))
        area = Fraction(self.max_area, width * height)
        by_area = area if area >= 1 else Fraction(int(float(area) ** 0.5 * (1 << 30)), 1 << 30)
        return min(Fraction(1), by_side, by_area)


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer to be computed: a region of the upright picture, made ``size`` = (width, height), mirrored, then turned."""

    region: Region
    size: tuple[int, int]
    mirrored: bool
    degrees: int
    quality: str
    format: str
    canonical: str

    @property
    def divisor(self) -> int:
        """The smallest picture of the codec that still has as many pixels as are asked for."""
        width, height = self.size
        fits = [by for by in SCALES if self.region.width >= by * width and self.region.height >= by * height]
        return max(fits, default=1)


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A URL's last four parts, each of the right form."""

    region: tuple[str, tuple[Fraction, ...]]
    size: tuple[bool, str, tuple[Fraction | None, ...]]
    mirrored: bool
    degrees: int
    quality: str
    format: str

    def resolve(self, width: int, height: int, limits: Limits) -> Plan:
        """The plan for an upright picture of this size. Raises BadRequest."""
        region = _region(*self.region, width, height)
        size, enlarged = _size(*self.size, region, limits)
        whole = region == Region(0, 0, height, width)
        largest = size == _largest(region, limits)
        where = "full" if whole else f"{region.left},{region.top},{region.width},{region.height}"
        extent = "max" if largest and not enlarged else f"{'^' if enlarged else ''}{size[0]},{size[1]}"
        turn = f"{'!' if self.mirrored else ''}{self.degrees}"
        canonical = f"{where}/{extent}/{turn}/{self.quality}.{self.format}"
        return Plan(region, size, self.mirrored, self.degrees, self.quality, self.format, canonical)


def parse_request(region: str, size: str, rotation: str, last: str) -> ImageRequest:
    """A request from the parts of its URL, percent-decoded. Raises BadRequest, NotImplementedHere."""
    mirrored, degrees = _parse_rotation(rotation)
    quality, _, format = last.rpartition(".")
    if quality not in QUALITIES:
        raise BadRequest(f"the quality is one of {', '.join(QUALITIES)}")
    if format not in FORMATS:
        kind = NotImplementedHere if format in KNOWN_FORMATS else BadRequest
        raise kind(f"the format is one of {', '.join(FORMATS)}")
    return ImageRequest(_parse_region(region), _parse_size(size), mirrored, degrees, quality, format)


def info(identifier: str, width: int, height: int, limits: Limits) -> dict[str, Any]:
    """The document ``info.json``; ``identifier`` is the image's URI."""
    factors = [by for by in SCALES if by == 1 or max(width, height) > TILE * by // 2]
    sizes = [(-(-width // by), -(-height // by)) for by in reversed(SCALES[1:])]
    return {
        "@context": CONTEXT,
        "id": identifier,
        "type": "ImageService3",
        "protocol": "http://iiif.io/api/image",
        "profile": "level2",
        "width": width,
        "height": height,
        "maxWidth": limits.max_side,
        "maxHeight": limits.max_side,
        "maxArea": limits.max_area,
        "sizes": [{"width": w, "height": h} for w, h in sizes if limits.allow(w, h)],
        "tiles": [{"width": TILE, "height": TILE, "scaleFactors": factors}],
        "preferredFormats": ["jpg", "webp"],
        "extraFormats": ["webp"],
        "extraQualities": ["color", "gray", "bitonal"],
        "extraFeatures": ["canonicalLinkHeader", "mirroring", "profileLinkHeader", "sizeUpscaling"],
    }


def _parse_region(text: str) -> tuple[str, tuple[Fraction, ...]]:
    if text in ("full", "square"):
        return text, ()
    for kind, form in (("pixels", _INTEGERS), ("percent", _PERCENTS)):
        if found := form.fullmatch(text):
            return kind, tuple(map(_number, found.groups()))
    raise BadRequest("the region is full, square, x,y,w,h or pct:x,y,w,h")


def _region(kind: str, numbers: tuple[Fraction, ...], width: int, height: int) -> Region:
    if kind == "full":
        return Region(0, 0, height, width)
    if kind == "square":
        side = min(width, height)
        return Region((height - side) // 2, (width - side) // 2, side, side)
    x, y, w, h = numbers
    if kind == "percent":
        x, y, w, h = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
    right, bottom = min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise BadRequest("the region has no pixel inside the picture")
    return Region(top, left, bottom - top, right - left)


def _parse_size(text: str) -> tuple[bool, str, tuple[Fraction | None, ...]]:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise BadRequest("the size is max, w, ,h pct:n w,h or !w,h, with ^ in front where it may be larger")
    enlarge, largest, percent, confined, w, h = found.groups()
    if largest:
        return bool(enlarge), "max", ()
    if percent:
        return bool(enlarge), "percent", (_number(percent),)
    if not (w or h) or (confined and not (w and h)):
        raise BadRequest("the size has no width and no height")
    sides = tuple(_number(side) if side else None for side in (w, h))
    if 0 in sides:
        raise BadRequest("a side has no pixels")
    return bool(enlarge), "confined" if confined else "sides", sides


def _size(
    enlarge: bool, kind: str, numbers: tuple[Fraction | None, ...], region: Region, limits: Limits
) -> tuple[tuple[int, int], bool]:
    """(width, height), and whether that is larger than the region."""
    width, height = region.width, region.height
    if kind == "max":
        size = _grown(region, limits) if enlarge else _largest(region, limits)
    elif kind == "percent":
        [percent] = numbers
        size = _scaled(width, height, (percent or Fraction(0)) / 100)
        if not percent or min(width * percent, height * percent) < 50:
            raise BadRequest("a side would have no pixels")
    elif kind == "confined":
        w, h = numbers
        scale = min((w or 0) / Fraction(width), (h or 0) / Fraction(height), limits_scale(region, limits, enlarge))
        size = _scaled(width, height, scale)
    else:
        w, h = numbers
        size = (
            int(w) if w is not None else max(1, round(width * (h or 0) / Fraction(height))),
            int(h) if h is not None else max(1, round(height * (w or 0) / Fraction(width))),
        )
    enlarged = size[0] > width or size[1] > height
    if enlarged and not enlarge:
        raise BadRequest("larger than the region: that needs ^ in front of the size")
    if not limits.allow(*size):
        raise BadRequest(f"at most {limits.max_side} pixels a side and {limits.max_area} in all")
    return size, enlarged


def limits_scale(region: Region, limits: Limits, enlarge: bool) -> Fraction:
    """The largest scale that a confined size may have."""
    if not enlarge:
        return limits.scale(region.width, region.height)
    size = _grown(region, limits)
    return min(Fraction(size[0], region.width), Fraction(size[1], region.height))


def _largest(region: Region, limits: Limits) -> tuple[int, int]:
    return _within(region, limits.scale(region.width, region.height), limits)


def _grown(region: Region, limits: Limits) -> tuple[int, int]:
    """As large as the limits allow."""
    width, height = region.width, region.height
    by_side = Fraction(limits.max_side, max(width, height))
    by_area = Fraction(int((limits.max_area / (width * height)) ** 0.5 * (1 << 20)), 1 << 20)
    return _within(region, min(by_side, by_area), limits)


def _within(region: Region, scale: Fraction, limits: Limits) -> tuple[int, int]:
    size = _scaled(region.width, region.height, scale)
    if limits.allow(*size):
        return size
    return max(1, int(region.width * scale)), max(1, int(region.height * scale))


def _scaled(width: int, height: int, scale: Fraction) -> tuple[int, int]:
    return max(1, round(width * scale)), max(1, round(height * scale))


def _parse_rotation(text: str) -> tuple[bool, int]:
    found = _ROTATION.fullmatch(text)
    if found is None:
        raise BadRequest("the rotation is a number of degrees, with ! in front where it is mirrored first")
    degrees = _number(found[2])
    if degrees > 360:
        raise BadRequest("the rotation is 0 to 360 degrees")
    if degrees % 90:
        raise NotImplementedHere("the rotation is by 0, 90, 180 or 270 degrees")
    return bool(found[1]), int(degrees) % 360


def _number(text: str) -> Fraction:
    if len(text) > MOST_DIGITS:
        raise BadRequest("a number has too many digits")
    return Fraction(text)
