"""A training step on another device than the CPU: no tensor of it is left on the CPU.

The device ``meta`` computes shapes and devices and no values, so a tensor that was left behind is an error there as on a GPU.
The search for symbols, which runs on the CPU and gives its result back to the device, is left out.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from cnnbatch.codec.entropy_coding.likelihood import gaussian_bits, noisy
from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.training.objective import training_distortion
from cnnbatch.training.trainer import GRADIENT_NORM, _optimiser
from tests.codec.models import TINY


@pytest.fixture(autouse=True)
def without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Symbols are rounded, and bits are those of Gaussians."""

    def rounded(residual: Tensor, _: Tensor, scales: Tensor, *__: object, noise: bool) -> tuple[Tensor, Tensor]:
        return residual.round(), gaussian_bits(noisy(residual), scales)

    monkeypatch.setattr("cnnbatch.codec.hyperprior.model.on_the_trellis", rounded)


META = torch.device("meta")


@pytest.fixture
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """``meta`` has none."""
    of_others = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": kind != "meta" and of_others(kind))


@pytest.mark.parametrize("objective", ["psnr", "ssimulacra2"])
def test_a_step_leaves_no_tensor_on_the_cpu(objective: str, without_autocast: None) -> None:
    settings = TINY.model_copy(update={"objective": objective})
    model = Hyperprior(settings).to(META)
    optimiser = _optimiser(model, 1e-3)
    x, quality = torch.empty(8, 128, 128, 3, device=META), torch.empty(8, device=META)
    x_hat, bits = model(x, quality, noise=True)
    loss = (training_distortion(x_hat, x, quality, settings, step=1) + bits / 128**2).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    assert {loss.device, norm.device, *(p.device for p in model.parameters())} == {META}
    learned = [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
    assert {p.grad.device for p in learned if p.grad is not None} == {META}
