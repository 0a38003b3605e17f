"""Images ↔ bitstreams of the hyperprior: one codec file on one device."""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cnnbatch.codec.container.bitstream import MAX_PIXELS, MAX_SIDE, Header
from cnnbatch.codec.geometry import Pixels, Region
from cnnbatch.codec.hyperprior.decoder import Decoder
from cnnbatch.codec.hyperprior.encoder import Effort, Encoder
from cnnbatch.codec.hyperprior.inference import DecodingNetworks, decoding_networks
from cnnbatch.codec.hyperprior.latent_decoder import LatentDecoder
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.parsing import BitstreamParser
from cnnbatch.codec.hyperprior.windows import halo
from cnnbatch.codec.interface import Limits, Parsed, check_image, quality_steps
from cnnbatch.codec.runtime.batching import Batches
from cnnbatch.errors import CodecFileError
from cnnbatch.processes import Threads

COARSE = 16
"""Every so many rows are looked at first: most pictures have colours there."""


class HyperpriorCoder:
    """An `Encoder` and a `Decoder` of one codec file; a `cnnbatch.codec.interface.Coder`."""

    def __init__(self, file: Parsed, model: Hyperprior, *, device: torch.device, limits: Limits, threads: int) -> None:
        """``model``: the file's. Raises CodecFileError if its scale net computes differently here."""
        torch.backends.cuda.matmul.allow_tf32 = False  # the scale net needs true float32 products
        self._file, self.parse = file, BitstreamParser(file, limits)
        model = model.to(device).requires_grad_(False).eval()
        networks = decoding_networks(model)
        self._check_known_answer(networks, device)
        on_cpu = device.type == "cpu"
        rans = Threads(threads if on_cpu else os.cpu_count() or 1, "rans")
        batches = Batches(device, most=limits.pixels(device), threads=threads if on_cpu else 1)
        latents, around = LatentDecoder(file.arrays, networks, rans), halo(file.settings)
        self.decoder = Decoder(latents, batches, device=device, window_side=limits.window_side, halo=around)
        self.encoder = Encoder(model, latents, batches, window_side=limits.window_side, halo=around)

    def _check_known_answer(self, networks: DecodingNetworks, device: torch.device) -> None:
        arrays = self._file.arrays
        answer = networks.scale_net(torch.from_numpy(arrays["known_answer.z_hat"].astype(np.float32)).to(device))
        if not np.array_equal(answer.cpu().numpy(), arrays["known_answer.positions"]):
            raise CodecFileError(f"codec {self._file.id[:12]}: the scale net computes differently on {device}; refused")

    def refusal(self, image: Pixels) -> str | None:
        """``too-large`` beyond the limits of the format; else images of any size, gray or colour."""
        check_image(image)
        height, width = image.shape[:2]
        return "too-large" if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE else None

    def compress(self, images: Sequence[Pixels], qualities: Sequence[float], *, effort: int) -> list[bytes]:
        """See `Coder.compress`; ``effort``: see `Effort.of`."""
        headers = [self._header(image, q) for image, q in zip(images, qualities, strict=True)]
        return self.encoder.compress(images, headers, Effort.of(effort, self._file.settings.objective))

    def reconstruct(self, bitstreams: Sequence[bytes]) -> list[Pixels]:
        """See `Coder.reconstruct`."""
        return self.decoder.reconstruct(self.parse(bitstreams))

    def reconstruct_region(self, bitstream: bytes, region: Region) -> Pixels:
        """See `Coder.reconstruct_region`."""
        [parsed] = self.parse([bitstream])
        return self.decoder.reconstruct_region(parsed, region)

    def features(self, bitstreams: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """See `Decoder.features`."""
        return self.decoder.features(self.parse(bitstreams))

    def _header(self, image: Pixels, quality: float) -> Header:
        size = image.shape[1], image.shape[0]
        return Header(*size, image.ndim == 2, quality_steps(quality), self.parse.prefix, neutral=is_neutral(image))


def is_neutral(image: Pixels) -> bool:
    """Whether an RGB image has three equal channels; a gray one is none."""
    return image.ndim == 3 and all(_channels_are_equal(rows) for rows in (image[::COARSE], image))


def _channels_are_equal(image: Pixels) -> bool:
    red, green, blue = (image[..., channel] for channel in range(3))
    return bool((red == green).all() and (green == blue).all())
