"""The labels that the dense codec's own layers find on pixels: what recognition on latents is held against.

    python -m benchmarks.fashion_mnist pixels [--steps N] [--shift N] [--mirror]

The analysis and the head of the architecture, trained by cross-entropy alone: no quantisation, no rate, no picture to give
back. Steps, batches, variation of the pictures, learning rates and averaging are those of `jobs.train`: it is the same
trainer.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.codec.dense.model import Dense
from cnnbatch.codec.dense.settings import DenseLayers
from cnnbatch.codec.geometry import PIXEL_UNIT
from cnnbatch.training.dense import DenseTrainer, DenseTraining
from cnnbatch.training.dense_data import SmallPictures
from cnnbatch.training.run import LocalRun

QUALITY = 32.0
"""The quality that the layers are told when they are tested; in training it varies, as in the codec's."""

BATCH = 1000


def logits(model: Dense, x: Tensor, quality: Tensor) -> Tensor:
    """``x`` [N, H, W, C] in 0…255 → [N, classes], without quantisation."""
    features = model.g_a(x, quality) * (model.settings.step(quality) / PIXEL_UNIT)[:, None]
    if model.head is None:
        raise ValueError("the pictures have no labels")
    found: Tensor = model.head(features)
    return found


class PixelTrainer(DenseTrainer):
    """`DenseTrainer` with another loss."""

    def _loss(self, x: Tensor, quality: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            found = logits(self.model, x, quality)
        return F.cross_entropy(found.float(), labels, label_smoothing=self.config.label_smoothing)

    def report(self, loss: float) -> None:
        """Nothing: there is no codec to measure."""


def accuracy(model: Dense, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    """Share of the labels that are found; ``pixels`` [N, H, W, C]."""
    guesses = []
    with torch.inference_mode():
        for first in range(0, len(pixels), BATCH):
            x = torch.from_numpy(pixels[first : first + BATCH]).float()
            guesses.append(logits(model, x, torch.full((len(x),), QUALITY)).argmax(1).numpy())
    return float(np.mean(np.concatenate(guesses) == labels))


def trained(pictures: SmallPictures, config: DenseTraining, checkpoint: Path) -> Dense:
    """All pictures need a label. The context model, which has no part in it, is not trained."""
    trainer = PixelTrainer(config.model_copy(update={"context_steps": 0}), DenseLayers(), pictures, LocalRun(checkpoint))
    trainer.run()
    return trainer.averaged_model()
