"""A decoder written from docs/format.md alone, in plain Python integers: slow, and shares no code with the product."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class RansReader:
    """'Entropy-coded stream': one symbol a call."""

    def __init__(self, data: bytes) -> None:
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
        self.state = self.words.pop(0) | self.words.pop(0) << 32
        self.words.reverse()

    def read(self, frequencies: Sequence[int]) -> int:
        x = self.state
        slot = x % 65536
        edges = list(accumulate(frequencies, initial=0))
        entry = next(e for e, (low, high) in enumerate(pairwise(edges)) if low <= slot < high)
        x = self._refill(frequencies[entry] * (x // 65536) + slot - edges[entry])
        radius = (len(frequencies) - 2) // 2
        symbol = entry - radius
        if entry == len(frequencies) - 1:
            symbol = x % 65536 - 32768
            x = self._refill(x // 65536)
        self.state = x
        return symbol

    def _refill(self, x: int) -> int:
        return x << 32 | self.words.pop() if x < 2**31 else x

    def at_end(self) -> bool:
        return not self.words and self.state == 2**31


@dataclass
class Container:
    """'Bitstream': the header and the tiles."""

    gray: bool
    neutral: bool
    quality_steps: int
    prefix: bytes
    width: int
    height: int
    own_filter: bytes
    tiles: list[bytes]


def parse_container(data: bytes) -> Container:
    version, flags, quality_steps = data[0], data[1], data[2]
    assert version == 1
    assert flags < 8
    assert flags & 5 != 5
    width, position = leb128(data, 7)
    height, header_end = leb128(data, position)
    own_filter = b""
    if flags & 2:
        length, begin = leb128(data, header_end)
        header_end = begin + length
        own_filter = data[begin:header_end]
    position = header_end
    lengths = []
    for _ in range(-(-width // 1024) * -(-height // 1024)):
        length, position = leb128(data, position)
        lengths.append(length)
    crcs = struct.unpack_from(f"<{len(lengths)}I", data, position)
    edges = list(accumulate(lengths, initial=position + 4 * len(lengths)))
    tiles = [data[a:b] for a, b in pairwise(edges)]
    assert edges[-1] == len(data)
    assert all(zlib.crc32(data[:header_end] + t) == c for t, c in zip(tiles, crcs, strict=True))
    return Container(bool(flags & 1), bool(flags & 4), quality_steps, data[3:7], width, height, own_filter, tiles)


def leb128(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def decode_tile(
    arrays: Mapping[str, Array], settings: Mapping[str, Any], tile: bytes, shape: tuple[int, int], step: int
) -> Array:
    """'Tile': r [a, b, M]."""
    a, b = shape
    tables, reader = split_tables(arrays), RansReader(tile)
    z = hyper_latents(arrays, reader, tables, (-(-a // 4), -(-b // 4)), [int(i) for i in arrays["z_scale.table"][step]])
    indexes = scale_indexes(arrays, z, settings["num_scales"], step)[:a, :b]
    states, state = settings["trellis_states"], 0
    flips, quantisers = {64: (44, 19), 256: (189, 127), 1024: (972, 319)}[states]
    r = np.zeros(indexes.shape)
    for place in in_order(indexes.shape, settings["predicted_channels"]):
        index = int(indexes[place])
        if index < settings["coded_from"]:
            continue
        if index >= 7:
            second = ones(state & quantisers) % 2
            k = reader.read(tables[index + settings["num_scales"] * (1 + second)])
            sign = (k > 0) - (k < 0)
            r[place] = 0.86 * (2 * k - sign * second)
            state = (2 * state + (k + ones(state & flips)) % 2) % states
        else:
            r[place] = reader.read(tables[index])
    assert reader.at_end()
    return r


def read_hyper_latents(arrays: Mapping[str, Array], tile: bytes, shape: tuple[int, int], step: int) -> Array:
    """ẑ of a tile of a × b = ``shape`` positions."""
    rows, columns = (-(-n // 4) for n in shape)
    static = [int(i) for i in arrays["z_scale.table"][step]]
    return hyper_latents(arrays, RansReader(tile), split_tables(arrays), (rows, columns), static)


def ones(number: int) -> int:
    return bin(number).count("1")


def in_order(shape: tuple[int, ...], first: int) -> list[tuple[int, ...]]:
    """Places [a, b, M] of the symbols of r: the ``first`` channels come first, by column + 2 · row and then row."""
    places = list(np.ndindex(*shape))
    early = [place for place in places if place[2] < first]
    return sorted(early, key=lambda place: (place[1] + 2 * place[0], place[0], place[2])) + [p for p in places if p[2] >= first]


def hyper_latents(
    arrays: Mapping[str, Array], reader: RansReader, tables: list[list[int]], shape: tuple[int, int], static: list[int]
) -> Array:
    """'Context of the hyper-latents': ẑ, each read with what is known before it."""
    weights, shifts, inverse = (arrays[f"hyper_context.{n}_table"].astype(int).tolist() for n in ("weight", "shift", "inverse"))
    z: dict[tuple[int, int], list[int]] = {}
    activity: dict[tuple[int, int], list[int]] = {}
    for i, j in np.ndindex(*shape):
        z[i, j], activity[i, j] = [], []
        near = [place for place in ((i, j - 1), (i - 1, j)) if place in z]
        for c, index in enumerate(static):
            total = 4 * 256 + sum(activity[i, j])
            total += sum(16 * sum(activity[place]) // len(static) + 4 * activity[place][c] for place in near)
            count = 4 + c + 20 * len(near)
            shift = shifts[sum(total > count * edge for edge in EDGES)]
            symbol = reader.read(tables[min(max(index + shift, 0), len(inverse) - 1)])
            places = ((i, j - 1), (i - 1, j), (i - 1, j - 1), (i - 1, j + 1))
            known = sum(w * z[place][c] for w, place in zip(weights[c], places, strict=True) if place in z)
            z[i, j].append(symbol + (known + 32) // 64)
            activity[i, j].append(min(abs(symbol) * inverse[index], 2048))
    return np.array([z[place] for place in np.ndindex(*shape)]).reshape(*shape, -1)


EDGES = [int(256 * 2 ** (k / 4) + 0.5) for k in range(-14, 7)]


def with_prediction(arrays: Mapping[str, Array], settings: Mapping[str, Any], r: Array, step: int) -> Array:
    """'Pixels': v of the symbols r [a, b, M], the prediction of the first K channels added."""
    k, v = settings["predicted_channels"], r.astype(np.float64)
    anchor, share = divmod(step / 4 / 9, 1)
    low, high = (arrays["prediction.anchors"][min(int(anchor) + i, 7)].reshape(k, 4 * k).astype(np.float64) for i in (0, 1))
    matrix = low + share * (high - low)
    rows, columns = r.shape[:2]
    for i, j in np.ndindex(rows, columns):
        places = [(i, j - 1), (i - 1, j), (i - 1, j - 1), (i - 1, j + 1)]
        n = [v[p, q, :k] if p >= 0 and 0 <= q < columns else np.zeros(k) for p, q in places]
        v[i, j, :k] += matrix @ np.concatenate(n)
    return v


def split_tables(arrays: Mapping[str, Array]) -> list[list[int]]:
    edges = list(accumulate((2 * int(r) + 2 for r in arrays["tables.radius"]), initial=0))
    return [arrays["tables.frequencies"][a:b].tolist() for a, b in pairwise(edges)]


def scale_indexes(arrays: Mapping[str, Array], z: Array, num_scales: int, step: int) -> Array:
    """'Scale net', in int64."""
    total, k = sums(arrays, "scale_net", ["block_16"], z)
    positions = rounded(total, 16 * 2**k)
    return np.clip(positions + arrays["scale_offset.table"][step], 0, num_scales - 1)


def means(arrays: Mapping[str, Array], z: Array, step: int) -> Array:
    """'Pixels': μ."""
    total, k = sums(arrays, "mean_net", MEAN_BLOCKS, z)
    anchor, share = divmod(step / 4 / 9, 1)
    low, high = (arrays["mean_net.gain.anchors"][min(int(anchor) + i, 7)].astype(np.float64) for i in (0, 1))
    return total / (16 * 2.0**k) * np.exp(low + share * (high - low))


MEAN_BLOCKS = ["block_16.0", "block_16.1"]


def local_steps(arrays: Mapping[str, Array], z: Array) -> Array:
    """'Pixels': s."""
    total, k = sums(arrays, "mean_net", MEAN_BLOCKS, z, last="step_factors")
    mixing = arrays["mean_net.step_mixing"].astype(np.float64)
    adapted = np.exp(np.clip(total / (16 * 2.0**k) @ mixing.T, -2, 2))
    predicted = arrays["mean_net.leave.bias"].shape[0] - len(mixing)
    return np.concatenate([np.ones((*adapted.shape[:2], predicted)), adapted], -1)


def sums(arrays: Mapping[str, Array], net: str, blocks: Sequence[str], z: Array, last: str = "leave") -> tuple[Array, Array]:
    """S and k of step 5, by the ``last`` layer; the sum of a layer is in tiles of 2^-k (of 2^-k / 16 behind the first)."""
    x = shuffle(activation(*layer(arrays, f"{net}.enter", z), unit=1))
    x = shuffle(activation(*layer(arrays, f"{net}.grow", block(arrays, f"{net}.block_32", x))))
    for name in blocks:
        x = block(arrays, f"{net}.{name}", x)
    return layer(arrays, f"{net}.{last}", x)


def layer(arrays: Mapping[str, Array], name: str, x: Array) -> tuple[Array, Array]:
    weight, k, bias = (arrays[f"{name}.{part}"].astype(np.int64) for part in ("weight", "shift", "bias"))
    return x @ weight.T + bias, k


def block(arrays: Mapping[str, Array], name: str, x: Array) -> Array:
    weight, k, bias = (arrays[f"{name}.depthwise.{p}"].astype(np.int64) for p in ("weight", "shift", "bias"))
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[:2]
    total = sum(padded[i : i + height, j : j + width] * weight[:, 3 * i + j] for i in range(3) for j in range(3)) + bias
    total, k = layer(arrays, f"{name}.pointwise", activation(total, k))
    return np.clip(rounded(total + x * 2**k, 2**k), 0, 255)


def activation(total: Array, k: Array, unit: int = 16) -> Array:
    """To sixteenths: total / (unit · 2^k) · 16, rounded half up."""
    return np.clip(rounded(total * 16, unit * 2**k), 0, 255)


def rounded(total: Array, unit: Array) -> Array:
    """floor(total / unit + ½) in integers."""
    return (2 * total + unit) // (2 * unit)


def shuffle(x: Array) -> Array:
    """Depth to space: channel (i · 2 + j) · C + c becomes row offset i, column offset j, channel c."""
    h, w, c = x.shape
    return x.reshape(h, w, 2, 2, c // 4).transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, c // 4)
