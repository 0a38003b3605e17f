"""What training estimates is what the exported codec file delivers."""

import numpy as np
import pytest

from cnnbatch.codec import Codec
from cnnbatch.metrics import psnr_db
from cnnbatch.training.evaluation import rate_distortion
from tests.codec.models import picture, tiny_codec


@pytest.mark.parametrize("quality", [20.0, 52.0])
@pytest.mark.parametrize("which", ["random", "shipped"])
def test_real_bytes_are_within_a_hundredth_of_the_estimate(which: str, quality: float) -> None:
    """512 × 512 pixels: large enough for the container's 30 bytes not to count."""
    codec = tiny_codec() if which == "random" else Codec.load(device="cpu")
    pixels = picture(512, 512, seed=3)
    pixels = np.clip(pixels + np.random.default_rng(0).normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    estimate = rate_distortion(codec.file.model(), [pixels], [quality])[0]
    bitstream = codec.compress([pixels], quality)[0]
    assert 8 * (len(bitstream) - 40) / 512**2 == pytest.approx(estimate.bpp, rel=0.01)
    assert psnr_db(pixels, codec.reconstruct([bitstream])[0]) == pytest.approx(estimate.psnr_db, abs=0.05)
