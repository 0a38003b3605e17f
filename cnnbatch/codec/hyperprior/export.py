"""A hyperprior ↔ the arrays of its codec file."""

from collections.abc import Mapping

import numpy as np
import torch

from cnnbatch.codec.container.bitstream import MAX_QUALITY_STEPS, QUALITY_STEPS
from cnnbatch.codec.entropy_coding.tables import gaussian_tables, joined
from cnnbatch.codec.geometry import Array
from cnnbatch.codec.hyperprior.arrays import KNOWN_ANSWER_SIZE, float_dtype
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.interface import copy_weights
from cnnbatch.codec.quantisation.trellis_tables import trellis_tables
from cnnbatch.codec.transforms.integer_layers import IntegerLinear, Integers


def model_of(settings: HyperpriorSettings, arrays: Mapping[str, Array]) -> Hyperprior:
    """The network. Raises ValueError or CodecFileError for a layer of integers that cannot be, or is not exact."""
    model = Hyperprior(settings)
    for name, parameter in _float_parameters(model):
        copy_weights(parameter, arrays[name])
    for name, layer in _integer_layers(model):
        weight, shift, bias = (arrays[f"{name}.{part}"] for part in ("weight", "shift", "bias"))
        layer.take(Integers(*(torch.from_numpy(a.astype(np.float32)) for a in (weight, shift, bias))))
    return model.eval()


def arrays_of(model: Hyperprior) -> dict[str, Array]:
    """The arrays of a model in a codec file. Raises CodecFileError if a layer of integers is not exact."""
    _check_exact(model)
    return _float_arrays(model) | _integer_arrays(model) | _known_answer(model)


def _integer_layers(model: Hyperprior) -> list[tuple[str, IntegerLinear]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, IntegerLinear)]


def _check_exact(model: Hyperprior) -> None:
    for net in model.integer_nets():
        net.check_exact()


def _float_arrays(model: Hyperprior) -> dict[str, Array]:
    """Matrices in float16, whose rounding is far below that of a pixel; the rest and the last filter in float32."""
    return {name: p.detach().cpu().numpy().astype(float_dtype(name, p.shape)) for name, p in _float_parameters(model)}


def _float_parameters(model: Hyperprior) -> list[tuple[str, torch.nn.Parameter]]:
    whole = {f"{layer}.{part}" for layer, _ in _integer_layers(model) for part in ("weight", "bias")}
    return [(name, p) for name, p in model.named_parameters() if name not in whole]


@torch.no_grad()
def _integer_arrays(model: Hyperprior) -> dict[str, Array]:
    s = model.settings
    quality = torch.arange(MAX_QUALITY_STEPS + 1) / QUALITY_STEPS
    offsets = torch.floor(model.scale_offset(quality)[:, 0, 0] + 0.5)
    z_indexes = torch.floor(model.z_scale(quality)[:, 0, 0] + 0.5).clamp(0, s.num_scales - 1)
    tables = joined(gaussian_tables(s.scales().numpy()), trellis_tables(s.scales()))
    hyper = model.hyper_context.tables()
    arrays: dict[str, Array] = {
        "scale_offset.table": offsets.numpy().astype(np.int16),
        "z_scale.table": z_indexes.numpy().astype(np.uint8),
        "tables.frequencies": tables.frequencies.astype(np.uint16),
        "tables.radius": tables.radius,
        "hyper_context.weight_table": hyper.weights.astype(np.int8),
        "hyper_context.shift_table": hyper.shifts.astype(np.int8),
        "hyper_context.inverse_table": hyper.inverse.astype(np.uint16),
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
