"""Images ↔ bitstreams of the hyperprior: one codec file on one device."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from cnnbatch.codec.adaptive_filter.filtering import own_weights
from cnnbatch.codec.container.bitstream import CODEC_PREFIX_BYTES, MAX_PIXELS, MAX_SIDE, Bitstream, Header, unpack
from cnnbatch.codec.geometry import Pixels, Region
from cnnbatch.codec.hyperprior.decoder import Decoder
from cnnbatch.codec.hyperprior.encoder import Effort, Encoder
from cnnbatch.codec.hyperprior.inference import DecodingNetworks, decoding_networks
from cnnbatch.codec.hyperprior.latent_decoder import LatentDecoder
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.windows import halo
from cnnbatch.codec.interface import Limits, Parsed, check_image, naming, quality_steps
from cnnbatch.codec.runtime.batching import Batches
from cnnbatch.errors import BitstreamError, CodecFileError


class HyperpriorCoder:
    """An `Encoder` and a `Decoder` of one codec file; a `cnnbatch.codec.interface.Coder`."""

    def __init__(self, file: Parsed, model: Hyperprior, *, device: torch.device, limits: Limits, threads: int) -> None:
        """``model``: the file's. Raises CodecFileError if its scale net computes differently here."""
        torch.backends.cuda.matmul.allow_tf32 = False  # the scale net needs true float32 products
        self._file, self._limits = file, limits
        model = model.to(device).requires_grad_(False).eval()
        networks = decoding_networks(model)
        self._check_known_answer(networks, device)
        on_cpu = device.type == "cpu"
        pool = ThreadPoolExecutor(threads if on_cpu else os.cpu_count(), thread_name_prefix="rans")
        batches = Batches(device, most=limits.pixels(device), threads=threads if on_cpu else 1)
        latents, around = LatentDecoder(file.arrays, networks, pool), halo(file.settings)
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
        return self.decoder.reconstruct(self._parsed(bitstreams))

    def reconstruct_region(self, bitstream: bytes, region: Region) -> Pixels:
        """See `Coder.reconstruct_region`."""
        [parsed] = self._parsed([bitstream])
        return self.decoder.reconstruct_region(parsed, region)

    def shape(self, bitstream: bytes) -> tuple[int, int]:
        """See `Coder.shape`."""
        header = unpack(bitstream).header
        return header.height, header.width

    def features(self, bitstreams: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """See `Decoder.features`."""
        return self.decoder.features(self._parsed(bitstreams))

    def _header(self, image: Pixels, quality: float) -> Header:
        return Header(image.shape[1], image.shape[0], image.ndim == 2, quality_steps(quality), self._prefix)

    @property
    def _prefix(self) -> bytes:
        return bytes.fromhex(self._file.id)[:CODEC_PREFIX_BYTES]

    def _parsed(self, bitstreams: Sequence[bytes]) -> list[Bitstream]:
        """Raises BitstreamError for a bitstream over the limit, of another codec, or whose header is damaged."""
        parsed = []
        for number, data in enumerate(bitstreams):
            with naming(number):
                parsed.append(self._checked(unpack(data)))
        return parsed

    def _checked(self, parsed: Bitstream) -> Bitstream:
        header, pixels = parsed.header, parsed.header.width * parsed.header.height
        if pixels > self._limits.max_pixels:
            raise BitstreamError(f"bitstream of {pixels} pixels, the limit is {self._limits.max_pixels}")
        if header.codec_prefix != self._prefix:
            raise BitstreamError(f"bitstream of codec {header.codec_prefix.hex()}…, but this is codec {self._prefix.hex()}…")
        own_weights([header.own_filter])
        return parsed
