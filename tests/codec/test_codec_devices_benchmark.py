"""The comparison of two devices, with this machine's CPU as both, and with a codec that is not the same on both."""

import numpy as np
import pytest
import torch

from benchmarks import devices
from cnnbatch.codec import Codec
from tests.codec.models import picture, tiny_codec_file


def test_a_device_agrees_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert devices.main(["--device", "cpu", "--pictures", "2", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("cpu and cpu: 0 scale positions differ, pixels by at most 0 (0.00e+00 of them)\ncpu: encode ")


def test_another_synthesis_and_another_scale_net_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Codec(tiny_codec_file(), device="cpu"), Codec(tiny_codec_file(), device="cpu")
    synthesis = second.coder.decoder.synthesis  # type: ignore[attr-defined]
    pixels = synthesis.pixels
    synthesis.pixels = lambda *arguments: 255 - pixels(*arguments)
    found = devices.agreement(first, second, [picture(64, 64)])
    assert found.scale_positions == 0
    assert found.largest_level > 1
    assert not found.sound
    monkeypatch.setattr(devices, "_positions", lambda model, z_hat: torch.rand(3))
    assert devices.agreement(first, first, [np.zeros((16, 16, 3), np.uint8)]).scale_positions > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_with_the_cpu() -> None:
    assert devices.main(["--pictures", "4", "--rounds", "1"]) == 0
