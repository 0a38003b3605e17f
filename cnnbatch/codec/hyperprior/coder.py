"""Images ↔ bitstreams of the hyperprior: tiles through the transforms, units through the entropy coder."""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.adaptive_filter.filtering import own_weights
from cnnbatch.codec.container.bitstream import (
    CODEC_PREFIX_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    UNIT_SIDE,
    Bitstream,
    Header,
    pack,
    unpack,
)
from cnnbatch.codec.geometry import BLOCK, GREY, PIXEL_UNIT, Pixels, Region
from cnnbatch.codec.hyperprior.filter_search import FilterSearch
from cnnbatch.codec.hyperprior.latent_codec import LatentCoder
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.refinement import Unit, refine
from cnnbatch.codec.hyperprior.tiling import (
    UNIT,
    Tile,
    halo,
    latent_shape,
    moved,
    overlap,
    padded_pixels,
    tiles,
    window,
    window_pixels,
)
from cnnbatch.codec.interface import Limits, Parsed, check_image, naming, quality_steps
from cnnbatch.codec.runtime.batching import run_or_halve
from cnnbatch.codec.runtime.cpu import cpu_has_bf16
from cnnbatch.errors import BitstreamError, CodecFileError

FLOATS_FROM = 40
"""Quality from which bf16 in the analysis costs a tenth of a percent of the loss and more, up to 0.4 on smooth pictures; the
product takes twice as long in float32, a seventh of the time of encoding."""


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


class HyperpriorCoder:
    """One codec file of the hyperprior on one device; a `cnnbatch.codec.interface.Coder`."""

    def __init__(self, file: Parsed, model: Hyperprior, *, device: torch.device, limits: Limits, threads: int) -> None:
        """``model``: the file's. Raises CodecFileError if its scale net computes differently here."""
        self.file, self.device, self.limits = file, device, limits
        self._batch_pixels = limits.pixels(device)
        self._has_bf16 = device.type == "cpu" and cpu_has_bf16()
        torch.backends.cuda.matmul.allow_tf32 = False  # the scale net needs true float32 products
        self.model = model.to(device).requires_grad_(False)
        self.model.g_a.keep_matrices()
        self.model.g_s.keep_matrices()
        for net in self.model.integer_nets():
            net.pack()
        self.model.g_s.use_eight_bits()
        coding = threads if device.type == "cpu" else os.cpu_count()
        self.pool = ThreadPoolExecutor(coding, thread_name_prefix="rans")
        parallel = threads > 1 and device.type == "cpu"
        self._batch_pool = ThreadPoolExecutor(threads, thread_name_prefix="codec") if parallel else None
        self.latents = LatentCoder(file.settings, file.arrays, self.model, self.pool)
        self._halo = halo(file.settings)
        self._check_known_answer()

    def _check_known_answer(self) -> None:
        arrays = self.file.arrays
        with torch.inference_mode():
            z_hat = torch.from_numpy(arrays["known_answer.z_hat"].astype(np.float32)).to(self.device)
            answer = self.model.scale_net(z_hat).cpu().numpy()
        if not np.array_equal(answer, arrays["known_answer.positions"]):
            raise CodecFileError(f"codec {self.file.id[:12]}: the scale net computes differently on {self.device}; refused")

    def refusal(self, image: Pixels) -> str | None:
        """``too-large`` beyond the limits of the format; else images of any size, gray or colour."""
        check_image(image)
        height, width = image.shape[:2]
        return "too-large" if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE else None

    def compress(self, images: Sequence[Pixels], qualities: Sequence[float], *, effort: int) -> list[bytes]:
        """See `Coder.compress`; gradients hold on to much memory, hence smaller tiles with more than one.

        The first ``effort`` is a post-filter of each image's own, by windows of it; all others are passes of `refine`, and the
        filter is then by all of it.
        """
        headers = [self._header(image, q) for image, q in zip(images, qualities, strict=True)]
        found: list[dict[tuple[int, int], bytes]] = [{} for _ in images]
        search = FilterSearch(self.model, self.latents, headers) if effort else None
        passes = max(0, effort - 1)
        tile_jobs = self._tile_jobs(headers, UNIT_SIDE if passes else self.limits.tile_side)

        def alike(job: _TileJob) -> Hashable:
            whole = search is not None and search.wants_all(job.image)
            return job.tile.shape, self._in_bf16(headers[job.image].quality), whole

        batches = self._batches(tile_jobs, alike, lambda job: job.tile.pixels)
        self._each(batches, lambda batch: self._compress_tiles(batch, images, headers, found, search, passes))
        if search is not None:
            headers = [replace(h, own_filter=numbers) for h, numbers in zip(headers, search.numbers(), strict=True)]
        return [pack(h, [units[place] for place in sorted(units)]) for h, units in zip(headers, found, strict=True)]

    def reconstruct(self, bitstreams: Sequence[bytes]) -> list[Pixels]:
        """See `Coder.reconstruct`."""
        parsed = [self._parse(number, data) for number, data in enumerate(bitstreams)]
        headers = [p.header for p in parsed]
        images = [np.empty((h.height, h.width, 3), np.uint8) for h in headers]
        latents = self._decode_latents(parsed)
        tile_jobs = self._tile_jobs(headers, self.limits.tile_side)
        batches = self._batches(tile_jobs, lambda job: job.tile.shape, lambda job: job.tile.pixels)
        self._each(batches, lambda batch: self._reconstruct_tiles(batch, latents, headers, images))
        return [_gray(image) if h.gray else image for image, h in zip(images, headers, strict=True)]

    def reconstruct_region(self, bitstream: bytes, region: Region) -> Pixels:
        """See `Coder.reconstruct_region`."""
        parsed = self._parse(0, bitstream)
        header = parsed.header
        region.check(header.height, header.width)
        image = np.empty((region.height, region.width, 3), np.uint8)
        quality = torch.tensor([header.quality], device=self.device)
        shape = latent_shape(header.height, header.width)
        around = window(region, shape, self._halo)
        with torch.inference_mode():
            y_hat = self._decode_window(parsed, around, quality)
            own = self._own_weights([header])
            for piece in region.pieces(self.limits.tile_side):
                rows, columns = window(piece, shape, self._halo)
                [pixels] = self._synthesise(y_hat[moved((rows, columns), *around)][None], quality, own)
                covered = Region(rows.start * BLOCK, columns.start * BLOCK, *pixels.shape[:2])
                image[piece.within(region)] = pixels[piece.within(covered)]
        return _gray(image) if header.gray else image

    def _decode_window(self, parsed: Bitstream, around: tuple[slice, slice], quality: Tensor) -> Tensor:
        """ŷ [h, w, M] of these rows and columns; each unit that they lie in is decoded once."""
        rows, columns = around
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        y_hat = torch.empty((*shape, self.file.settings.latent_channels), device=self.device)
        for job in _unit_jobs(0, parsed.header):
            common = overlap(rows, job.rows), overlap(columns, job.columns)
            if all(part.stop > part.start for part in common):
                [latents] = self._decode_units([job], [parsed], quality)
                y_hat[moved(common, rows, columns)] = latents[moved(common, job.rows, job.columns)]
        return y_hat

    def shape(self, bitstream: bytes) -> tuple[int, int]:
        """See `Coder.shape`."""
        header = unpack(bitstream).header
        return header.height, header.width

    def features(self, bitstreams: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """[N, 3·M]: mean, mean magnitude and largest magnitude of every channel of ŷ over its positions, in units of
        `PIXEL_UNIT` grey levels whatever the quality."""
        parsed = [self._parse(number, data) for number, data in enumerate(bitstreams)]
        found = np.zeros((len(parsed), 3 * self.file.settings.latent_channels), np.float32)
        quality = torch.tensor([p.header.quality for p in parsed], device=self.device)
        with torch.inference_mode():
            gain = torch.exp(self.model.g_s.latent_gain(quality)).flatten(1)
            units = gain * self.model.settings.step(quality)[:, None] / PIXEL_UNIT
            for row, y_hat, unit in zip(found, self._decode_latents(parsed), units, strict=True):
                values = y_hat.flatten(0, 1) * unit
                pooled = (values.mean(0), values.abs().mean(0), values.abs().amax(0))
                row[:] = torch.cat(pooled).cpu().numpy()
        return found

    def _compress_tiles(
        self,
        batch: Sequence[_TileJob],
        images: Sequence[Pixels],
        headers: Sequence[Header],
        found: Sequence[dict[tuple[int, int], bytes]],
        search: FilterSearch | None,
        passes: int,
    ) -> None:
        """Analysis and entropy coding of tiles of one shape; adds their units to ``found`` of each image, and what filters of
        their own start from to ``search``."""
        x = np.stack([window_pixels(images[job.image], job.tile) for job in batch])
        quality = self._qualities(batch, headers)
        y = self._analyse(x, quality)
        slices = [list(job.tile.unit_slices()) for job in batch]
        places = list(zip(*slices, strict=True))  # the same unit of every tile
        units = [self._unit(y, same[0][1], quality) for same in places]
        if passes:
            pixels = torch.from_numpy(x).to(self.device)
            refine(self.latents, units, x=pixels, y=y, quality=quality, passes=passes, model=self.model)
        looked_at = [job.image for job in batch], [job.tile for job in batch], units, x
        if search is not None and (passes or search.wants_all(batch[0].image)):
            search.look_at_all(*looked_at, y=y, quality=quality)
        elif search is not None:
            search.look_at_windows(*looked_at, quality=quality)
        for same, unit in zip(places, units, strict=True):
            streams = self.latents.encode(unit.choice, unit.side, quality)
            for job, (place, _), stream in zip(batch, same, streams, strict=True):
                found[job.image][place] = stream

    def _own_weights(self, headers: Iterable[Header]) -> Tensor | None:
        found = own_weights([header.own_filter for header in headers])
        return None if found is None else torch.from_numpy(found).to(self.device)

    def _analyse(self, x: npt.NDArray[np.uint8], quality: Tensor) -> Tensor:
        shifted = np.bitwise_xor(x, GREY).view(np.int8)  # x less GREY
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._in_bf16(float(quality[0]))):
            y: Tensor = self.model.g_a(torch.from_numpy(shifted).to(self.device), quality)
        return y.float()

    def _in_bf16(self, quality: float) -> bool:
        """Whether the analysis of a picture is in bf16."""
        return self._has_bf16 and quality < FLOATS_FROM

    def _unit(self, y: Tensor, place: tuple[slice, slice], quality: Tensor) -> Unit:
        latents = y[:, *place]
        side = self.latents.side(latents, quality, bf16=self._has_bf16)
        return Unit(place, side, self.latents.quantise(latents, side))

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
            with naming(job.image):
                streams.append(parsed[job.image].check_unit(job.number))
        try:
            return self.latents.decode(streams, batch[0].shape, quality)
        except BitstreamError:
            for job, stream, q in zip(batch, streams, quality, strict=True):  # once more one by one: which is it?
                with naming(job.image):
                    self.latents.decode([stream], job.shape, q[None])
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
        own = self._own_weights(headers[job.image] for job in batch)
        pixels = self._synthesise(y_hat, self._qualities(batch, headers), own)
        for job, (r, c), decoded in zip(batch, windows, pixels, strict=True):
            target = images[job.image][
                r.inner_start * BLOCK : r.inner_stop * BLOCK, c.inner_start * BLOCK : c.inner_stop * BLOCK
            ]
            top, left = (r.inner_start - r.start) * BLOCK, (c.inner_start - c.start) * BLOCK
            target[:] = decoded[top : top + target.shape[0], left : left + target.shape[1]]

    def _synthesise(self, y_hat: Tensor, quality: Tensor, own: Tensor | None) -> Pixels:
        """[N, h, w, M] → [N, 16h, 16w, 3]."""
        pixels: Pixels = self.model.g_s.pixels(y_hat, quality, own).cpu().numpy()
        return pixels

    def _header(self, image: Pixels, quality: float) -> Header:
        return Header(image.shape[1], image.shape[0], image.ndim == 2, quality_steps(quality), self._prefix)

    @property
    def _prefix(self) -> bytes:
        return bytes.fromhex(self.file.id)[:CODEC_PREFIX_BYTES]

    def _parse(self, number: int, data: bytes) -> Bitstream:
        with naming(number):
            parsed = unpack(data)
            pixels = parsed.header.width * parsed.header.height
            if pixels > self.limits.max_pixels:
                raise BitstreamError(f"bitstream of {pixels} pixels, the limit is {self.limits.max_pixels}")
            if parsed.header.codec_prefix != self._prefix:
                raise BitstreamError(
                    f"bitstream of codec {parsed.header.codec_prefix.hex()}…, but this is codec {self._prefix.hex()}…"
                )
            self._own_weights([parsed.header])
        return parsed

    def _tile_jobs(self, headers: Sequence[Header], side: int) -> list[_TileJob]:
        return [
            _TileJob(image, tile)
            for image, h in enumerate(headers)
            for tile in tiles(latent_shape(h.height, h.width), side=side, halo=self._halo)
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

    def _each(self, batches: Iterable[list[J]], function: Callable[[Sequence[J]], None]) -> None:
        """Runs ``function`` over the batches on the codec's threads; raises what the first failing one raised."""

        def without_gradients(batch: list[J]) -> None:
            with torch.inference_mode():  # holds for the thread that enters it
                run_or_halve(batch, function, device=self.device, on_halved=self._halve)

        run = map if self._batch_pool is None else self._batch_pool.map
        for _ in run(without_gradients, batches):
            pass

    def _halve(self) -> None:
        self._batch_pixels = max(1, self._batch_pixels // 2)

    def _qualities(self, batch: Sequence[J], headers: Sequence[Header]) -> Tensor:
        return torch.tensor([headers[job.image].quality for job in batch], device=self.device)


def _unit_jobs(image: int, header: Header) -> Iterator[_UnitJob]:
    rows, columns = latent_shape(header.height, header.width)
    starts = [(r, c) for r in range(0, rows, UNIT) for c in range(0, columns, UNIT)]
    for number, (r, c) in enumerate(starts):
        yield _UnitJob(image, number, slice(r, min(r + UNIT, rows)), slice(c, min(c + UNIT, columns)))


def _gray(image: Pixels) -> Pixels:
    """Mean of the channels, rounded."""
    total: npt.NDArray[np.uint16] = image.sum(2, dtype=np.uint16)
    return ((total * 2 + 3) // 6).astype(np.uint8)
