"""Recipes that nobody can run to their end on a small machine begin well on it, at toy sizes."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnbatch.codec import Codec
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.training.run import LocalRun
from cnnbatch.training.trainer import Trainer
from jobs.configuration import resolve
from jobs.settings import TrainConfig
from tests.codec.models import TINY, picture

STEPS = 40


def recipe(name: str) -> TrainConfig:
    path = str(files("jobs") / "configs" / name)
    return resolve(TrainConfig, file=path, flags={"source": "a", "codec_file": "/b"}, words=())


@pytest.mark.parametrize("name", ["train_large.yaml", "train_eye_from_zero.yaml"])
def test_some_steps_at_toy_width_lower_the_loss(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    free = {name: getattr(config.model, name) for name in ("objective", "lmbda_range")}
    training = config.training.model_copy(update={"pixels_per_step": 2 * 128**2, "bf16": False})
    pictures = [picture(160, 192, seed=n) for n in range(6)]
    trainer = Trainer(training, TINY.model_copy(update=free), (pictures, []), LocalRun(tmp_path / "run"))
    torch.manual_seed(0)
    losses = [trainer._step() for _ in range(STEPS)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_the_large_network_has_the_size_that_the_recipe_says() -> None:
    with torch.device("meta"):
        model = Hyperprior(recipe("train_large.yaml").model)
    macs = 0.0
    for name, weight in model.g_s.named_parameters():
        at_an_eighth = name.startswith(("blocks_8", "see", "leave"))
        if name.endswith("weight"):
            macs += weight.numel() / (64 if at_an_eighth else 256)
    assert 75_000 < macs < 90_000


def test_from_zero_is_the_network_of_the_shipped_default() -> None:
    config = recipe("train_eye_from_zero.yaml")
    assert config.model == Codec.load("eye", device="cpu").file.settings
    assert config.start is None
