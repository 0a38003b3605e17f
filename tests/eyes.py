"""Pairs of pictures to compare, and those whose measures the reference programs gave."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.stages.pictures import Pixels

_EYES = Path(__file__).parents[2] / "shared" / "eyes"


def reference_pairs() -> Iterator[tuple[Pixels, Pixels, dict[str, Any]]]:
    """Original, decoded picture, and the entry with their measures."""
    for entry in json.loads((_EYES / "reference.json").read_text()):
        original, decoded = (np.asarray(Image.open(_EYES / "pairs" / entry[name])) for name in ("original", "decoded"))
        yield original, decoded, entry


def tensor(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()


def noisy(image: Pixels, sigma: float, seed: int = 0) -> Pixels:
    return np.clip(image + np.random.default_rng(seed).normal(0, sigma, image.shape), 0, 255).astype(np.uint8)
