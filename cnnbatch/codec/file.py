"""The codec file: weights, integer tables and settings of one codec in safetensors, named by its sha256.

Everything a decoder needs is data in this file: the float weights of the transforms, the integers of the scale net, the
entropy tables, the integer offsets for every quality, and a known answer that a loader computes again before it decodes
anything. Float weights stay in it, so training can go on from a codec file alone.

Read with numpy only: no pickle, every name, type and shape checked, and a checksum over all of it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from cnnbatch import bitstream
from cnnbatch.codec.hyperprior import Hyperprior, HyperpriorSettings
from cnnbatch.codec.scale_net import IntegerLinear
from cnnbatch.errors import BitstreamError, CodecFileError
from cnnbatch.rans import Tables, gaussian_tables

FORMAT = "cnnbatch-codec"
VERSION = 1
ARCHITECTURE = "hyperprior"
MAX_BYTES = 1 << 30
"""Larger files are refused unread."""

KNOWN_ANSWER_SIZE = (4, 5)
"""Hyper-latent positions (rows, columns) of the known answer."""

Array = npt.NDArray[Any]


class CodecFile(BaseModel):
    """A parsed codec file: ``id`` is the sha256 of its bytes in hex."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    id: str
    architecture: str
    settings: HyperpriorSettings
    training: dict[str, Any]
    arrays: dict[str, Array]

    def tables(self) -> Tables:
        """The entropy coder's tables."""
        try:
            return Tables.from_frequencies(
                self.arrays["tables.frequencies"].astype(np.uint32), self.arrays["tables.radius"].astype(np.int32)
            )
        except BitstreamError as error:
            raise CodecFileError(str(error)) from error

    def model(self) -> Hyperprior:
        """The network with the file's weights, its scale net fixed to the file's integers."""
        model = Hyperprior(self.settings)
        try:
            with torch.no_grad():
                for name, parameter in _float_parameters(model):
                    _copy(parameter, self.arrays[name])
                for name, layer in _integer_layers(model):
                    weight, shift, bias = (self.arrays[f"{name}.{part}"] for part in ("weight", "shift", "bias"))
                    layer.fix(*(torch.from_numpy(a.astype(np.float32)) for a in (weight, shift, bias)))
        except ValueError as error:
            raise CodecFileError(f"codec file {self.id[:12]}: {error}") from error
        model.scale_net.check_exact()
        return model.eval()

    def trainable_model(self) -> Hyperprior:
        """The same network to go on training from; its scale net is rounded anew at every step."""
        model = self.model()
        for _, layer in _integer_layers(model):
            layer.release()
        return model.train()


def _copy(parameter: torch.nn.Parameter, array: Array) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"a weight of shape {array.shape} holds numbers that are not finite")
    parameter.copy_(torch.from_numpy(array.astype(np.float32)))


def _integer_layers(model: Hyperprior) -> list[tuple[str, IntegerLinear]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, IntegerLinear)]


def dump_codec(model: Hyperprior, *, training: Mapping[str, Any]) -> bytes:
    """The codec file of a trained model; raises CodecFileError if its scale net is not exact."""
    model.scale_net.check_exact()
    arrays = _float_arrays(model) | _integer_arrays(model) | _known_answer(model)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": ARCHITECTURE,
        "settings": model.settings.model_dump_json(),
        "training": json.dumps(dict(training), sort_keys=True),
    }
    metadata["checksum"] = _checksum(arrays, metadata)
    return _ordered(save_safetensors({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata))


def _ordered(data: bytes) -> bytes:
    """The same file with the names of its header in order: safetensors writes metadata as its hash map has them, so the
    same model would get another id every time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _float_arrays(model: Hyperprior) -> dict[str, Array]:
    """Matrices in float16 (their rounding is far below that of a pixel), the rest in float32."""
    return {name: p.detach().cpu().numpy().astype(_float_dtype(name, p)) for name, p in _float_parameters(model)}


def _float_parameters(model: Hyperprior) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if not name.startswith("scale_net.")]


def _float_dtype(name: str, parameter: torch.nn.Parameter) -> str:
    return "<f2" if parameter.ndim >= 2 and not name.endswith(".anchors") else "<f4"


@torch.no_grad()
def _integer_arrays(model: Hyperprior) -> dict[str, Array]:
    s = model.settings
    quality = torch.arange(bitstream.MAX_QUALITY_STEPS + 1) / bitstream.QUALITY_STEPS
    offsets = torch.floor(model.scale_offset(quality)[:, 0, 0] + 0.5)
    z_indexes = torch.floor(model.z_scale(quality)[:, 0, 0] + 0.5).clamp(0, s.num_scales - 1)
    tables = gaussian_tables(s.scales().numpy())
    arrays: dict[str, Array] = {
        "scale_offset.table": offsets.numpy().astype(np.int16),
        "z_scale.table": z_indexes.numpy().astype(np.uint8),
        "tables.frequencies": tables.frequencies.astype(np.uint16),
        "tables.radius": tables.radius,
    }
    for name, layer in _integer_layers(model):
        weight, shift, bias = layer.integers()
        arrays[f"{name}.weight"] = weight.numpy().astype(np.int8)
        arrays[f"{name}.shift"] = shift.numpy().astype(np.int8)
        arrays[f"{name}.bias"] = bias.numpy().astype(np.int32)
    return arrays


@torch.no_grad()
def _known_answer(model: Hyperprior) -> dict[str, Array]:
    z_hat = np.random.default_rng(0).integers(-9, 10, (1, *KNOWN_ANSWER_SIZE, model.settings.hyper_channels)).astype(np.int8)
    answer = model.scale_net(torch.from_numpy(z_hat.astype(np.float32)))
    return {"known_answer.z_hat": z_hat, "known_answer.positions": answer.numpy()}


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
    if metadata.get("version") != str(VERSION) or metadata.get("architecture") != ARCHITECTURE:
        raise CodecFileError(
            f"codec file of version {metadata.get('version')!r} and architecture {metadata.get('architecture')!r}, "
            f"expected {VERSION} and {ARCHITECTURE!r}"
        )
    try:
        arrays = load_safetensors(data)
        file = CodecFile(
            id=hashlib.sha256(data).hexdigest(),
            architecture=ARCHITECTURE,
            settings=HyperpriorSettings.model_validate_json(metadata["settings"]),
            training=json.loads(metadata["training"]),
            arrays=arrays,
        )
    except (SafetensorError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CodecFileError(f"damaged codec file: {error}") from error
    if _checksum(arrays, metadata) != metadata.get("checksum"):
        raise CodecFileError("damaged codec file: wrong checksum")
    _check_arrays(file)
    return file


def expected_arrays(settings: HyperpriorSettings) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Name → (dtype, shape; None: any length) of every array of a codec file, without allocating any."""
    s = settings
    with torch.device("meta"):
        model = Hyperprior(s)
    expected: dict[str, tuple[str, tuple[int | None, ...]]] = {
        name: (_float_dtype(name, p), tuple(p.shape)) for name, p in _float_parameters(model)
    }
    for name, layer in _integer_layers(model):
        outputs, inputs = layer.weight.shape
        expected[f"{name}.weight"] = ("|i1", (outputs, inputs))
        expected[f"{name}.shift"] = ("|i1", (outputs,))
        expected[f"{name}.bias"] = ("<i4", (outputs,))
    steps = bitstream.MAX_QUALITY_STEPS + 1
    return expected | {
        "scale_offset.table": ("<i2", (steps, s.latent_channels)),
        "z_scale.table": ("|u1", (steps, s.hyper_channels)),
        "tables.frequencies": ("<u2", (None,)),
        "tables.radius": ("<i4", (s.num_scales,)),
        "known_answer.z_hat": ("|i1", (1, *KNOWN_ANSWER_SIZE, s.hyper_channels)),
        "known_answer.positions": ("<f4", (1, *(4 * n for n in KNOWN_ANSWER_SIZE), s.latent_channels)),
    }


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
    if (largest := file.arrays["z_scale.table"].max()) >= file.settings.num_scales:
        raise CodecFileError(f"codec file {file.id[:12]}: z_scale.table names table {largest} of {file.settings.num_scales}")


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
