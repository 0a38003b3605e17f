"""The codec as its users see it: images ↔ bitstreams.

>>> codec = Codec.load()
>>> image = np.full((40, 70, 3), 200, np.uint8)
>>> bitstreams = codec.compress([image], quality=32)
>>> codec.reconstruct(bitstreams)[0].shape
(40, 70, 3)
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.bitstream import (
    CODEC_PREFIX_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    QUALITY_STEPS,
    UNIT_SIDE,
    Bitstream,
    Header,
    pack,
    unpack,
)
from cnnbatch.codec.file import CodecFile, parse_codec
from cnnbatch.codec.hyperprior import BLOCK
from cnnbatch.codec.latents import LatentCoder
from cnnbatch.codec.tiling import UNIT, Tile, halo, latent_shape, padded_pixels, tiles, window_pixels
from cnnbatch.errors import BitstreamError, CodecFileError

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] RGB or [H, W] gray."""

DEFAULT_QUALITY = 32.0
MAX_QUALITY = 63.0
SHIPPED = "fast.safetensors"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on memory: a tile's inner side (a multiple of 1024) and the pixels of one batch.

    ``batch_pixels`` None: 2¹⁹ on a CPU, whose caches hold no more, 2²² on a GPU.
    """

    tile_side: int = 2048
    batch_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.tile_side <= 0 or self.tile_side % UNIT_SIDE:
            raise ValueError(f"tile_side is a positive multiple of {UNIT_SIDE}, got {self.tile_side}")


@dataclass(frozen=True, slots=True)
class _TileJob:
    """One tile of one image of a call."""

    image: int
    tile: Tile


@dataclass(frozen=True, slots=True)
class _UnitJob:
    """One unit of one image of a call: its number in the bitstream and its latent positions."""

    image: int
    number: int
    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


J = TypeVar("J", _TileJob, _UnitJob)


class Codec:
    """One codec file, loaded on one device; safe to call from several threads on a CPU.

    Batched or alone, whole or tiled gives the same picture within float rounding, and symbols decode identically
    everywhere.
    """

    def __init__(self, data: bytes, *, device: str | None = None, limits: Limits | None = None, threads: int = 1) -> None:
        """``data``: a codec file. Raises CodecFileError if it is not one, is damaged, or computes differently here.

        ``threads`` batches are computed at once. On a CPU two of one torch thread each (`torch.set_num_threads(1)`) do
        half as much again as one of two.
        """
        self.file: CodecFile = parse_codec(data)
        self.data = data
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.limits = limits or Limits()
        self._batch_pixels = self.limits.batch_pixels or (1 << 19 if self.device.type == "cpu" else 1 << 22)
        self._encode_in_bf16 = self.device.type == "cpu" and cpu_has_bf16()
        torch.backends.cuda.matmul.allow_tf32 = False  # the scale net needs true float32 products
        self._model = self.file.model().to(self.device)
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="rans")
        parallel = threads > 1 and self.device.type == "cpu"
        self._batch_pool = ThreadPoolExecutor(threads, thread_name_prefix="codec") if parallel else None
        self._latents = LatentCoder(self.file, self._model, self._pool)
        self._halo = halo(self.file.settings)
        self._check_known_answer()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        limits: Limits | None = None,
        threads: int = 1,
    ) -> "Codec":
        """The codec file at ``path``, or the one that comes with the package."""
        data = shipped_codec() if path is None else Path(path).read_bytes()
        return cls(data, device=device, limits=limits, threads=threads)

    @property
    def id(self) -> str:
        """sha256 of the codec file in hex."""
        return self.file.id

    def _check_known_answer(self) -> None:
        arrays = self.file.arrays
        with torch.inference_mode():
            z_hat = torch.from_numpy(arrays["known_answer.z_hat"].astype(np.float32)).to(self.device)
            answer = self._model.scale_net(z_hat).cpu().numpy()
        if not np.array_equal(answer, arrays["known_answer.positions"]):
            raise CodecFileError(f"codec {self.id[:12]}: the scale net computes differently on {self.device}; refused")

    def compress(self, images: Sequence[Pixels], quality: float | Sequence[float] = DEFAULT_QUALITY) -> list[bytes]:
        """Images of any sizes → one bitstream each; ``quality`` in [0, 63], rounded to quarters, for all or each.

        Raises ValueError for an array that is not an image or a quality outside the range.
        """
        qualities = [quality] * len(images) if isinstance(quality, int | float) else quality
        headers = [self._header(image, q) for image, q in zip(images, qualities, strict=True)]
        units: list[dict[tuple[int, int], bytes]] = [{} for _ in images]
        batches = self._batches(self._tile_jobs(headers), lambda job: job.tile.shape, lambda job: job.tile.pixels)
        self._each(batches, lambda batch: self._compress_tiles(batch, images, headers, units))
        return [pack(h, [u[place] for place in sorted(u)]) for h, u in zip(headers, units, strict=True)]

    def reconstruct(self, bitstreams: Sequence[bytes]) -> list[Pixels]:
        """Bitstreams → images of the shapes that were compressed; raises BitstreamError, which names the damaged one."""
        parsed = [self._parse(number, data) for number, data in enumerate(bitstreams)]
        headers = [p.header for p in parsed]
        images = [np.empty((h.height, h.width, 3), np.uint8) for h in headers]
        latents = self._decode_latents(parsed)
        batches = self._batches(self._tile_jobs(headers), lambda job: job.tile.shape, lambda job: job.tile.pixels)
        self._each(batches, lambda batch: self._reconstruct_tiles(batch, latents, headers, images))
        return [_gray(image) if h.gray else image for image, h in zip(images, headers, strict=True)]

    def _compress_tiles(
        self,
        batch: Sequence[_TileJob],
        images: Sequence[Pixels],
        headers: Sequence[Header],
        units: Sequence[dict[tuple[int, int], bytes]],
    ) -> None:
        """Analysis and entropy coding of tiles of one shape; adds their units to ``units`` of each image."""
        x = torch.from_numpy(np.stack([window_pixels(images[job.image], job.tile) for job in batch]))
        quality = self._qualities(batch, headers)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._encode_in_bf16):
            y = self._model.g_a(x.to(self.device).float(), quality)
        slices = [list(job.tile.unit_slices()) for job in batch]
        for places in zip(*slices, strict=True):  # the same unit of every tile
            rows, columns = places[0][1]
            streams = self._latents.encode(y[:, rows, columns], quality, bf16=self._encode_in_bf16)
            for job, (place, _), stream in zip(batch, places, streams, strict=True):
                units[job.image][place] = stream

    def _decode_latents(self, parsed: Sequence[Bitstream]) -> list[Tensor]:
        """ŷ [h, w, M] of every bitstream."""
        channels = self.file.settings.latent_channels
        headers = [p.header for p in parsed]
        latents = [torch.empty((*latent_shape(h.height, h.width), channels), device=self.device) for h in headers]
        jobs = [job for image, header in enumerate(headers) for job in _unit_jobs(image, header)]
        batches = self._batches(jobs, lambda job: job.shape, lambda job: padded_pixels(*job.shape))
        self._each(batches, lambda batch: self._decode_units_into(latents, batch, parsed, headers))
        return latents

    def _decode_units_into(
        self,
        latents: Sequence[Tensor],
        batch: Sequence[_UnitJob],
        parsed: Sequence[Bitstream],
        headers: Sequence[Header],
    ) -> None:
        y_hat = self._decode_units(batch, parsed, self._qualities(batch, headers))
        for job, values in zip(batch, y_hat, strict=True):
            latents[job.image][job.rows, job.columns] = values

    def _decode_units(self, batch: Sequence[_UnitJob], parsed: Sequence[Bitstream], quality: Tensor) -> Tensor:
        streams = []
        for job in batch:
            with _naming(job.image):
                streams.append(parsed[job.image].check_unit(job.number))
        try:
            return self._latents.decode(streams, batch[0].shape, quality)
        except BitstreamError:
            for job, stream, q in zip(batch, streams, quality, strict=True):  # once more one by one: which is it?
                with _naming(job.image):
                    self._latents.decode([stream], job.shape, q[None])
            raise

    def _reconstruct_tiles(
        self,
        batch: Sequence[_TileJob],
        latents: Sequence[Tensor],
        headers: Sequence[Header],
        images: Sequence[Pixels],
    ) -> None:
        """Synthesis of tiles of one shape into ``images``."""
        windows = [(job.tile.rows, job.tile.columns) for job in batch]
        y_hat = torch.stack(
            [latents[job.image][r.start : r.stop, c.start : c.stop] for job, (r, c) in zip(batch, windows, strict=True)]
        )
        x_hat = self._model.g_s(y_hat, self._qualities(batch, headers))
        pixels = x_hat.add_(0.5).clamp_(0, 255).to(torch.uint8).cpu().numpy()
        for job, (r, c), window in zip(batch, windows, pixels, strict=True):
            target = images[job.image][
                r.inner_start * BLOCK : r.inner_stop * BLOCK, c.inner_start * BLOCK : c.inner_stop * BLOCK
            ]
            top, left = (r.inner_start - r.start) * BLOCK, (c.inner_start - c.start) * BLOCK
            target[:] = window[top : top + target.shape[0], left : left + target.shape[1]]

    def _header(self, image: Pixels, quality: float) -> Header:
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise ValueError(f"an image is uint8 [H, W, 3] or [H, W], got {image.dtype} {list(image.shape)}")
        if not 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS or max(image.shape[:2]) > MAX_SIDE:
            raise ValueError(
                f"an image has 1…{MAX_PIXELS} pixels and sides up to {MAX_SIDE}, got {image.shape[1]} × {image.shape[0]}"
            )
        if not 0 <= quality <= MAX_QUALITY:
            raise ValueError(f"quality is in 0…{MAX_QUALITY:g}, got {quality:g}")
        return Header(image.shape[1], image.shape[0], image.ndim == 2, round(quality * QUALITY_STEPS), self._prefix)

    @property
    def _prefix(self) -> bytes:
        return bytes.fromhex(self.id)[:CODEC_PREFIX_BYTES]

    def _parse(self, number: int, data: bytes) -> Bitstream:
        with _naming(number):
            parsed = unpack(data)
            if parsed.header.codec_prefix != self._prefix:
                raise BitstreamError(
                    f"bitstream of codec {parsed.header.codec_prefix.hex()}…, but this is codec {self._prefix.hex()}…"
                )
        return parsed

    def _tile_jobs(self, headers: Sequence[Header]) -> list[_TileJob]:
        return [
            _TileJob(image, tile)
            for image, h in enumerate(headers)
            for tile in tiles(latent_shape(h.height, h.width), side=self.limits.tile_side, halo=self._halo)
        ]

    def _batches(self, jobs: Sequence[J], shape: Callable[[J], Hashable], pixels: Callable[[J], int]) -> Iterator[list[J]]:
        """Jobs of one shape, at most ``batch_pixels`` together (a larger one alone)."""
        groups: dict[Hashable, list[J]] = defaultdict(list)
        for job in jobs:
            groups[shape(job)].append(job)
        for group in groups.values():
            count = max(1, self._batch_pixels // pixels(group[0]))
            for first in range(0, len(group), count):
                yield group[first : first + count]

    def _each(self, batches: Iterable[list[J]], function: Callable[[list[J]], None]) -> None:
        """Runs ``function`` over the batches on the codec's threads; raises what the first failing one raised."""

        def without_gradients(batch: list[J]) -> None:
            with torch.inference_mode():  # holds for the thread that enters it
                function(batch)

        run = map if self._batch_pool is None else self._batch_pool.map
        for _ in run(without_gradients, batches):
            pass

    def _qualities(self, batch: Sequence[J], headers: Sequence[Header]) -> Tensor:
        return torch.tensor([headers[job.image].quality for job in batch], device=self.device)


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Says in a BitstreamError which bitstream of the call is damaged."""
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(f"bitstream {number} of the call: {error}") from error


def _unit_jobs(image: int, header: Header) -> Iterator[_UnitJob]:
    rows, columns = latent_shape(header.height, header.width)
    starts = [(r, c) for r in range(0, rows, UNIT) for c in range(0, columns, UNIT)]
    for number, (r, c) in enumerate(starts):
        yield _UnitJob(image, number, slice(r, min(r + UNIT, rows)), slice(c, min(c + UNIT, columns)))


def _gray(image: Pixels) -> Pixels:
    """Mean of the channels, rounded."""
    total: npt.NDArray[np.uint16] = image.sum(2, dtype=np.uint16)
    return ((total * 2 + 3) // 6).astype(np.uint8)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware: twice as fast as float32, and three times slower without."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def shipped_codec() -> bytes:
    """The codec file that comes with the package."""
    return (files("cnnbatch.codecs") / SHIPPED).read_bytes()
