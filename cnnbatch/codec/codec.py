"""The codec as its users see it: images ↔ bitstreams.

>>> codec = Codec.load()
>>> image = np.full((40, 70, 3), 200, np.uint8)
>>> bitstreams = codec.compress([image], quality=32)
>>> codec.reconstruct(bitstreams)[0].shape
(40, 70, 3)
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cnnbatch.codec.codec_file import CodecFile, parse_codec
from cnnbatch.codec.geometry import Pixels, Region, divisor
from cnnbatch.codec.interface import MAX_QUALITY, Coder, Keep, Limits, Objective, QuickDecoder
from cnnbatch.errors import CodecFileError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_QUALITY",
    "MAX_QUALITY",
    "SHIPPED",
    "Codec",
    "Limits",
    "Objective",
    "Pixels",
    "read_codec_file",
    "shipped_codec",
    "shipped_codec_of",
]

DEFAULT_QUALITY = 40.0
"""Photographs come back with a SSIMULACRA2 of about 80 by `eye`, whose qualities are even to the eye: see `docs/quality.md`."""

Decoder = Literal["full", "draft"]

SHIPPED = ("eye", "psnr", "psnr-large")
"""Names of the codec files that come with the package, the default first: ``eye`` is made for what the eye sees, the others for
squared error; ``psnr-large`` takes fewer bytes and more time than ``psnr``."""


class Codec:
    """One codec file of any architecture, loaded on one device; safe to call from several threads on a CPU, and in a forked
    process. It pickles as its id if it comes with the package, else as its file; its networks are made anew.

    Batched or alone, whole or in windows gives the same picture within float rounding, and symbols decode identically
    everywhere.
    """

    def __init__(
        self, data: bytes, *, device: str | None = None, limits: Limits | None = None, threads: int = 1, lazy: bool = False
    ) -> None:
        """``data``: a codec file. Raises CodecFileError if it is not one, is damaged, or computes differently here.

        ``threads`` batches are computed at once. On a CPU two of one torch thread each (`torch.set_num_threads(1)`) do
        half as much again as one of two. ``lazy``: the networks are made when they are first needed, and raise then; drafts
        and reduced pictures need none of them, and no torch.
        """
        self.file: CodecFile = parse_codec(data)
        self.data = data
        self._device, self._limits, self._threads = device, limits or Limits(), threads
        self._lock = RLock()
        if not lazy:
            _ = self.coder

    def __reduce__(self) -> tuple[Any, ...]:
        shipped = self.id in _shipped_ids()
        return _unpickled, (self.id if shipped else self.data, self._device, self._limits, self._threads)

    @cached_property
    def device(self) -> "torch.device":
        """Where it computes; drafts and reduced pictures are made on the CPU."""
        import torch

        return torch.device(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def coder(self) -> Coder:
        """Its encoder and full decoder."""
        with self._lock:
            if "coder" not in self.__dict__:  # another thread may have been first
                self.__dict__["coder"] = self.file.coder(device=self.device, limits=self._limits, threads=self._threads)
        made: Coder = self.__dict__["coder"]
        return made

    @cached_property
    def quick_decoder(self) -> QuickDecoder:
        """The decoder of drafts and reduced pictures."""
        return self.file.quick_decoder(lambda: self.coder, limits=self._limits, threads=self._threads)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        limits: Limits | None = None,
        threads: int = 1,
        lazy: bool = False,
    ) -> "Codec":
        """The codec file at ``path``, or one of `SHIPPED` by its name; by default its first."""
        return cls(read_codec_file(path), device=device, limits=limits, threads=threads, lazy=lazy)

    @property
    def id(self) -> str:
        """sha256 of the codec file in hex."""
        return self.file.id

    @property
    def objective(self) -> Objective:
        """The distortion that it was trained for."""
        return getattr(self.file.settings, "objective", "psnr")

    def refusal(self, image: Pixels) -> str | None:
        """Why this codec cannot code ``image``, as a short word for the column ``reason``; None: it can.

        Raises ValueError for an array that is not an image.
        """
        return self.coder.refusal(image)

    def __repr__(self) -> str:
        name = next((name for name in SHIPPED if hashlib.sha256(shipped_codec(name)).hexdigest() == self.id), None)
        return f"<cnnbatch codec {'' if name is None else f'{name} '}{self.id[:12]}, {self.file.architecture}>"

    def compress(
        self, images: Sequence[Pixels], quality: float | Sequence[float] = DEFAULT_QUALITY, *, effort: int = 0
    ) -> list[bytes]:
        """Images (arrays, or PIL's) → one bitstream each; ``quality`` in [0, 63], rounded to quarters, for all or each.

        ``effort`` makes the bitstream better and decoding no slower. A codec for the eye descends from the latents of the
        analysis, six passes for each step of effort. One for squared error has two settings under one number: 1 and more fit
        an adaptive filter to each image (by patches of it; from 2 on by all of it), and N − 1 is the number of passes of
        latent refinement. ``dense`` has none of it.
        Raises ValueError for an array that is not an image, one that `refusal` refuses, or a quality outside the range.
        """
        images = _as_images(images)
        qualities = [quality] * len(images) if isinstance(quality, int | float) else quality
        for number, image in enumerate(images):
            if (reason := self.coder.refusal(image)) is not None:
                raise ValueError(f"image {number} of the call, {list(image.shape)}: {reason}: {self.file.takes}")
        return self.coder.compress(images, qualities, effort=effort)

    def reconstruct(self, bitstreams: Sequence[bytes], *, decoder: Decoder = "full", scale: float = 1) -> list[Pixels]:
        """Bitstreams → images of the shapes that were compressed; raises BitstreamError, which names the damaged one.

        ``decoder``: ``draft`` decodes without the network, in a third of the time; only ``full`` is what PSNR and checksums
        mean. ``scale`` 1/2, 1/4, 1/8 or 1/16: ⌈height · scale⌉ × ⌈width · scale⌉ pixels, each about the mean of those that it
        stands for, in less time the smaller they are; either decoder gives the same.
        """
        if (by := divisor(scale)) == 1 and not _is_draft(decoder):
            return self.coder.reconstruct(bitstreams)
        return self.quick_decoder.reconstruct(bitstreams, by)

    def reconstruct_region(
        self,
        bitstream: bytes,
        *,
        top: int,
        left: int,
        height: int,
        width: int,
        decoder: Decoder = "full",
        scale: float = 1,
        keep: Keep | None = None,
    ) -> Pixels:
        """Part of an image, as `reconstruct` with the same ``decoder`` and ``scale`` would give it, in pixels of that; only
        the tiles of 1024² source pixels that it needs are decoded.

        ``keep``, for drafts and reduced pictures: where the latents of this bitstream's tiles are kept for the next region.

        Raises ValueError for a region that is not inside the image, BitstreamError for damage in what it needs.
        """
        region = Region(top, left, height, width)
        if (by := divisor(scale)) == 1 and not _is_draft(decoder):
            return self.coder.reconstruct_region(bitstream, region)
        return self.quick_decoder.reconstruct_region(bitstream, region, by, keep)

    def shape(self, bitstream: bytes) -> tuple[int, int]:
        """(height, width) of what a bitstream claims to hold, without decoding it; raises BitstreamError."""
        return self.file.shape(bitstream)

    def features(self, bitstreams: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Bitstreams → float32 [N, F], what a classifier learns from: entropy-decoded only, never made pixels.

        A picture's row means the same at every quality, up to the quantisation. ``dense``: the dequantised latents.
        ``hyperprior``: over the positions of each latent channel its mean, mean magnitude and largest magnitude (F is
        three times the channels). Raises BitstreamError, which names the damaged bitstream.
        """
        return self.coder.features(bitstreams)


def _as_images(images: Any) -> Sequence[Pixels]:
    """The arrays of a call. Raises ValueError for one picture in place of several, and for a PIL image of another mode."""
    shape = getattr(images, "shape", None)
    if hasattr(images, "mode") or (shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)))):
        raise ValueError("compress takes a list of images: write codec.compress([image])[0]")
    return [_as_array(number, image) for number, image in enumerate(images)]


def _as_array(number: int, image: Any) -> Pixels:
    if (mode := getattr(image, "mode", "L")) not in ("L", "RGB"):
        raise ValueError(f"image {number} of the call has the mode {mode}: write image.convert('RGB')")
    return image if isinstance(image, np.ndarray) else np.asarray(image)


def _is_draft(decoder: str) -> bool:
    if decoder not in get_args(Decoder):
        raise ValueError(f"decoder is one of {', '.join(get_args(Decoder))}, got {decoder}")
    return decoder == "draft"


def shipped_codec(name: str = SHIPPED[0]) -> bytes:
    """A codec file that comes with the package."""
    return (files("cnnbatch.weights") / f"{name}.safetensors").read_bytes()


@cache
def _shipped_ids() -> dict[str, str]:
    return {hashlib.sha256(shipped_codec(name)).hexdigest(): name for name in SHIPPED}


def shipped_codec_of(codec_id: str) -> bytes | None:
    """The codec file of this id, if it comes with the package."""
    name = _shipped_ids().get(codec_id)
    return None if name is None else shipped_codec(name)


@lru_cache(maxsize=2)
def _unpickled(source: str | bytes, device: str | None, limits: Limits, threads: int) -> Codec:
    """A codec out of a pickle: of a file, or of the id of one that comes with the package; loaded once in a process."""
    data = shipped_codec_of(source) if isinstance(source, str) else source
    if data is None:
        raise CodecFileError(f"the codec {source!r} does not come with this cnnbatch")
    return Codec(data, device=device, limits=limits, threads=threads, lazy=True)


def read_codec_file(path: str | os.PathLike[str] | None) -> bytes:
    """The codec file of this name in `SHIPPED` or, where it is none, at this path; None: the default.

    Raises OSError if it cannot be read.
    """
    if path is None or path in SHIPPED:
        return shipped_codec(str(path or SHIPPED[0]))
    return Path(path).read_bytes()
