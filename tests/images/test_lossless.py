"""Files that are kept come back byte for byte, in few bytes: pictures inside of them as JPEG XL, the rest as Zstandard."""

import contextlib
import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnbatch.errors import ImageError
from cnnbatch.images.lossless import deflate, keep, lzw, packing, restore
from cnnbatch.images.lossless.finding import find
from cnnbatch.images.lossless.numbers import Reader
from cnnbatch.images.lossless.packing import AS_IS, DEFLATE, LZW, Jpeg, Picture
from cnnbatch.images.lossless.samples import Layout, to_blocks, to_pixels
from cnnbatch.leb128 import leb128

RNG = np.random.default_rng(11)
Y, X = np.mgrid[:72, :100]


def photo(channels: int = 3, bits: int = 16) -> np.ndarray:
    """A smooth picture with a little grain in all its bits."""
    waves = [np.sin(X / 29 + c) * np.cos(Y / 17) for c in range(channels)]
    samples = np.stack(waves, axis=-1) * 0.4 + 0.5 + RNG.normal(0, 0.002, (*X.shape, channels))
    return np.clip(samples * (2**bits - 1), 0, 2**bits - 1).astype(np.uint16 if bits > 8 else np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: np.ndarray, bits: int, *, split: int = 8192, level: int = 9) -> bytes:
    """As libpng writes one: every filter in turn, the stream in chunks of 8 KiB."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2" if bits == 16 else "u1").reshape(height, -1).view(np.uint8).astype(np.int32)
    step = channels * bits // 8
    left, above = np.pad(rows, ((0, 0), (step, 0)))[:, :-step], np.pad(rows, ((1, 0), (0, 0)))[:-1]
    kinds = np.arange(height) % 3
    guess = np.select([kinds[:, None] == 1, kinds[:, None] == 2], [left, above], 0)
    raw = np.hstack((kinds[:, None], rows - guess)).astype(np.uint8).tobytes()
    compressor = zlib.compressobj(level, zlib.DEFLATED, 15, 8, zlib.Z_FILTERED)
    stream = compressor.compress(raw) + compressor.flush()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = b"".join(chunk(b"IDAT", stream[at : at + split]) for at in range(0, len(stream), split))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tEXt", b"Title\0scan") + data + chunk(b"IEND", b"")


def tiff(
    pixels: np.ndarray, compression: int = 1, *, order: str = "<", predictor: int = 1, strip: int = 16, **tags: int
) -> bytes:
    """Pages of one strip layout, one behind the other; ``planar=2`` keeps channels apart, ``tile`` makes tiles of that side."""
    pages = pixels if pixels.ndim == 4 else pixels[None]
    out, links = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 0)), [4]
    for page in pages:
        height, width, channels = page.shape
        side = tags.get("tile", 0)
        planes = [page[:, :, [c]] for c in range(channels)] if tags.get("planar") == 2 else [page]
        blocks = []
        for plane in planes:
            if side:
                plane = np.pad(plane, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
            for top in range(0, plane.shape[0], side or strip):
                row = plane[top : top + (side or strip)]
                blocks += [row[:, at : at + (side or width)] for at in range(0, width, side or width)]
        packed = [_packed(block, compression, order, predictor) for block in blocks]
        starts = []
        for data in packed:
            starts.append(len(out))
            out += data + b"\0" * (len(data) % 2)
        bits = 8 * page.dtype.itemsize
        entries = {
            256: width,
            257: height,
            259: compression,
            262: 5 if channels == 4 else 2 if channels == 3 else 1,
            277: channels,
        }
        entries |= {284: tags.get("planar", 1), 317: predictor}
        values: dict[int, list[int]] = {tag: [value] for tag, value in entries.items()} | {258: [bits] * channels}
        sizes = [len(data) for data in packed]
        values |= {322: [side], 323: [side], 324: starts, 325: sizes} if side else {273: starts, 278: [strip], 279: sizes}
        struct.pack_into(order + "I", out, links[-1], len(out))
        table_at = len(out)
        out += struct.pack(order + "H", len(values)) + bytes(12 * len(values) + 4)
        for index, (tag, numbers) in enumerate(sorted(values.items())):
            inline = struct.pack(order + "I", numbers[0] if len(numbers) == 1 else len(out))
            struct.pack_into(order + "HHI4s", out, table_at + 2 + 12 * index, tag, 4, len(numbers), inline)
            out += struct.pack(f"{order}{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
        links.append(table_at + 2 + 12 * len(values))
    return bytes(out)


def _packed(block: np.ndarray, compression: int, order: str, predictor: int) -> bytes:
    if predictor == 2:
        block = np.concatenate((block[:, :1], np.diff(block, axis=1)), axis=1)
    raw = np.ascontiguousarray(block).astype(block.dtype.newbyteorder(order)).tobytes()
    if compression == 5:
        return bytes(imagecodecs.lzw_encode(raw))
    return zlib.compress(raw, 6) if compression == 8 else raw


def jpeg(width: int = 200, height: int = 150, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height)).save(
        buffer, "JPEG", quality=95, **options
    )
    return buffer.getvalue()


def as_file(pixels: np.ndarray, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def four_bit_png() -> bytes:
    levels = (photo(1, 8)[..., 0].astype(int) + RNG.integers(0, 40, X.shape) >> 4).clip(0, 15).astype(np.uint8)
    raw = b"".join(b"\0" + bytes(row[::2] << 4 | row[1::2]) for row in levels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 72, 4, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


FILES = {
    "png, 16 bits, colour": (png(photo(), 16), 0.75),
    "png, 16 bits, gray and alpha": (png(photo(2), 16), 0.8),
    "png, 8 bits, of Pillow": (as_file(photo(3, 8), "PNG"), 0.82),  # zlib-ng, whose choices are kept beside the samples
    "png, gray of 4 bits": (four_bit_png(), 0.95),
    "tiff, 16 bits": (tiff(photo()), 0.7),
    "tiff, 16 bits, big-endian, gray": (tiff(photo(1), order=">"), 0.75),
    "tiff, CMYK": (tiff(photo(4, 8)), 0.6),
    "tiff, planes apart": (tiff(photo(3), planar=2), 0.8),
    "tiff, tiles": (tiff(photo(3), tile=32), 0.8),
    "tiff, LZW": (tiff(photo(3, 8), 5), 0.8),
    "tiff, LZW of differences": (tiff(photo(3), 5, predictor=2), 0.8),
    "tiff, deflate of differences": (tiff(photo(3), 8, predictor=2), 0.85),
    "tiff, three pages": (tiff(np.stack([photo(3, 8)] * 3)), 0.7),
    "tiff, LZW of Pillow": (as_file(photo(3, 8), "TIFF", compression="tiff_lzw"), 0.8),
    "tiff, deflate of Pillow": (as_file(photo(3, 8), "TIFF", compression="tiff_adobe_deflate"), 0.8),
    "bmp": (as_file(photo(3, 8)[:, :99], "BMP"), 0.6),
    "ppm, 16 bits": (b"P6 100 72 65535\n" + photo().astype(">u2").tobytes(), 0.7),
    "pdf with a scan": (b"%PDF-1.4\n" + b"0 0 obj\n" * 40 + jpeg() + b"endstream\n" * 30, 0.9),
    "two jpegs and more": (jpeg() + jpeg() + b"\0" * 3000, 0.95),
    "text": (b"<svg>" + b'<path d="M 1 2 3"/>' * 300, 0.1),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_comes_back_in_fewer_bytes(name: str) -> None:
    data, ratio = FILES[name]
    kept = keep(data)
    assert restore(kept.payload, kept.coding, num_bytes=len(data)) == data
    assert len(kept.payload) < ratio * len(data)
    assert kept.coding == ("zstd" if name == "text" else "parts")


NOISE = RNG.integers(0, 256, 5000, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("data", [b"", b"x", NOISE, b"\x89PNG\r\n\x1a\n" + NOISE[:90]])
def test_what_does_not_shrink_is_kept_as_it_is(data: bytes) -> None:
    kept = keep(data)
    assert (kept.coding, kept.payload) == ("verbatim", data)


@pytest.mark.parametrize("name", ["png, 16 bits, colour", "tiff, LZW", "tiff, three pages", "pdf with a scan"])
@settings(max_examples=15, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_comes_back_too(name: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(FILES[name][0])
    for where, value in changes:
        data[int(where * len(data))] = value
    kept = keep(bytes(data))
    assert restore(kept.payload, kept.coding, num_bytes=len(data)) == data


@pytest.mark.parametrize("name", ["png, 16 bits, colour", "tiff, LZW", "pdf with a scan"])
@settings(max_examples=30, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_payload_raises_an_image_error_at_most(name: str, where: float, value: int, cut: bool) -> None:
    data = FILES[name][0]
    payload = bytearray(keep(data).payload)
    position = int(where * len(payload))
    payload[position] = value
    with contextlib.suppress(ImageError):
        restore(bytes(payload[:position] if cut else payload), "parts", num_bytes=len(data))


def test_claims_of_a_payload_allocate_nothing() -> None:
    with pytest.raises(ImageError):
        restore(leb128(1 << 39), "parts", num_bytes=1 << 39)
    huge = Layout(1 << 20, 1 << 20, 3, 16, 0, 1 << 20, 1 << 20)
    with pytest.raises(ImageError, match="layout"):
        restore(leb128(100) + leb128(1) + leb128(1) + huge.dump() + bytes(50), "parts", num_bytes=100)
    many = Layout(1 << 20, 1 << 10, 1, 8, 0, 1, 1, is_tiled=1)
    with pytest.raises(ImageError, match="layout"):
        restore(leb128(100) + leb128(1) + leb128(1) + many.dump() + bytes(50), "parts", num_bytes=100)


RAW = (RNG.normal(0, 3, 60_000).astype(np.int8).tobytes() + b"abcdabcdabcd" * 500)[:63_000]


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED])
def test_a_stream_of_zlib_is_predicted_to_the_last_token(level: int, strategy: int) -> None:
    compressor = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
    stream = compressor.compress(RAW) + compressor.flush()
    recipe = deflate.analyse(stream, RAW)
    assert recipe is not None
    assert deflate.rebuild(RAW, recipe, max_bytes=len(stream)) == stream
    assert len(recipe) < 900  # heads of blocks with the lengths of their codes


@pytest.mark.parametrize("encode", [imagecodecs.zlibng_encode, imagecodecs.deflate_encode, imagecodecs.zopfli_encode])
def test_a_stream_of_another_encoder_costs_a_little_more(encode: Any) -> None:
    stream = bytes(encode(RAW))
    recipe = deflate.analyse(stream, RAW)
    assert recipe is not None
    assert deflate.rebuild(RAW, recipe, max_bytes=len(stream)) == stream
    assert len(recipe) < 0.25 * len(stream)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400), text=st.text("ab", max_size=700), level=st.integers(0, 9), flush=st.booleans())
def test_any_content_in_any_blocks_comes_back(data: bytes, text: str, level: int, flush: bool) -> None:
    compressor = zlib.compressobj(level)
    stream = compressor.compress(data) + (compressor.flush(zlib.Z_FULL_FLUSH) if flush else b"")
    stream += compressor.compress(text.encode()) + compressor.flush() + b"tail"
    raw = data + text.encode()
    recipe = deflate.analyse(stream, raw)
    assert recipe is not None
    assert deflate.rebuild(raw, recipe, max_bytes=len(stream)) == stream


@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=300), times=st.integers(1, 60))
def test_lzw_comes_back(data: bytes, times: int) -> None:
    stream = bytes(imagecodecs.lzw_encode(data * times))
    recipe = lzw.analyse(stream, data * times)
    assert recipe is not None
    assert lzw.rebuild(data * times, recipe, max_bytes=len(stream)) == stream


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 20),
    height=st.integers(1, 12),
    channels=st.integers(1, 5),
    bits=st.sampled_from([1, 2, 4, 8, 16]),
    rows=st.sampled_from([0, 1, 2]),
    strip=st.integers(1, 12),
    flags=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_rows_and_samples_are_the_same_in_both_directions(
    width: int, height: int, channels: int, bits: int, rows: int, strip: int, flags: tuple[bool, bool], seed: int
) -> None:
    layout = Layout(
        width, height, channels, bits, rows, width, min(strip, height), is_big_endian=int(flags[0]), is_planar=int(flags[1])
    )
    if not layout.is_sound():
        return
    pixels = np.random.default_rng(seed).integers(0, 1 << bits, (height, width, channels)).astype(layout.dtype)
    kinds = bytes(np.random.default_rng(seed).integers(0, 5, height * (channels if flags[1] else 1), dtype=np.uint8))
    blocks = to_blocks(pixels, kinds if rows == 1 else b"", layout)
    assert [len(block) for block in blocks] == [size for _, size in layout.blocks()]
    back, found = to_pixels(blocks, layout)
    np.testing.assert_array_equal(back, pixels)
    assert found == (kinds if rows == 1 else b"")
    assert Layout.parse(Reader(layout.dump()), max_bytes=1 << 20) == layout


def test_a_raw_file_is_found_with_its_preview_and_its_pages() -> None:
    preview = jpeg(300, 200)
    data = tiff(np.stack([photo(1)] * 2)) + preview
    parts = find(data)
    assert [type(part) for part in parts] == [Picture, Picture, Jpeg]
    assert [part.packing for part in parts if isinstance(part, Picture)] == [AS_IS, AS_IS]
    assert [part.packing for part in find(FILES["tiff, LZW"][0]) if isinstance(part, Picture)] == [LZW]
    assert [part.packing for part in find(FILES["png, 16 bits, colour"][0]) if isinstance(part, Picture)] == [DEFLATE]


def test_what_is_too_much_work_is_left_in_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_SAMPLE_BYTES", 50_000)
    data = tiff(np.stack([photo(1)] * 5))
    assert sum(part.layout.num_bytes for part in find(data) if isinstance(part, Picture)) > 50_000
    kept = keep(data)
    assert restore(kept.payload, kept.coding, num_bytes=len(data)) == data
