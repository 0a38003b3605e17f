"""The decoder of the hyperprior: streams → pixels or features.

It is what the format fixes, and imports nothing of the encoder's search.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.adaptive_filter.kernels import own_weights
from cnnbatch.codec.container.bitstream import Bitstream, Header
from cnnbatch.codec.geometry import BLOCK, PIXEL_UNIT, Pixels, Region, uncoloured
from cnnbatch.codec.hyperprior.latent_decoder import LatentDecoder
from cnnbatch.codec.hyperprior.windows import (
    TileJob,
    WindowJob,
    latent_shape,
    moved,
    overlap,
    padded_pixels,
    region_window,
    tile_jobs,
    window_jobs,
)
from cnnbatch.codec.interface import naming
from cnnbatch.codec.runtime.batching import Batches
from cnnbatch.errors import BitstreamError


class Decoder:
    """Decodes parsed bitstreams of one codec file, on one device."""

    def __init__(self, latents: LatentDecoder, batches: Batches, *, device: torch.device, window_side: int, halo: int) -> None:
        self.device, self.latents, self.synthesis = device, latents, latents.networks.synthesis
        self._batches, self._window_side, self._halo = batches, window_side, halo

    def reconstruct(self, parsed: Sequence[Bitstream]) -> list[Pixels]:
        """The images. Raises BitstreamError, which names the damaged one."""
        headers = [p.header for p in parsed]
        images = [np.empty((h.height, h.width, 3), np.uint8) for h in headers]
        latents = self._latents(parsed)

        def decoded(batch: Sequence[WindowJob]) -> list[Pixels]:
            return list(self._synthesise_windows(batch, latents, headers))

        jobs = window_jobs(headers, side=self._window_side, halo=self._halo)
        decoding = self._batches.map(decoded, jobs, size=lambda job: job.window.pixels, alike=lambda job: job.window.shape)
        for job, pixels in decoding:
            _lay(images[job.image], job, pixels)
        return [uncoloured(image, gray=h.gray, neutral=h.neutral) for image, h in zip(images, headers, strict=True)]

    def reconstruct_region(self, parsed: Bitstream, region: Region) -> Pixels:
        """The pixels of ``region``. Raises BitstreamError, and ValueError if it is not inside."""
        header = parsed.header
        region.check(header.height, header.width)
        image = np.empty((region.height, region.width, 3), np.uint8)
        quality = torch.tensor([header.quality], device=self.device)
        shape = latent_shape(header.height, header.width)
        around = region_window(region, shape, self._halo)
        with torch.inference_mode():
            y_hat = self._latents_of_window(parsed, around, quality)
            own = self._own_weights([header])
            for piece in region.pieces(self._window_side):
                rows, columns = region_window(piece, shape, self._halo)
                here = y_hat[moved((rows, columns), *around)]
                [pixels] = self.synthesis.pixels(here[None], quality, own).cpu().numpy()
                covered = Region(rows.start * BLOCK, columns.start * BLOCK, *pixels.shape[:2])
                image[piece.within(region)] = pixels[piece.within(covered)]
        return uncoloured(image, gray=header.gray, neutral=header.neutral)

    def features(self, parsed: Sequence[Bitstream]) -> npt.NDArray[np.float32]:
        """[N, 3·M]: mean, mean magnitude and largest magnitude of every channel of ŷ over its positions, in units of
        `PIXEL_UNIT` grey levels whatever the quality."""
        rows = np.zeros((len(parsed), 3 * self.latents.settings.latent_channels), np.float32)
        with torch.inference_mode():
            quality = torch.tensor([p.header.quality for p in parsed], device=self.device)
            units = self.synthesis.grey_levels(quality) / PIXEL_UNIT
            for row, y_hat, unit in zip(rows, self._latents(parsed), units, strict=True):
                values = y_hat.flatten(0, 1) * unit
                pooled = (values.mean(0), values.abs().mean(0), values.abs().amax(0))
                row[:] = torch.cat(pooled).cpu().numpy()
        return rows

    def _latents(self, parsed: Sequence[Bitstream]) -> list[Tensor]:
        """ŷ [h, w, M] of every bitstream."""
        channels, headers = self.latents.settings.latent_channels, [p.header for p in parsed]
        latents = [torch.empty((*latent_shape(h.height, h.width), channels), device=self.device) for h in headers]
        jobs = [job for image, header in enumerate(headers) for job in tile_jobs(image, header)]

        def decoded(batch: Sequence[TileJob]) -> list[Tensor]:
            quality = torch.tensor([headers[job.image].quality for job in batch], device=self.device)
            return list(self._decode_tiles(batch, parsed, quality))

        for job, values in self._batches.map(
            decoded, jobs, size=lambda job: padded_pixels(*job.shape), alike=lambda job: job.shape
        ):
            latents[job.image][job.rows, job.columns] = values
        return latents

    def _latents_of_window(self, parsed: Bitstream, around: tuple[slice, slice], quality: Tensor) -> Tensor:
        """ŷ [h, w, M] of these rows and columns; each tile that they lie in is decoded once."""
        rows, columns = around
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        y_hat = torch.empty((*shape, self.latents.settings.latent_channels), device=self.device)
        for job in tile_jobs(0, parsed.header):
            common = overlap(rows, job.rows), overlap(columns, job.columns)
            if all(part.stop > part.start for part in common):
                [latents] = self._decode_tiles([job], [parsed], quality)
                y_hat[moved(common, rows, columns)] = latents[moved(common, job.rows, job.columns)]
        return y_hat

    def _decode_tiles(self, batch: Sequence[TileJob], parsed: Sequence[Bitstream], quality: Tensor) -> Tensor:
        streams = []
        for job in batch:
            with naming(job.image):
                streams.append(parsed[job.image].check_tile(job.number))
        try:
            return self.latents.decode(streams, batch[0].shape, quality)
        except BitstreamError:
            for job, stream, q in zip(batch, streams, quality, strict=True):  # once more one by one: which is it?
                with naming(job.image):
                    self.latents.decode([stream], job.shape, q[None])
            raise

    def _synthesise_windows(self, batch: Sequence[WindowJob], latents: Sequence[Tensor], headers: Sequence[Header]) -> Pixels:
        """Windows of one shape [N, 16h, 16w, 3]."""
        windows = [(latents[job.image], job.window.rows, job.window.columns) for job in batch]
        y_hat = torch.stack([image[r.start : r.stop, c.start : c.stop] for image, r, c in windows])
        quality = torch.tensor([headers[job.image].quality for job in batch], device=self.device)
        own = self._own_weights(headers[job.image] for job in batch)
        pixels: Pixels = self.synthesis.pixels(y_hat, quality, own).cpu().numpy()
        return pixels

    def _own_weights(self, headers: Iterable[Header]) -> Tensor | None:
        weights = own_weights([header.own_filter for header in headers])
        return None if weights is None else torch.from_numpy(weights).to(self.device)


def _lay(image: Pixels, job: WindowJob, pixels: Pixels) -> None:
    """The inner part of a window into its place."""
    r, c = job.window.rows, job.window.columns
    target = image[r.inner_start * BLOCK : r.inner_stop * BLOCK, c.inner_start * BLOCK : c.inner_stop * BLOCK]
    top, left = (r.inner_start - r.start) * BLOCK, (c.inner_start - c.start) * BLOCK
    target[:] = pixels[top : top + target.shape[0], left : left + target.shape[1]]
