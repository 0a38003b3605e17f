"""The head: features of one codec → logits of classes; and its file, safetensors with a checksum, no pickle.

    features ── (f − mean) / scale ──┬── linear ─────────────────────────── logits
                                     └── linear, ReLU, dropout, linear ──── logits      (``mlp``)

A head means nothing on the features of another codec file, so its file names the one whose features it learned from.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cnnbatch.codec.container.sealed import seal, unseal
from cnnbatch.codec.dense.settings import MAX_CLASSES, ClassName
from cnnbatch.errors import CodecFileError, UsageError

FORMAT: Final = "cnnbatch-head"
VERSION: Final = 1
MAX_BYTES: Final = 1 << 28
"""Larger files are refused unread."""

Kind = Literal["linear", "mlp"]


class HeadSettings(BaseModel):
    """Inputs and outputs of a head. ``codec_ids``: sha256 of the codec files whose features it knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    features: int = Field(ge=1, le=1 << 16)
    hidden: int = Field(256, ge=1, le=1 << 14)
    """Units of the ``mlp``'s hidden layer."""
    classes: tuple[ClassName, ...] = Field(min_length=2, max_length=MAX_CLASSES)
    codec_ids: tuple[str, ...] = Field(min_length=1, max_length=64)


class Head(nn.Module):
    """Standardised features → logits."""

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: HeadSettings, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.zeros(settings.features))
        self.register_buffer("scale", torch.ones(settings.features))
        last = len(settings.classes)
        if settings.kind == "linear":
            self.layers = nn.Sequential(nn.Linear(settings.features, last))
        else:
            hidden = settings.hidden
            self.layers = nn.Sequential(
                nn.Linear(settings.features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, last)
            )

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] as `Codec.features` gives them → [N, classes]."""
        return cast(Tensor, self.layers((features - self.mean) / self.scale))


def dump_head(head: Head, *, training: Mapping[str, Any]) -> bytes:
    """The head file; ``training`` (JSON) says how the head came about and what it reached."""
    arrays = {name: tensor.detach().cpu().numpy().astype(np.float32) for name, tensor in head.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "settings": head.settings.model_dump_json(),
        "training": json.dumps(dict(training), sort_keys=True),
    }
    return seal(arrays, metadata)


def parse_head(data: bytes, name: str) -> Head:
    """The head in a file, ready to use; ``name`` is for people.

    Raises UsageError for anything but an intact head file of a known version.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name}: a head file of {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        metadata, arrays = unseal(data)
    except CodecFileError as error:
        raise UsageError(f"{name} is not an intact head file, which `jobs.classify train` writes: {error}") from error
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, str(VERSION)):
        raise UsageError(
            f"{name} is of the format {metadata.get('format')!r}, version {metadata.get('version')!r}, "
            f"expected a head file: {FORMAT!r}, version {VERSION}"
        )
    try:
        settings = HeadSettings.model_validate_json(metadata["settings"])
        with torch.device("meta"):
            expected = {key: tuple(tensor.shape) for key, tensor in Head(settings).state_dict().items()}
        found = {key: array.shape for key, array in arrays.items() if array.dtype == np.float32 and np.isfinite(array).all()}
        if len(set(settings.classes)) < len(settings.classes) or found != expected or len(arrays) != len(expected):
            raise ValueError("its arrays or classes do not fit its settings")
    except (KeyError, ValueError) as error:
        raise UsageError(f"{name}: damaged head file: {' '.join(str(error).split())[:200]}") from error
    head = Head(settings)
    head.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in arrays.items()}, strict=True)
    return head.eval()
