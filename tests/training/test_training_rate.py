"""Training sees dependent symbols as the encoder chooses them."""

import numpy as np
import pytest
import torch

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.training.evaluation import rate_distortion
from tests.codec.models import picture, tiny_model

X, QUALITY = torch.from_numpy(np.stack([picture(64, 128, seed=n) for n in range(2)])).float(), torch.tensor([12.0, 50.0])


def test_rate_and_distortion_have_gradients_in_every_part() -> None:
    torch.manual_seed(0)
    model = tiny_model().train()
    x_hat, bits = model(X, QUALITY, noise=True)
    assert (bits > 0).all()
    ((x_hat - X).square().mean() + bits.mean()).backward()
    for name in ("g_a.bypass.weight", "g_s.bypass.weight", "h_a.enter.weight", "mean_net.leave.weight", "scale_offset.anchors"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.any()


def test_noise_is_in_the_gradient_alone() -> None:
    """Bits and picture are those of the chosen symbols either way."""
    torch.manual_seed(0)
    model = tiny_model()
    model.with_prediction = lambda means, *_, **__: means  # which sees noisy neighbours
    with torch.no_grad():
        (a, bits_a), (b, bits_b) = (model(X, QUALITY, noise=noise) for noise in (False, True))
    torch.testing.assert_close(a, b)
    assert (bits_a / bits_b).numpy() == pytest.approx(1, abs=0.05)  # those of the hyper-latents are noisy


@pytest.mark.parametrize("quality", [12.0, 40.0])
def test_the_estimate_is_near_what_the_codec_makes(quality: float) -> None:
    """A codec file with tables of Gaussians, as the estimate takes them."""
    model, pixels = tiny_model(), picture(256, 320)
    codec = Codec(dump_codec(model, training={}), device="cpu")
    [estimate] = rate_distortion(codec.file.model(), [pixels], [quality])
    [bitstream] = codec.compress([pixels], quality)
    assert 8 * len(bitstream) / (256 * 320) / estimate.bpp == pytest.approx(1, abs=0.05)
