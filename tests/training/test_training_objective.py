"""What a training step counts for distortion."""

import pytest
import torch

from cnnbatch.butteraugli import three_norm
from cnnbatch.codec.hyperprior.distortion import distortion
from cnnbatch.training.objective import BUTTERAUGLI_EVERY, BUTTERAUGLI_SHARE, bits_of_butteraugli, training_distortion
from tests.codec.models import TINY

EYE = TINY.model_copy(update={"objective": "ssimulacra2"})
ORIGINAL = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255
PICTURE = (ORIGINAL + 6 * torch.randn(3, 64, 64, 3, generator=torch.Generator().manual_seed(1))).clamp(0, 255)
QUALITY = torch.tensor([10.0, 30.0, 50.0])


def test_for_psnr_it_is_squared_error() -> None:
    found = training_distortion(PICTURE, ORIGINAL, QUALITY, TINY, step=0)
    assert torch.equal(found, distortion(PICTURE, ORIGINAL, QUALITY, TINY))


def test_four_steps_count_butteraugli_of_every_crop_once() -> None:
    *seeing, blind = (training_distortion(PICTURE, ORIGINAL, QUALITY, EYE, step=step) for step in range(BUTTERAUGLI_EVERY))
    planes = (p.permute(0, 3, 1, 2) for p in (ORIGINAL, PICTURE))
    norms = BUTTERAUGLI_SHARE * bits_of_butteraugli(EYE.lmbda(QUALITY)) * three_norm(*planes)
    counted = torch.stack([step - blind for step in seeing])
    assert torch.allclose(counted, BUTTERAUGLI_EVERY * torch.diag(norms), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", [0, 1])
def test_a_single_crop_has_gradients_in_every_step(step: int) -> None:
    picture = PICTURE[:1].clone().requires_grad_()
    training_distortion(picture, ORIGINAL[:1], QUALITY[:1], EYE, step=step).sum().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()
    assert picture.grad.abs().mean() > 0
