"""Means and local steps from a net of integers: as the specification says, on every way to compute them."""

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
from tests.codec.reference import local_steps, means

DATA = tiny_codec_file()


def file() -> CodecFile:
    return parse_codec(DATA)


def net() -> ExactMeanNet:
    return ExactMeanNet(file().model().mean_net)


def random_z(*shape: int, seed: int = 0) -> torch.Tensor:
    z = np.random.default_rng(seed).integers(-127, 128, (*shape, TINY.hyper_channels))
    return torch.from_numpy(z.astype(np.float32))


@torch.inference_mode()
def run(one: ExactMeanNet | MeanNet, z: torch.Tensor, quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return one(z, quality)


@pytest.mark.parametrize("step", [0, 13, 128, 252])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_means_and_steps_are_what_the_specification_says(shape: tuple[int, int], step: int) -> None:
    z = random_z(*shape, seed=step)
    found = [part[0].numpy() for part in run(net(), z[None], torch.tensor([step / 4]))]
    integers = z.numpy().astype(np.int64)
    expected = means(file().arrays, integers, step), local_steps(file().arrays, integers)
    assert np.abs(expected[0]).max() > 0.1
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-5)


def test_steps_are_1_for_predicted_channels_and_stay_within_their_limits() -> None:
    z, quality = random_z(1, 3, 5), torch.tensor([30.0])
    _, steps = run(net(), z, quality)
    predicted, adapted = np.split(steps.numpy(), [TINY.predicted_channels], -1)
    assert (predicted == 1).all()
    assert adapted.std() > 0.003
    model = file().model().mean_net
    with torch.no_grad():
        model.step_mixing.fill_(1e3)
    assert set(np.log(run(ExactMeanNet(model), z, quality)[1].numpy()).round(5).ravel()) <= {-2, 0, 2}


@pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no VNNI")
def test_products_of_integers_give_the_same_bits() -> None:
    packed, z, quality = net(), random_z(3, 4, 5), torch.tensor([1.0, 30.25, 63.0])
    with mock.patch("cnnbatch.codec.transforms.exact_layers.product_of_integers", side_effect=product_of_integers) as product:
        found = run(packed, z, quality)
    assert product.call_count == 7  # enter, grow, leave, step_factors and three blocks
    assert_equal(found, run(file().model().mean_net, z, quality))


def test_what_is_trained_is_what_is_shipped() -> None:
    z, quality = random_z(2, 6, 7), torch.tensor([1.0, 63.0])
    assert_equal(run(net(), z, quality), run(file().model().mean_net, z, quality))


def assert_equal(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> None:
    for part, same in zip(one, other, strict=True):
        assert torch.equal(part, same)


def test_training_goes_on_from_the_integers() -> None:
    model = file().trainable_model()
    assert dump_codec(model.eval(), training={"seed": 0}) == DATA
    means, steps = model.train().mean_net(random_z(1, 3, 4), torch.tensor([30.0]))
    (means.square().sum() + steps.square().sum()).backward()
    for name, parameter in model.mean_net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize(("name", "value"), [("mean_net.leave.bias", 2**30), ("mean_net.block_16.1.pointwise.bias", -(2**24))])
def test_a_mean_net_that_may_not_be_exact_is_refused(name: str, value: int) -> None:
    metadata, arrays = unseal(DATA)
    arrays[name] = np.full_like(arrays[name], value)
    with pytest.raises(CodecFileError, match="not exact"):
        Codec(seal(arrays, metadata), device="cpu")
