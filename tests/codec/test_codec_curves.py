"""Curves over quality that are not trained any more."""

import torch

from cnnbatch.codec.transforms.quality import FixedCurve, QualityCurve


def test_a_fixed_curve_is_the_curve_and_computes_each_quality_once() -> None:
    curve = QualityCurve(5).requires_grad_(False)
    curve.anchors.copy_(torch.randn(curve.anchors.shape, generator=torch.Generator().manual_seed(0)))
    fixed, quality = FixedCurve(curve), torch.tensor([0.0, 40.25, 63.0, 40.25])
    with torch.inference_mode():
        first = fixed(quality)
    torch.testing.assert_close(first, curve(quality), rtol=1e-6, atol=1e-6)
    curve.anchors.zero_()
    assert torch.equal(fixed(quality[1:]), first[1:])
    assert torch.equal(fixed(quality[:1])[0], first[0])
    weight = torch.ones(5, requires_grad=True)
    (fixed(quality[:1]) * weight).sum().backward()  # what was computed in inference mode may be differentiated with
    assert weight.grad is not None
