"""Whole numbers of any size as bytes: unsigned LEB128, seven bits a byte, the lowest first."""


def leb128(value: int) -> bytes:
    """``value``; only its last byte has the high bit clear.

    >>> leb128(300).hex()
    'ac02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_leb128(data: bytes | memoryview, position: int, *, max_bytes: int = 10) -> tuple[int, int]:
    """The number at ``position``, and where it ends.

    >>> read_leb128(bytes.fromhex("ac02"), 0)
    (300, 2)

    Raises:
        ValueError: the data ends inside it, or it has more than ``max_bytes``.
    """
    value = 0
    for shift in range(0, 7 * max_bytes, 7):
        if position >= len(data):
            raise ValueError("it ends too early")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number is longer than {max_bytes} bytes")
