"""The encoder of the hyperprior: images → streams, window by window.

Everything here and in what only this module imports (the search of symbols, latent refinement, the estimation of filters) is
the encoder's choice: no decoder notices another one.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnbatch.codec.container.bitstream import TILE_SIDE, Header, pack
from cnnbatch.codec.geometry import GREY, Pixels
from cnnbatch.codec.hyperprior.filter_estimation import FilterSearch, Seen
from cnnbatch.codec.hyperprior.folded_analysis import FoldedAnalysis
from cnnbatch.codec.hyperprior.latent_decoder import LatentDecoder
from cnnbatch.codec.hyperprior.latent_encoder import LatentEncoder
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.refinement import Refinement
from cnnbatch.codec.hyperprior.windows import WindowJob, window_jobs, window_pixels
from cnnbatch.codec.interface import Objective
from cnnbatch.codec.runtime.batching import Batches
from cnnbatch.codec.runtime.cpu import cpu_has_bf16

FLOATS_FROM = 40
"""Quality from which bf16 in the analysis costs a tenth of a percent of the loss and more, up to 0.4 on smooth pictures; the
product takes twice as long in float32, a seventh of the time of encoding."""

PASSES_FOR_THE_EYE = 6
"""Passes of latent refinement for each `--effort`: steps down a slope, of which one alone leads nowhere."""


@dataclass(frozen=True, slots=True)
class Effort:
    """The settings that the number of `--effort` stands for."""

    filter: bool
    """A filter of each image's own: by patches of it, or where there are passes by all of it."""
    passes: int
    """Passes of latent refinement."""

    @classmethod
    def of(cls, number: int, objective: Objective) -> "Effort":
        """0: neither. For PSNR the first is the filter, and each one more a pass; for the eye, which does not like the filter's
        least squares, each is `PASSES_FOR_THE_EYE`."""
        if objective == "psnr":
            return cls(number > 0, max(0, number - 1))
        return cls(False, PASSES_FOR_THE_EYE * number)


class EncodedWindow(NamedTuple):
    """The result of one window."""

    streams: list[tuple[tuple[int, int], bytes]]
    """The place of each of its tiles in the image, and its stream."""
    seen: list[Seen]
    """Evidence for the image's filter."""


class Encoder:
    """Encodes for a `LatentDecoder`, with the networks of a trained model, on the model's device."""

    def __init__(self, model: Hyperprior, decoder: LatentDecoder, batches: Batches, *, window_side: int, halo: int) -> None:
        g_s = copy.deepcopy(model.g_s).requires_grad_(False).eval()
        self.device = g_s.bypass.weight.device
        self.analysis: Callable[..., Tensor] = FoldedAnalysis(model.g_a)
        self.latents = LatentEncoder(decoder, copy.deepcopy(model.h_a).requires_grad_(False).eval(), g_s)
        self._synthesis = decoder.networks.synthesis
        self._settings = decoder.settings
        self._refinement = Refinement(self.latents, g_s, self._synthesis)
        self._batches, self._window_side, self._halo = batches, window_side, halo
        self._has_bf16 = self.device.type == "cpu" and cpu_has_bf16()

    def compress(self, images: Sequence[Pixels], headers: Sequence[Header], effort: Effort) -> list[bytes]:
        """One bitstream of each image; gradients hold on to much memory, hence smaller windows where there are passes."""
        search = FilterSearch(self._settings, self.latents, self._synthesis, headers) if effort.filter else None
        jobs = window_jobs(headers, side=TILE_SIDE if effort.passes else self._window_side, halo=self._halo)

        def alike(job: WindowJob) -> Hashable:
            whole = search is not None and search.wants_all(job.image)
            return job.window.shape, self._in_bf16(headers[job.image].quality), whole

        def encoded(batch: Sequence[WindowJob]) -> list[EncodedWindow]:
            return self._encode_windows(batch, images, headers, search, effort.passes)

        streams: list[dict[tuple[int, int], bytes]] = [{} for _ in images]
        seen: dict[int, list[Seen]] = defaultdict(list)
        for job, window in self._batches.map(encoded, jobs, size=lambda job: job.window.pixels, alike=alike):
            streams[job.image].update(window.streams)
            seen[job.image] += window.seen
        if search is not None:
            headers = [replace(h, own_filter=search.numbers(image, seen[image])) for image, h in enumerate(headers)]
        return [pack(h, [tiles[place] for place in sorted(tiles)]) for h, tiles in zip(headers, streams, strict=True)]

    def _encode_windows(
        self,
        batch: Sequence[WindowJob],
        images: Sequence[Pixels],
        headers: Sequence[Header],
        search: FilterSearch | None,
        passes: int,
    ) -> list[EncodedWindow]:
        """Windows of one shape, at once."""
        x = np.stack([window_pixels(images[job.image], job.window) for job in batch])
        quality = torch.tensor([headers[job.image].quality for job in batch], device=self.device)
        y = self._analyse(x, quality)
        slices = [list(job.window.tile_slices()) for job in batch]
        places = list(zip(*slices, strict=True))  # the same tile of every window
        tiles = [self.latents.quantised(y, same[0][1], quality, bf16=self._has_bf16) for same in places]
        if passes:
            pixels = torch.from_numpy(x).to(self.device)
            tiles = self._refinement.refined(tiles, x=pixels, y=y, quality=quality, passes=passes)
        seen: list[list[Seen]] = [[] for _ in batch]
        looked_at = [job.image for job in batch], [job.window for job in batch], tiles, x
        if search is not None and (passes or search.wants_all(batch[0].image)):
            seen = search.whole(*looked_at, y=y, quality=quality)
        elif search is not None:
            seen = search.in_patches(*looked_at, quality=quality)
        encoded = [self.latents.encode(tile, quality) for tile in tiles]  # by tile, then by window
        streams = [
            [(place, stream) for (place, _), stream in zip(slices[window], streams, strict=True)]
            for window, streams in enumerate(zip(*encoded, strict=True))
        ]
        return [EncodedWindow(*window) for window in zip(streams, seen, strict=True)]

    def _analyse(self, x: npt.NDArray[np.uint8], quality: Tensor) -> Tensor:
        shifted = torch.from_numpy(np.bitwise_xor(x, GREY).view(np.int8)).to(self.device)  # x less GREY
        return self.analysis(shifted, quality, bf16=self._in_bf16(float(quality[0])))

    def _in_bf16(self, quality: float) -> bool:
        """Whether the analysis of a picture is in bf16."""
        return self._has_bf16 and quality < FLOATS_FROM
