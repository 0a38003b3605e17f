"""A context of the hyper-latents fitted to a codec: fewer bits for them, and nothing else changes."""

from functools import cache

import numpy as np
import torch

from cnnbatch.codec import Codec
from cnnbatch.codec.file import dump_codec
from cnnbatch.codec.hyper_context import EDGES
from cnnbatch.codec.hyperprior import Hyperprior
from cnnbatch.training.hyper_context import with_hyper_context
from tests.codec.models import TINY, picture, tiny_model

PICTURES = [np.tile(picture(64, 64, seed=n), (4, 5, 1)) // (1 + n) for n in range(4)]
"""Each repeats itself, so that its hyper-latents do; some are faint and some are not."""


@cache
def plain() -> Hyperprior:
    return tiny_model(settings=TINY.model_copy(update={"hyper_context": False}))


@cache
def fitted() -> Hyperprior:
    return with_hyper_context(plain(), PICTURES).eval()


def bits(model: Hyperprior, quality: float) -> float:
    with torch.no_grad():
        found = [model(torch.from_numpy(p)[None].float(), torch.tensor([quality]), noise=False)[1] for p in PICTURES]
    return float(sum(found))


def test_it_costs_fewer_bits_at_every_quality() -> None:
    for quality in (4.0, 31.0, 60.0):
        assert bits(fitted(), quality) < bits(plain(), quality) - 100


def test_pictures_are_the_same_and_bitstreams_smaller() -> None:
    before, after = (Codec(dump_codec(model, training={}), device="cpu") for model in (plain(), fitted()))
    assert after.file.settings == TINY
    small, large = ([codec.compress([p], 45)[0] for p in PICTURES] for codec in (after, before))
    assert sum(map(len, small)) < sum(map(len, large))
    for a, b in zip(after.reconstruct(small), before.reconstruct(large), strict=True):
        assert np.array_equal(a, b)


def test_scales_rise_with_activity() -> None:
    shifts = fitted().hyper_context.shift
    assert shifts.shape == (len(EDGES) + 1,)
    assert bool((shifts == shifts.round()).all())
    assert shifts[:8].mean() < shifts[12:18].mean()
