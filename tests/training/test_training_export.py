"""What training estimates is what the exported codec file delivers."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage import data

from cnnbatch.codec import Codec
from cnnbatch.codec.container.bitstream import unpack
from cnnbatch.codec.entropy_coding.tables import PRECISION, Tables
from cnnbatch.codec.geometry import GREY
from cnnbatch.codec.hyperprior.coder import HyperpriorCoder
from cnnbatch.metrics import psnr_db
from cnnbatch.training.evaluation import rate_distortion


@pytest.mark.parametrize("quality", [20.0, 52.0])
def test_real_bytes_and_decibels_are_near_the_estimate(quality: float) -> None:
    """On a photograph. The estimate takes symbols to be Gaussian, and neighbours to be rounded apart."""
    codec, pixels = Codec.load(device="cpu"), data.astronaut()
    estimate = rate_distortion(codec.file.model(), [pixels], [quality])[0]
    bitstream = codec.compress([pixels], quality)[0]
    assert 0.98 < 8 * len(bitstream) / pixels[..., 0].size / estimate.bpp < 1.01
    assert -0.1 < psnr_db(pixels, codec.reconstruct([bitstream])[0]) - estimate.psnr_db < 0.1


@pytest.mark.parametrize("quality", [20.0, 52.0])
def test_the_coded_size_is_within_three_thousandths_of_the_entropy(quality: float) -> None:
    codec, pixels = Codec.load(device="cpu"), data.astronaut()
    assert isinstance(codec.coder, HyperpriorCoder)
    encoder, decoder = codec.coder.encoder.latents, codec.coder.decoder.latents
    s, q = codec.file.settings, torch.tensor([quality])
    with torch.inference_mode():
        y = codec.file.model().g_a(torch.from_numpy(pixels)[None].float() - GREY, q)
        tile = encoder.quantised(y, (slice(None), slice(None)), q, bf16=False)
        [stream] = encoder.encode(tile, q)
    side, choice = tile.side, tile.choice
    coded = side.indexes >= s.coded_from
    z_symbols, z_indexes = decoder.hyper.encode(side.z[0], decoder.z_indexes(quality))
    values = np.concatenate([z_symbols, choice.symbols[coded]]).astype(np.int64)
    indexes = np.concatenate([z_indexes, choice.tables[coded]])
    assert 8 * len(stream) / entropy(decoder.tables, values, indexes) == pytest.approx(1, abs=3e-3)
    [bitstream] = codec.compress([pixels], quality)
    assert len(bitstream) - len(unpack(bitstream).tiles[0]) < 24


def entropy(tables: Tables, values: npt.NDArray[np.int64], indexes: npt.NDArray[np.uint8]) -> float:
    """Bits by the tables of the codec file; what is beyond a table's radius takes its escape and 16 bits."""
    radius = tables.radius[indexes]
    escaped = np.abs(values) > radius
    place = tables.start[indexes] + np.where(escaped, 2 * radius + 1, values + radius)
    return float((PRECISION - np.log2(tables.frequencies[place])).sum() + 16 * escaped.sum())
