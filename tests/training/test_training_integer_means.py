"""A mean net of integers taught to a codec: it learns, and nothing else changes."""

import copy
from functools import cache

import pytest
import torch

from cnnbatch.codec.hyperprior import Hyperprior
from cnnbatch.training import integer_means
from cnnbatch.training.integer_means import with_integer_means
from tests.codec.models import TINY, picture, tiny_model

PICTURES = [picture(160, 160, seed=n) for n in range(6)]
STEPS = 20


@cache
def plain() -> Hyperprior:
    return tiny_model().requires_grad_(False)


@cache
def taught(steps: int) -> Hyperprior:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integer_means, "CROPS", 4)
        return with_integer_means(plain(), PICTURES, steps).eval()


def bits(model: Hyperprior) -> float:
    torch.manual_seed(0)
    with torch.no_grad():
        x, quality = torch.stack([torch.from_numpy(p[:128, :128].copy()).float() for p in PICTURES]), torch.full((6,), 40.0)
        return float(model(x, quality, noise=False)[1].sum())


def test_it_learns_more_than_that_means_are_small() -> None:
    without = copy.deepcopy(plain())
    torch.nn.init.zeros_(without.mean_net.leave.weight)
    torch.nn.init.zeros_(without.mean_net.leave.bias)
    assert bits(taught(500)) < bits(without) - 50 < bits(taught(1)) - 1000


def test_the_rest_stays_and_every_process_finds_the_same() -> None:
    assert taught(STEPS).settings == TINY.model_copy(update={"integer_means": True})
    kept = dict(taught(STEPS).named_parameters())
    for name, parameter in plain().named_parameters():
        if not name.startswith("mean_net."):
            assert torch.equal(kept[name], parameter), name
    torch.manual_seed(7)  # as another process has another seed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integer_means, "CROPS", 4)
        again = with_integer_means(plain(), PICTURES, STEPS)
    for name, parameter in again.named_parameters():
        assert torch.equal(kept[name], parameter), name
