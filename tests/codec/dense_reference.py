"""docs/format.md on the dense bitstream, in plain Python integers: nothing here is shared with the code under test."""

import zlib
from typing import Any

Arrays = dict[str, Any]


def decode(data: bytes, arrays: Arrays, codec_id: str) -> list[int]:
    """The values v of a bitstream; raises AssertionError where a reader must refuse it."""
    assert len(data) >= 4
    quality = data[0]
    assert quality <= 252
    x, position = int.from_bytes(data[1:4], "little"), 4
    tables = _tables(arrays)
    enter, mean, scale = (arrays[f"context.{name}.weight"].tolist() for name in ("enter", "mean", "scale"))
    e, m, s = (int(arrays[f"context.{name}.shift"][0]) for name in ("enter", "mean", "scale"))
    enter_bias = _bias(arrays["context.enter.anchors"].tolist(), quality, e + 8)
    mean_bias = _bias(arrays["context.mean.anchors"].tolist(), quality, m + 10)
    scale_bias = _bias(arrays["context.scale.anchors"].tolist(), quality, s + 10)
    mean_unit, input_unit = (int(arrays[f"context.{name}_unit"][quality]) for name in ("mean", "input"))
    count, width = len(mean), len(enter)
    degree = [min(count - 1, 1 + k * count // width) for k in range(width)]
    values: list[int] = []
    inputs: list[int] = []
    hidden: list[int] = []
    for i in range(count):
        while len(hidden) < width and degree[len(hidden)] <= i:
            k = len(hidden)
            total = sum(enter[k][j] * inputs[j] for j in range(degree[k])) + enter_bias[k]
            hidden.append(_clamp(_floor(total, e - 2), 0, 65535))
        level = _clamp(_floor(_dot(mean[i], hidden) + mean_bias[i], m - 2), -(1 << 24), 1 << 24)
        mu = _clamp((level * mean_unit) >> 20, -(1 << 22), 1 << 22)
        place = _floor(_dot(scale[i], hidden) + scale_bias[i], s + 2)
        table = tables[_clamp((place + 128) // 256, 0, len(tables) - 1)]
        symbol, x, position = _pop(data, x, position, table)
        values.append(256 * symbol + mu)
        inputs.append(_clamp((values[-1] * input_unit) >> 16, -(1 << 20), 1 << 20))
    assert position == len(data)
    check = zlib.crc32(bytes.fromhex(codec_id) + data[:1]) & 0xFFFF
    assert x == (1 << 16) + check
    return values


def _tables(arrays: Arrays) -> list[list[int]]:
    frequencies, tables = arrays["tables.frequencies"].tolist(), []
    for radius in arrays["tables.radius"].tolist():
        size = 2 * radius + 2
        tables.append(frequencies[:size])
        frequencies = frequencies[size:]
    return tables


def _bias(anchors: list[list[int]], quality: int, bits: int) -> list[int]:
    a = min(quality // 36, 6)
    f = quality - 36 * a
    return [
        ((low * (36 - f) + high * f) * 2 ** (bits - 12)) // 36 for low, high in zip(anchors[a], anchors[a + 1], strict=True)
    ]


def _pop(data: bytes, x: int, position: int, table: list[int]) -> tuple[int, int, int]:
    slot, below, entry = x % (1 << 16), 0, 0
    while below + table[entry] <= slot:
        below += table[entry]
        entry += 1
    x, position = _refill(data, table[entry] * (x >> 16) + slot - below, position)
    if entry < len(table) - 1:
        return entry - (len(table) - 2) // 2, x, position
    symbol = x % (1 << 16) - 32768
    x, position = _refill(data, x >> 16, position)
    return symbol, x, position


def _refill(data: bytes, x: int, position: int) -> tuple[int, int]:
    while x < 1 << 16:
        assert position < len(data)
        x, position = (x << 8) + data[position], position + 1
    return x, position


def _dot(weights: list[int], hidden: list[int]) -> int:
    return sum(w * h for w, h in zip(weights, hidden, strict=False))


def _floor(value: int, bits: int) -> int:
    return value // 2**bits


def _clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)
