"""A safetensors file sealed with a checksum over all of it: the container of codec files and of heads.

Read with numpy only: no pickle, and nothing is believed before the checksum is right.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from cnnbatch.codec.geometry import Array
from cnnbatch.errors import CodecFileError


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
