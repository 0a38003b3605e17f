"""JPEG structure: a walk over all markers up to the end of the image, without decoding.

The walk is what makes `imagecodecs.jpeg8_decode` safe to use: that decoder fills a truncated picture with gray and says
nothing, so a file without its EOI marker is refused here. It takes 0.4 ms a MB.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from cnnbatch.errors import Undecodable
from cnnbatch.images.jpeg_coding import coding_of, tables_of
from cnnbatch.images.model import MAX_TRAILING_BYTES, ImageHeader, Scan
from cnnbatch.images.segments import AFTER, BEFORE, Segment, joined

SOI, EOI, SOS, DQT, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xFE
APP0, APP1, APP2, APP11, APP14 = 0xE0, 0xE1, 0xE2, 0xEB, 0xEE
SOF_DECODABLE: Final = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; Huffman and arithmetic
SOF_ALL: Final = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU-T T.81 table B.1
MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in entropy-coded data: neither stuffed zero nor RSTn
MAX_SCANS: Final = 100  # encoders write about ten; each pass costs a whole picture (libjpeg-turbo's progressive bomb)

EXIF: Final = b"Exif\0\0"
XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
ICC: Final = b"ICC_PROFILE\0"
JFIF: Final = b"JFIF\0"
MULTI_PICTURE: Final = b"MPF\0"
ADOBE: Final = b"Adobe"
PLAIN_JFIF_BYTES: Final = 14
"""Without a thumbnail."""

MAX_EXIF: Final = 65533 - len(EXIF)  # what one APP1 segment holds, which is all that Pillow writes
MAX_XMP: Final = 65533 - len(XMP)
MAX_ICC: Final = 255 * (65533 - len(ICC) - 2)
MODES: Final = {1: "L", 3: "RGB", 4: "CMYK"}


@dataclass(slots=True)
class _Segments:
    frame: tuple[int, bytes] | None = None  # the SOFn marker and its segment
    apps: list[tuple[int, bytes]] = field(default_factory=list)  # APPn and comments
    tables: dict[int, bytes] = field(default_factory=dict)  # quantisation steps by number
    num_scans: int = 0
    end: int = 0  # position behind EOI


def scan(data: bytes) -> Scan:
    """Header, metadata and all other segments of a JPEG; a second picture behind the first (MPO, gain map) is a frame."""
    segments = _walk(data)
    if segments.frame is None:
        raise Undecodable("corrupt", "JPEG without a frame header")
    marker, frame = segments.frame
    header = _header(frame, num_frames=2 if data.find(b"\xff\xd8\xff", segments.end) >= 0 else 1)
    left = _Left(segments.apps)
    exif, xmp = left.take_first(APP1, EXIF), left.take_first(APP1, XMP)
    icc = left.take_profile()
    coding = coding_of(marker, frame, segments.tables)
    words = (*left.take_density(), *(() if coding is None else (f"jpeg={coding.word()}",)))
    left.drop(APP14, ADOBE)  # how these colours are coded
    trailing = data[segments.end :]
    refusal = _refusal(segments, marker, trailing, left)
    if len(trailing) > MAX_TRAILING_BYTES and not trailing.strip(b"\0\xff"):
        return Scan(header, exif, icc, xmp, words, refusal, left.as_segments(b""), ("padding",))
    return Scan(header, exif, icc, xmp, words, refusal, left.as_segments(trailing))


def end_of(data: bytes, start: int) -> int:
    """Where the JPEG that begins at ``start`` ends; raises Undecodable."""
    return _walk(data, start + 2).end


class _Left:
    """The segments that nothing else carries yet, in order."""

    def __init__(self, apps: list[tuple[int, bytes]]) -> None:
        self.apps = list(apps)

    def take_first(self, marker: int, start: bytes) -> bytes | None:
        """The data behind ``start``; a further one is carried as a segment, as readers differ in which they believe."""
        for index, (app, body) in enumerate(self.apps):
            if app == marker and body.startswith(start) and len(body) > len(start):
                del self.apps[index]
                return body[len(start) :]
        return None

    def take_profile(self) -> bytes | None:
        """The profile of its APP2 parts; None where one is missing, as every viewer ignores it then."""
        parts = [body for app, body in self.apps if app == APP2 and body.startswith(ICC) and len(body) > len(ICC) + 2]
        chunks = {part[12]: part[14:] for part in parts}
        if not chunks or sorted(chunks) != list(range(1, parts[0][13] + 1)) or len(parts) != len(chunks):
            return None
        self.drop(APP2, ICC)
        return b"".join(chunks[number] for number in sorted(chunks))

    def take_density(self) -> tuple[str, ...]:
        """The resolution as a word; a JFIF segment that says more than that is left."""
        found = [body for app, body in self.apps if app == APP0 and body.startswith(JFIF)]
        if len(found) != 1 or len(found[0]) != PLAIN_JFIF_BYTES:
            return ()
        [jfif] = found
        x, y = int.from_bytes(jfif[8:10], "big"), int.from_bytes(jfif[10:12], "big")
        if jfif[7] not in (1, 2):
            if x == y:
                self.apps.remove((APP0, jfif))
            return ()
        self.apps.remove((APP0, jfif))
        unit = 1 if jfif[7] == 1 else 2.54  # dots per inch, dots per cm
        return (f"dpi={x * unit:g}x{y * unit:g}",) if x and y else ()

    def drop(self, marker: int, start: bytes) -> None:
        self.apps = [(app, body) for app, body in self.apps if app != marker or not body.startswith(start)]

    def as_segments(self, trailing: bytes) -> tuple[Segment, ...]:
        found = [Segment(BEFORE, _marked(app, body)) for app, body in self.apps]
        return tuple(found + ([Segment(AFTER, trailing)] if trailing else []))


def _marked(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def with_segments(data: bytes, segments: list[Segment]) -> bytes:
    """The JPEG ``data``, as Pillow writes it, with further segments behind its own; a JFIF segment takes the place of its."""
    position, own = 2, []
    while data[position + 1] == COM or APP0 <= data[position + 1] <= 0xEF:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        own.append(data[position:end])
        position = end
    carried = [segment.data for segment in segments if segment.place == BEFORE]
    jfif = next((one for one in carried if one[1:2] == bytes([APP0]) and one[4:].startswith(JFIF)), None)
    if jfif is not None:
        carried.remove(jfif)
        own = [jfif, *(one for one in own if one[1] != APP0)]
    return b"".join((data[:2], *own, *carried, data[position:], joined(segments, AFTER)))


def _walk(data: bytes, position: int = 2) -> _Segments:
    found = _Segments()
    while True:
        position, marker = _next_marker(data, position)
        if marker == EOI:
            found.end = position
            return found
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        body, position = _segment(data, position)
        if marker in SOF_ALL:
            if found.frame is not None:
                raise Undecodable("corrupt", "JPEG with two frame headers")
            found.frame = marker, body
        elif APP0 <= marker <= 0xEF or marker == COM:
            found.apps.append((marker, body))
        elif marker == DQT:
            found.tables.update(tables_of(body))
        elif marker == SOS:
            found.num_scans += 1
            position = _end_of_scan(data, position)


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """The position behind the marker at ``position`` and the marker, fill bytes skipped."""
    if data[position : position + 1] not in (b"\xff", b""):
        raise Undecodable("corrupt", f"JPEG without a marker at byte {position}")
    while data[position : position + 1] == b"\xff":
        position += 1
    if position >= len(data):
        raise Undecodable("truncated", "JPEG without an end marker")
    if data[position] in (0, SOI):
        raise Undecodable("corrupt", f"JPEG with a misplaced marker at byte {position}")
    return position + 1, data[position]


def _segment(data: bytes, position: int) -> tuple[bytes, int]:
    length = int.from_bytes(data[position : position + 2], "big")
    if position + max(length, 2) > len(data):
        raise Undecodable("truncated", "JPEG ends inside a segment")
    if length < 2:
        raise Undecodable("corrupt", f"JPEG segment of length {length}")
    return data[position + 2 : position + length], position + length


def _end_of_scan(data: bytes, position: int) -> int:
    match = MARKER.search(data, position)
    if match is None:
        raise Undecodable("truncated", "JPEG ends inside a scan")
    return match.start()


def _header(frame: bytes, *, num_frames: int) -> ImageHeader:
    if len(frame) < 6:
        raise Undecodable("corrupt", "JPEG frame header too short")
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    mode = MODES.get(frame[5], f"{frame[5]}-channel")
    return ImageHeader("jpeg", width, height, mode, bits_per_sample=frame[0], num_frames=num_frames)


def _refusal(segments: _Segments, marker: int, trailing: bytes, left: _Left) -> str | None:
    if marker not in SOF_DECODABLE:
        return "unsupported"
    if segments.num_scans == 0 or segments.num_scans > MAX_SCANS:
        return "corrupt"
    if len(trailing) > MAX_TRAILING_BYTES and trailing.strip(b"\0\xff"):
        return "trailing-data"
    # APP11 holds for these very bytes: a C2PA signature of them, or what JPEG XT and JPEG Snack add to them. MPF has offsets.
    bound = any(app == APP11 or (app == APP2 and body.startswith(MULTI_PICTURE)) for app, body in left.apps)
    return "metadata" if bound else None
