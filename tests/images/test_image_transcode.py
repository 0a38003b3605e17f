"""JPEG ↔ JPEG XL: byte for byte or not at all."""

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnbatch.errors import ImageError
from cnnbatch.images import jxl, restore_jpeg, transcode_jpeg

NOISE = np.random.default_rng(5).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def jpeg(width: int = 160, height: int = 120, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).resize((width, height)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"optimize": True}], ids=str)
def test_a_jpeg_comes_back_byte_for_byte(options: dict[str, Any]) -> None:
    data = jpeg(**options)
    coded = transcode_jpeg(data)
    assert coded is not None
    assert len(coded) < len(data)
    assert restore_jpeg(coded) == data


def test_what_is_behind_the_picture_comes_back_too() -> None:
    data = jpeg(640, 480) + b"film"
    coded = transcode_jpeg(data)
    assert coded is None or restore_jpeg(coded) == data


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"no jpeg", jpeg()[:-2], jpeg()[:300]])
def test_bad_input_is_left_verbatim(data: bytes) -> None:
    assert transcode_jpeg(data) is None


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_damaged_jpeg_never_raises(position: int, value: int) -> None:
    data = bytearray(jpeg())
    data[position % len(data)] = value
    coded = transcode_jpeg(bytes(data))
    assert coded is None or restore_jpeg(coded) == data


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 5000), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_transcode_raises_an_image_error_at_most(position: int, value: int, cut: bool) -> None:
    coded = bytearray(transcode_jpeg(jpeg()) or b"")
    position %= len(coded)
    damaged = bytes(coded[:position]) if cut else bytes(coded[:position] + bytes([value]) + coded[position + 1 :])
    with contextlib.suppress(ImageError):
        restore_jpeg(damaged)


@pytest.mark.parametrize("size", [(8, 8), (160, 120), (256, 256), (300, 200), (1000, 3), (513, 1)])
def test_the_size_is_read_from_the_codestream(size: tuple[int, int]) -> None:
    coded = transcode_jpeg(jpeg(*size, comment=b"c" * 900))
    assert coded is not None
    assert jxl.size(jxl.Bits(jxl.codestream(coded)[2:])) == size


def test_a_transcode_that_claims_a_huge_picture_is_refused() -> None:
    bits = 0 | 3 << 1 | (1 << 29) << 3 | 1 << 33  # not small, height of 30 bits, ratio 1
    stream = b"\xff\x0a" + struct.pack("<Q", bits)
    with pytest.raises(ImageError, match="pixels"):
        restore_jpeg(stream)


def test_a_size_that_is_hidden_behind_a_small_first_part_is_read() -> None:
    bits = 0 | 3 << 1 | (1 << 29) << 3 | 1 << 33
    stream = b"\xff\x0a" + struct.pack("<Q", bits)
    for cut in range(1, len(stream)):
        parts = (struct.pack(">I", number) + part for number, part in enumerate((stream[:cut], stream[cut:] + bytes(20))))
        boxed = b"".join(struct.pack(">I4s", 8 + len(part), b"jxlp") + part for part in parts)
        with pytest.raises(ImageError, match="536870913x536870913"):
            restore_jpeg(struct.pack(">I4s", 12, b"JXL ") + b"\r\n\x87\n" + boxed)
