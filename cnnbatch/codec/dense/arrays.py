"""The dense architecture in a codec file: float weights, the integers of the context model, entropy tables, a known answer.

The large matrices of the learned paths are int8 with a unit for each output: at 50 bytes a picture the codec file counts.
The bypass stays in float16, for it carries the picture itself.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from cnnbatch.codec.container.bitstream import MAX_QUALITY_STEPS, QUALITY_STEPS
from cnnbatch.codec.dense.coder import DenseCoder
from cnnbatch.codec.dense.context_model import MAX_SHIFT, MIN_SHIFT, PARTS
from cnnbatch.codec.dense.model import Dense
from cnnbatch.codec.dense.settings import DenseSettings
from cnnbatch.codec.dense.symbol_coder import SymbolCoder, known_answer
from cnnbatch.codec.entropy_coding.tables import gaussian_tables
from cnnbatch.codec.geometry import Array
from cnnbatch.codec.interface import Architecture, Coder, Expected, Limits, Parsed, Reducing, copy_weights
from cnnbatch.codec.transforms.quality_laws import NUM_ANCHORS

BYTE_MATRICES = ("g_a.leave", "g_a.hidden", "g_a.project", "g_s.enter", "g_s.hidden", "g_s.project")

ANCHOR_MAX = 1 << 26
"""Largest magnitude of an anchor of the context model: with the largest shift its table stays below 2⁶²."""


class DenseArchitecture(Architecture[DenseSettings, Dense]):
    """``dense``: many small pictures of one size; see `cnnbatch.codec.dense.model`."""

    name: ClassVar[str] = "dense"
    settings = DenseSettings

    def takes(self, settings: DenseSettings) -> str:
        """See `Architecture.takes`."""
        kind = "colour" if settings.channels == 3 else "gray"
        return f"{kind} pictures of {settings.width} × {settings.height} pixels"

    def arrays(self, model: Dense) -> dict[str, Array]:
        """See `Architecture.arrays`."""
        found: dict[str, Array] = {}
        for name, parameter in _parameters(model):
            values = parameter.detach().cpu().numpy()
            if _layer(name) in BYTE_MATRICES and name.endswith(".weight"):
                unit = np.maximum(np.abs(values).max(1), 1e-12).astype(np.float32) / np.float32(127)
                found[name] = np.rint(values / unit[:, None]).astype(np.int8)
                found[f"{name}_unit"] = unit
            else:
                found[name] = values.astype(_dtype(name, parameter))
        tables = gaussian_tables(model.settings.scales().numpy())
        quality = torch.arange(MAX_QUALITY_STEPS + 1, dtype=torch.float64) / QUALITY_STEPS
        found |= model.context.cpu().integers(model.settings.step(quality).numpy())
        found |= {"tables.frequencies": tables.frequencies.astype(np.uint16), "tables.radius": tables.radius}
        return found | known_answer(SymbolCoder(found, check_with=b""))

    def expected(self, settings: DenseSettings) -> Expected:
        """See `Architecture.expected`."""
        s = settings
        with torch.device("meta"):
            model = Dense(s)
        expected: Expected = {}
        for name, parameter in _parameters(model):
            expected[name] = (_dtype(name, parameter), tuple(parameter.shape))
            if _layer(name) in BYTE_MATRICES and name.endswith(".weight"):
                expected[name] = ("|i1", tuple(parameter.shape))
                expected[f"{name}_unit"] = ("<f4", (parameter.shape[0],))
        shapes = {
            "enter": (s.context_width, s.latents),
            "mean": (s.latents, s.context_width),
            "scale": (s.latents, s.context_width),
        }
        for part, (outputs, inputs) in shapes.items():
            expected[f"context.{part}.weight"] = ("<i2", (outputs, inputs))
            expected[f"context.{part}.shift"] = ("|i1", (1,))
            expected[f"context.{part}.anchors"] = ("<i4", (NUM_ANCHORS, outputs))
        return expected | {
            "context.input_unit": ("<i4", (MAX_QUALITY_STEPS + 1,)),
            "context.mean_unit": ("<i4", (MAX_QUALITY_STEPS + 1,)),
            "tables.frequencies": ("<u2", (None,)),
            "tables.radius": ("<i4", (s.num_scales,)),
            "known_answer.bitstream": ("|u1", (None,)),
            "known_answer.values": ("<i4", (s.latents,)),
        }

    def check(self, settings: DenseSettings, arrays: Mapping[str, Array]) -> None:
        """See `Architecture.check`: no sum of the context model can leave 64 bits."""
        for part in PARTS:
            shift = int(arrays[f"context.{part}.shift"][0])
            if not MIN_SHIFT <= shift <= MAX_SHIFT:
                raise ValueError(f"context.{part}.shift is {shift}, expected {MIN_SHIFT}…{MAX_SHIFT}")
            if np.abs(arrays[f"context.{part}.anchors"].astype(np.int64)).max() > ANCHOR_MAX:
                raise ValueError(f"context.{part}.anchors: a number over {ANCHOR_MAX}")
        for name in ("context.input_unit", "context.mean_unit"):
            if arrays[name].min() < 1:
                raise ValueError(f"{name}: a number below 1")

    def model(self, settings: DenseSettings, arrays: Mapping[str, Array]) -> Dense:
        """See `Architecture.model`. Its context model is near the file's integers; the coder uses those themselves."""
        model = Dense(settings)
        for name, parameter in _parameters(model):
            copy_weights(parameter, arrays[name])
            if (unit := arrays.get(f"{name}_unit")) is not None:
                rows = nn.Parameter(torch.empty(len(unit)))
                copy_weights(rows, unit)
                parameter.data.mul_(rows[:, None])
        model.context.take({name: array for name, array in arrays.items() if name.startswith("context.")})
        return model.eval()

    def trainable_model(self, settings: DenseSettings, arrays: Mapping[str, Array]) -> Dense:
        """See `Architecture.trainable_model`."""
        return self.model(settings, arrays).train()

    def coder(self, file: Parsed, *, device: torch.device, limits: Limits, threads: int) -> DenseCoder:
        """See `Architecture.coder`."""
        model = self.model(file.settings, file.arrays)
        return DenseCoder(file, model, device=device, limits=limits, threads=threads)

    def quick_decoder(self, file: Parsed, coder: Callable[[], Coder], *, limits: Limits, threads: int) -> Reducing:
        """See `Architecture.quick_decoder`."""
        return Reducing(coder())

    def shape(self, settings: DenseSettings, bitstream: bytes) -> tuple[int, int]:
        """See `Architecture.shape`; the codec file says it."""
        return settings.height, settings.width


def _parameters(model: Dense) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if not name.startswith("context.")]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _dtype(name: str, parameter: nn.Parameter) -> str:
    return "<f2" if parameter.ndim >= 2 and not name.endswith(".anchors") else "<f4"
