"""The codec file: weights, integer tables and settings of one codec in safetensors, named by its sha256.

Everything a decoder needs is data in this file: the float weights of the transforms, the integers and tables of the
entropy coder, and a known answer that a loader computes again before it decodes anything. Float weights stay in it, so
training can go on from a codec file alone. What the arrays are depends on the architecture that the file names.

Read with numpy only: no pickle, every name, type and shape checked, and a checksum over all of it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import nn

from cnnbatch.codec.architecture import Architecture, Array, Coder, Expected, Limits
from cnnbatch.codec.architectures import ARCHITECTURES
from cnnbatch.errors import CodecFileError

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
        """What images it codes, for people."""
        return self._architecture.takes(self.settings)

    @property
    def _architecture(self) -> Architecture[Any, Any]:
        return ARCHITECTURES[self.architecture]

    def model(self) -> Any:
        """The network with the file's weights; raises CodecFileError for weights that cannot be."""
        with self.wrong_arrays():
            return self._architecture.model(self.settings, self.arrays)

    def trainable_model(self) -> Any:
        """The same network to go on training from."""
        with self.wrong_arrays():
            return self._architecture.trainable_model(self.settings, self.arrays)

    def coder(self, *, device: torch.device, limits: Limits, threads: int) -> Coder:
        """Raises CodecFileError for weights that cannot be, or if the file computes differently on ``device``."""
        with self.wrong_arrays():
            return self._architecture.coder(self, device=device, limits=limits, threads=threads)

    @contextmanager
    def wrong_arrays(self) -> Iterator[None]:
        """What an architecture says of arrays that cannot be, as a CodecFileError that names the file."""
        try:
            yield
        except ValueError as error:
            raise CodecFileError(f"codec file {self.id[:12]}: {error}") from error


def dump_codec(model: nn.Module, *, training: Mapping[str, Any]) -> bytes:
    """The codec file of a trained model; raises CodecFileError if it would not decode exactly."""
    settings: Any = model.settings
    architecture = next(a for a in ARCHITECTURES.values() if isinstance(settings, a.settings))
    arrays = architecture.arrays(model)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": architecture.name,
        "settings": settings.model_dump_json(),
        "training": json.dumps(dict(training), sort_keys=True),
    }
    return seal(arrays, metadata)


def seal(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with a checksum over all of it: the same bytes for the same content."""
    sealed = {**metadata, "checksum": _checksum(arrays, metadata)}
    return _ordered(save_safetensors({name: np.ascontiguousarray(a) for name, a in arrays.items()}, sealed))


def unseal(data: bytes) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and arrays of what `seal` gave; raises CodecFileError for anything else, or where a byte is another."""
    metadata = _metadata(data)
    try:
        arrays: dict[str, Array] = load_safetensors(data)
    except (SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise CodecFileError(f"damaged file: {error}") from error
    if _checksum(arrays, metadata) != metadata.get("checksum"):
        raise CodecFileError("damaged file: wrong checksum")
    return metadata, arrays


def _ordered(data: bytes) -> bytes:
    """The same file with the names of its header in order: safetensors writes metadata as its hash map has them, so the
    same model would get another id every time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _checksum(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps({k: v for k, v in metadata.items() if k != "checksum"}, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def parse_codec(data: bytes) -> CodecFile:
    """Raises CodecFileError for anything but an intact codec file of a known version and architecture."""
    if len(data) > MAX_BYTES:
        raise CodecFileError(f"codec file of {len(data)} bytes, the limit is {MAX_BYTES}")
    metadata = _metadata(data)
    if metadata.get("format") != FORMAT:
        raise CodecFileError("not a codec file: a safetensors file without the mark of a cnnbatch codec")
    architecture = ARCHITECTURES.get(metadata.get("architecture", ""))
    if metadata.get("version") != str(VERSION) or architecture is None:
        raise CodecFileError(
            f"codec file of version {metadata.get('version')!r} and architecture {metadata.get('architecture')!r}, "
            f"expected {VERSION} and {' or '.join(map(repr, ARCHITECTURES))}"
        )
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
    return next(a for a in ARCHITECTURES.values() if isinstance(settings, a.settings)).expected(settings)


def _check_arrays(file: CodecFile) -> None:
    """Whoever wrote the file also wrote its checksum, and the compiled entropy coder believes what it is given."""
    expected = expected_arrays(file.settings)
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
        ARCHITECTURES[file.architecture].check(file.settings, file.arrays)


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose first 8 bytes are the length of a JSON header."""
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or length > len(data) - 8:
            raise ValueError("no safetensors header")
        header = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        if not all(isinstance(v, str) for v in metadata.values()):
            raise ValueError("metadata is not text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CodecFileError("not a codec file: no readable safetensors header") from error
    return dict(metadata)
