"""Means from a net of integers: what the specification says, on every way to compute them, and through the codec file."""

from unittest import mock

import numpy as np
import pytest
import torch

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import CodecFile, dump_codec, parse_codec
from cnnbatch.codec.container.sealed import seal, unseal
from cnnbatch.codec.hyperprior.hyper_transforms import MeanNet
from cnnbatch.codec.hyperprior.inference import ExactMeanNet
from cnnbatch.codec.runtime.onednn import cpu_has_int8, product_of_integers
from cnnbatch.errors import CodecFileError
from tests.codec.models import TINY, tiny_codec_file
from tests.codec.reference import means

DATA = tiny_codec_file()


def file() -> CodecFile:
    return parse_codec(DATA)


def net() -> ExactMeanNet:
    return ExactMeanNet(file().model().mean_net)


def random_z(*shape: int, seed: int = 0) -> torch.Tensor:
    z = np.random.default_rng(seed).integers(-127, 128, (*shape, TINY.hyper_channels))
    return torch.from_numpy(z.astype(np.float32))


@torch.inference_mode()
def run(one: ExactMeanNet | MeanNet, z: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    return one(z, quality)


@pytest.mark.parametrize("step", [0, 13, 128, 252])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_means_are_what_the_specification_says(shape: tuple[int, int], step: int) -> None:
    z = random_z(*shape, seed=step)
    found = run(net(), z[None], torch.tensor([step / 4]))[0].numpy()
    expected = means(file().arrays, z.numpy().astype(np.int64), step)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no VNNI")
def test_products_of_integers_give_the_same_bits() -> None:
    packed, z, quality = net(), random_z(3, 4, 5), torch.tensor([1.0, 30.25, 63.0])
    with mock.patch("cnnbatch.codec.transforms.integer_layers.product_of_integers", side_effect=product_of_integers) as product:
        found = run(packed, z, quality)
    assert product.call_count == 6  # enter, grow, leave and three blocks
    assert torch.equal(found, run(file().model().mean_net, z, quality))


def test_what_is_trained_is_what_is_shipped() -> None:
    z, quality = random_z(2, 6, 7), torch.tensor([1.0, 63.0])
    assert torch.equal(run(net(), z, quality), run(file().model().mean_net, z, quality))


def test_training_goes_on_from_the_integers() -> None:
    model = file().trainable_model()
    assert dump_codec(model.eval(), training={"seed": 0}) == DATA
    model.train().mean_net(random_z(1, 3, 4), torch.tensor([30.0])).square().sum().backward()
    for name, parameter in model.mean_net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize(("name", "value"), [("mean_net.leave.bias", 2**30), ("mean_net.block_16.1.pointwise.bias", -(2**24))])
def test_a_mean_net_that_may_not_be_exact_is_refused(name: str, value: int) -> None:
    metadata, arrays = unseal(DATA)
    arrays[name] = np.full_like(arrays[name], value)
    with pytest.raises(CodecFileError, match="not exact"):
        Codec(seal(arrays, metadata), device="cpu")
