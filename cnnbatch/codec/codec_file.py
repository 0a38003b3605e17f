"""The codec file: weights, integer tables and settings of one codec in safetensors, named by its sha256.

Everything a decoder needs is data in this file: the float weights of the transforms, the integers and tables of the
entropy coder, and a known answer that a loader computes again before it decodes anything. Float weights stay in it, so
training can go on from a codec file alone. What the arrays are depends on the architecture that the file names.

Read with numpy only: no pickle, every name, type and shape checked, and a checksum over all of it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from cnnbatch.codec.container.sealed import _checksum, _metadata, seal
from cnnbatch.codec.geometry import Array
from cnnbatch.codec.hyperprior.arrays import HyperpriorArchitecture
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.interface import Architecture, Coder, Expected, Limits, QuickDecoder
from cnnbatch.errors import CodecFileError

if TYPE_CHECKING:
    import torch
    from torch import nn

ARCHITECTURES: Final = ("hyperprior", "dense")

FORMAT = "cnnbatch-codec"
VERSION = 1

MAX_BYTES = 1 << 30
"""Larger files are refused unread."""


class CodecFile(BaseModel):
    """A parsed codec file: ``id`` is the sha256 of its bytes in hex, ``settings`` are its architecture's."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    id: str
    architecture: str
    settings: Any
    training: dict[str, Any]
    arrays: dict[str, Array]

    @property
    def takes(self) -> str:
        """The images that it codes, for people."""
        return self._architecture.takes(self.settings)

    @property
    def _architecture(self) -> Architecture[Any, Any]:
        return architecture_named(self.architecture)

    def shape(self, bitstream: bytes) -> tuple[int, int]:
        """(height, width) of what a bitstream holds, without decoding it; raises BitstreamError."""
        return self._architecture.shape(self.settings, bitstream)

    def model(self) -> Any:
        """The network with the file's weights; raises CodecFileError for weights that cannot be."""
        with self.wrong_arrays():
            return self._architecture.model(self.settings, self.arrays)

    def trainable_model(self) -> Any:
        """The same network to go on training from."""
        with self.wrong_arrays():
            return self._architecture.trainable_model(self.settings, self.arrays)

    def coder(self, *, device: "torch.device", limits: Limits, threads: int) -> Coder:
        """Raises CodecFileError for weights that cannot be, or if the file computes differently on ``device``."""
        with self.wrong_arrays():
            return self._architecture.coder(self, device=device, limits=limits, threads=threads)

    def quick_decoder(self, coder: Callable[[], Coder], *, limits: Limits, threads: int) -> QuickDecoder:
        """See `Architecture.quick_decoder`. Raises as `coder`."""
        with self.wrong_arrays():
            return self._architecture.quick_decoder(self, coder, limits=limits, threads=threads)

    @contextmanager
    def wrong_arrays(self) -> Iterator[None]:
        """Turns an architecture's complaint about arrays into a CodecFileError that names the file."""
        try:
            yield
        except ValueError as error:
            raise CodecFileError(f"codec file {self.id[:12]}: {error}") from error


def architecture_named(name: str) -> Architecture[Any, Any]:
    """One of `ARCHITECTURES`; torch is imported with ``dense``, and with ``hyperprior`` where a network is wanted."""
    if name == HyperpriorArchitecture.name:
        return HyperpriorArchitecture()
    from cnnbatch.codec.dense.arrays import DenseArchitecture

    return DenseArchitecture()


def _architecture_of(settings: BaseModel) -> Architecture[Any, Any]:
    return architecture_named(ARCHITECTURES[0 if isinstance(settings, HyperpriorSettings) else 1])


def dump_codec(model: "nn.Module", *, training: Mapping[str, Any]) -> bytes:
    """The codec file of a trained model; raises CodecFileError if it would not decode exactly."""
    settings: Any = model.settings
    architecture = _architecture_of(settings)
    arrays = architecture.arrays(model)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": architecture.name,
        "settings": settings.model_dump_json(),
        "training": json.dumps(dict(training), sort_keys=True),
    }
    return seal(arrays, metadata)


def parse_codec(data: bytes) -> CodecFile:
    """Raises CodecFileError for anything but an intact codec file of a known version and architecture."""
    if len(data) > MAX_BYTES:
        raise CodecFileError(f"codec file of {len(data)} bytes, the limit is {MAX_BYTES}")
    metadata = _metadata(data)
    if metadata.get("format") != FORMAT:
        raise CodecFileError("not a codec file: a safetensors file without the mark of a cnnbatch codec")
    name = metadata.get("architecture", "")
    if metadata.get("version") != str(VERSION) or name not in ARCHITECTURES:
        raise CodecFileError(
            f"codec file of version {metadata.get('version')!r} and architecture {metadata.get('architecture')!r}, "
            f"expected {VERSION} and {' or '.join(map(repr, ARCHITECTURES))}"
        )
    architecture = architecture_named(name)
    try:
        arrays = load_safetensors(data)
        file = CodecFile(
            id=hashlib.sha256(data).hexdigest(),
            architecture=architecture.name,
            settings=architecture.settings.model_validate_json(metadata["settings"]),
            training=json.loads(metadata["training"]),
            arrays=arrays,
        )
    except (SafetensorError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CodecFileError(f"damaged codec file: {error}") from error
    if _checksum(arrays, metadata) != metadata.get("checksum"):
        raise CodecFileError("damaged codec file: wrong checksum")
    _check_arrays(file)
    return file


def expected_arrays(settings: BaseModel) -> Expected:
    """Name → (dtype, shape; None: any length) of every array of a codec file, without allocating any."""
    return _architecture_of(settings).expected(settings)


def _check_arrays(file: CodecFile) -> None:
    """Whoever wrote the file also wrote its checksum, and the compiled entropy coder believes what it is given."""
    architecture = _architecture_of(file.settings)
    extra = {name: kind for name, kind in architecture.optional(file.settings).items() if name in file.arrays}
    expected = {**expected_arrays(file.settings), **extra}
    if odd := sorted(expected.keys() ^ file.arrays.keys()):
        raise CodecFileError(f"codec file {file.id[:12]}: arrays missing or unknown: {', '.join(odd[:5])}")
    for name, (dtype, shape) in expected.items():
        array = file.arrays[name]
        fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if array.dtype != np.dtype(dtype) or not fits:
            raise CodecFileError(
                f"codec file {file.id[:12]}: {name} is {array.dtype} {list(array.shape)}, its settings need "
                f"{np.dtype(dtype)} {list(shape)}"
            )
    with file.wrong_arrays():
        architecture.check(file.settings, file.arrays)
