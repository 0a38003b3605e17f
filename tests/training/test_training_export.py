"""What training estimates is what the exported codec file delivers."""

import pytest
from skimage import data

from cnnbatch.codec import Codec
from cnnbatch.metrics import psnr_db
from cnnbatch.training.evaluation import rate_distortion


@pytest.mark.parametrize("quality", [20.0, 52.0])
def test_real_bytes_are_within_a_hundredth_of_the_estimate(quality: float) -> None:
    """On a photograph: the estimate counts some 20 bits for each symbol that the coder leaves out (below ``coded_from``)
    and escapes at another price, more than a hundredth on pictures unlike any that the model has seen."""
    codec, pixels = Codec.load(device="cpu"), data.astronaut()
    estimate = rate_distortion(codec.file.model(), [pixels], [quality])[0]
    bitstream = codec.compress([pixels], quality)[0]
    assert 8 * len(bitstream) / pixels[..., 0].size == pytest.approx(estimate.bpp, rel=0.01)
    assert psnr_db(pixels, codec.reconstruct([bitstream])[0]) == pytest.approx(estimate.psnr_db, abs=0.05)
