"""The interface of an architecture: all that a codec file's network must offer to the rest of the package.

An `Architecture` turns models into the arrays of a codec file and back, a `Coder` turns images into bitstreams and back.
`cnnbatch.codec.codec_file` lists them; `cnnbatch.codec.codec_file` and `cnnbatch.codec.codec` know no more than this.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from cnnbatch.codec.container.bitstream import MAX_PIXELS, QUALITY_STEPS, TILE_SIDE
from cnnbatch.codec.geometry import Array, Pixels, Region, reduced
from cnnbatch.errors import BitstreamError

if TYPE_CHECKING:
    import torch
    from torch import nn

Keep = Callable[[Hashable, Callable[[], npt.NDArray[np.float32]]], npt.NDArray[np.float32]]
"""``keep(name, make)``: what is kept of a bitstream under a name, or else ``make()``, which may then be kept."""

Expected = dict[str, tuple[str, tuple[int | None, ...]]]
"""Name → (dtype, shape; None: any length) of the arrays of a codec file."""

Objective = Literal["psnr", "ssimulacra2"]
"""The distortion that a codec is trained for: squared error, or what the eye sees."""

MAX_QUALITY = 63.0
S = TypeVar("S", bound=BaseModel)
M = TypeVar("M", bound="nn.Module")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on memory: a window's inner side (a multiple of 1024), the pixels of one batch, and of one decoded image.

    ``batch_pixels`` None: 2¹⁹ on a CPU, whose caches hold no more, 2²² on a GPU; halved where the device has less memory.
    A bitstream that claims more than ``max_pixels`` is refused before anything is allocated for it.
    """

    window_side: int = 2048
    batch_pixels: int | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.window_side <= 0 or self.window_side % TILE_SIDE:
            raise ValueError(f"window_side is a positive multiple of {TILE_SIDE}, got {self.window_side}")

    def pixels(self, device: "torch.device") -> int:
        """Pixels of one batch on ``device``."""
        return self.batch_pixels or (1 << 19 if device.type == "cpu" else 1 << 22)


class Coder(Protocol):
    """One codec file on one device."""

    def refusal(self, image: Pixels) -> str | None:
        """Why this codec cannot code ``image``, as a short word for the column ``reason``; None: it can.

        Raises ValueError for an array that is not an image at all.
        """

    def compress(self, images: Sequence[Pixels], qualities: Sequence[float], *, effort: int) -> list[bytes]:
        """Images that were not refused, each with its quality in [0, 63] → one bitstream each.

        ``effort``: how long to search for something better; 0 for not at all, and no longer where there is nothing to search.
        """

    def reconstruct(self, bitstreams: Sequence[bytes]) -> list[Pixels]:
        """Bitstreams → images, see `Codec.reconstruct`; raises BitstreamError, which names the damaged one."""

    def reconstruct_region(self, bitstream: bytes, region: Region) -> Pixels:
        """The pixels of ``region`` as `reconstruct` gives them; raises BitstreamError, and ValueError if it is not inside."""

    def features(self, bitstreams: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Bitstreams → [N, F], from the decoded symbols alone; raises BitstreamError."""


class QuickDecoder(Protocol):
    """The decoder of one codec file that gives drafts and reduced pictures."""

    def reconstruct(self, bitstreams: Sequence[bytes], by: int) -> list[Pixels]:
        """Drafts where ``by`` is 1, else pictures whose sides are divided by it; raises as `Coder.reconstruct`."""

    def reconstruct_region(self, bitstream: bytes, region: Region, by: int, keep: Keep | None = None) -> Pixels:
        """The pixels of ``region`` as `reconstruct` gives them; raises BitstreamError, and ValueError if it is not inside."""


class Reducing:
    """A `QuickDecoder` that makes pictures smaller after a `Coder` decoded them, for an architecture of small pictures."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder

    def reconstruct(self, bitstreams: Sequence[bytes], by: int) -> list[Pixels]:
        """See `QuickDecoder.reconstruct`."""
        return [reduced(image, by) for image in self._coder.reconstruct(bitstreams)]

    def reconstruct_region(self, bitstream: bytes, region: Region, by: int, keep: Keep | None = None) -> Pixels:
        """See `QuickDecoder.reconstruct_region`."""
        [image] = self.reconstruct([bitstream], by)
        return region.cut(image)


class Architecture(ABC, Generic[S, M]):
    """Models of one kind ↔ the arrays of a codec file."""

    name: ClassVar[str]
    settings: type[S]

    @abstractmethod
    def takes(self, settings: S) -> str:
        """The images that it codes, for people."""

    @abstractmethod
    def arrays(self, model: M) -> dict[str, Array]:
        """The arrays of a trained model in a codec file; raises CodecFileError if it would not decode exactly."""

    @abstractmethod
    def expected(self, settings: S) -> Expected:
        """The arrays that a codec file with these settings has, without allocating any."""

    @abstractmethod
    def check(self, settings: S, arrays: Mapping[str, Array]) -> None:
        """Raises ValueError for arrays of the right shapes that the compiled entropy coder must not be given."""

    @abstractmethod
    def model(self, settings: S, arrays: Mapping[str, Array]) -> M:
        """The network with these arrays; raises ValueError for weights that cannot be."""

    @abstractmethod
    def trainable_model(self, settings: S, arrays: Mapping[str, Array]) -> M:
        """The same network to go on training from."""

    @abstractmethod
    def coder(self, file: "Parsed", *, device: "torch.device", limits: Limits, threads: int) -> Coder:
        """Raises CodecFileError if the file computes differently here."""

    @abstractmethod
    def quick_decoder(self, file: "Parsed", coder: Callable[[], Coder], *, limits: Limits, threads: int) -> QuickDecoder:
        """The decoder of drafts and reduced pictures, by the file's ``coder`` where none is quicker; raises as `coder`."""

    @abstractmethod
    def shape(self, settings: S, bitstream: bytes) -> tuple[int, int]:
        """(height, width) of what a bitstream holds, without decoding it; raises BitstreamError."""

    def optional(self, settings: S) -> Expected:
        """Arrays that a codec file may have besides `expected`."""
        return {}


class Parsed(Protocol):
    """A parsed codec file, as a coder needs it: see `cnnbatch.codec.codec_file.CodecFile`."""

    @property
    def id(self) -> str:
        """sha256 of the file in hex."""

    @property
    def settings(self) -> Any:
        """Settings, of the architecture's type."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """Checked against `Architecture.expected`."""


def copy_weights(parameter: "nn.Parameter", array: Array) -> None:
    """Raises ValueError for weights that are not finite."""
    if not np.isfinite(array).all():
        raise ValueError(f"a weight of shape {array.shape} holds numbers that are not finite")
    import torch

    with torch.no_grad():
        parameter.copy_(torch.from_numpy(array.astype(np.float32)))


def check_image(image: Pixels) -> None:
    """Raises ValueError for an array that is not uint8 [H, W, 3] or [H, W] with at least one pixel."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"an image is uint8 [H, W, 3] or [H, W], got {image.dtype} {list(image.shape)}")
    if not image.size:
        raise ValueError(f"an image has pixels, got {image.shape[1]} × {image.shape[0]}")


def quality_steps(quality: float) -> int:
    """Quality in quarter steps, rounded; raises ValueError outside 0…63."""
    if not 0 <= quality <= MAX_QUALITY:
        raise ValueError(f"quality is in 0…{MAX_QUALITY:g}, got {quality:g}")
    return round(quality * QUALITY_STEPS)


@contextmanager
def naming(number: int) -> Iterator[None]:
    """Says in a BitstreamError which bitstream of the call is damaged."""
    try:
        yield
    except BitstreamError as error:
        raise BitstreamError(f"bitstream {number} of the call: {error}") from error
