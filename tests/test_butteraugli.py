"""Butteraugli against the values that libjxl's program `butteraugli_main` 0.7 prints."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnnbatch.butteraugli import butteraugli, difference, difference_map, lines, norm, three_norm
from tests.eyes import noisy, reference_pairs, tensor
from tests.stages.pictures import Pixels, waves


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As on a worker of the jobs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.shared
def test_differences_are_those_of_the_reference_program() -> None:
    pairs = list(reference_pairs())
    assert len(pairs) == 12
    for original, decoded, entry in pairs:
        expected = entry["butteraugli_max"], entry["butteraugli_3norm"]
        assert butteraugli(original, decoded) == pytest.approx(expected, abs=2e-4), entry


def coarse(image: Pixels) -> Pixels:
    return image // 20 * 20


PAIRS = {
    "little noise": (waves(120, 150, 1), noisy(waves(120, 150, 1), 3)),
    "much noise": (waves(97, 131, 2), noisy(waves(97, 131, 2), 25)),
    "coarse": (waves(64, 200), coarse(waves(64, 200))),
    "coarse original": (coarse(waves(64, 200)), waves(64, 200)),
    "moved": (waves(130, 90), np.roll(waves(130, 90), 1, 1)),
    "tinted": (waves(80, 80), waves(80, 80) // np.array([1, 1, 2]).astype(np.uint8)),
    "gray": (waves(90, 110, gray=True), noisy(waves(90, 110, gray=True), 6)),
    "one scale": (waves(14, 40), noisy(waves(14, 40), 9)),
    "two scales": (waves(15, 40), noisy(waves(15, 40), 9)),
    "smallest": (waves(8, 8), noisy(waves(8, 8), 9)),
    "narrow": (waves(300, 9), noisy(waves(300, 9), 9)),
    "wide": (waves(60, 700), noisy(waves(60, 700), 5)),
}
PRINTED = {
    "little noise": (1.82311, 1.12226),
    "much noise": (11.45055, 7.32373),
    "coarse": (7.13130, 6.16349),
    "coarse original": (6.48524, 5.69189),
    "moved": (13.09421, 6.06156),
    "tinted": (18.97021, 12.29887),
    "gray": (3.88257, 2.42786),
    "one scale": (3.56824, 2.47018),
    "two scales": (3.65653, 2.59043),
    "smallest": (2.50569, 2.04008),
    "narrow": (3.71968, 2.35452),
    "wide": (2.82513, 1.73692),
}


@pytest.mark.parametrize("name", PAIRS)
def test_differences_are_what_the_program_prints(name: str) -> None:
    assert butteraugli(*PAIRS[name]) == pytest.approx(PRINTED[name], rel=5e-5)


def test_other_norms_and_screens_are_those_of_the_program() -> None:
    original, picture = (tensor(image) for image in PAIRS["much noise"])
    differences = difference_map(original, picture)
    assert norm(differences, 6).item() == pytest.approx(7.890471, rel=5e-5)
    assert norm(differences, 2.5).item() == pytest.approx(7.223913, rel=5e-5)
    bright = difference_map(original, picture, intensity_target=250)
    assert (bright.max().item(), norm(bright).item()) == pytest.approx((14.763976, 9.091488), rel=5e-5)


@pytest.mark.parametrize("gray", [False, True])
def test_equal_pictures_do_not_differ(gray: bool) -> None:
    image = waves(50, 70, gray=gray)
    assert butteraugli(image, image.copy()) == (0, 0)


def test_one_pixel_shows_there_and_hardly_counts() -> None:
    original = waves(60, 200)
    picture = original.copy()
    picture[30, 40] ^= 8
    differences = difference_map(tensor(original), tensor(picture))[0]
    assert math.dist(divmod(int(differences.argmax()), 200), (30, 40)) < 2
    assert not differences[:, 40 + difference.HALO :].any()
    largest, three = butteraugli(original, picture)
    assert three < largest / 3


def test_gray_counts_as_three_equal_channels() -> None:
    original, picture = PAIRS["gray"]
    colours = [np.repeat(image[..., None], 3, 2) for image in (original, picture)]
    assert butteraugli(original, picture) == butteraugli(*colours)


def test_tiles_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    original, picture = (np.tile(image, (2, 1, 1))[:-1, :-3] for image in PAIRS["little noise"])
    whole = butteraugli(original, picture)
    monkeypatch.setattr(difference, "TILE", 90)
    assert butteraugli(original, picture) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 30), (30, 5)])
def test_a_picture_too_small_for_the_definition_is_continued(height: int, width: int) -> None:
    original = waves(height, width)
    picture = noisy(original, 9)
    lacks = [max(0, 8 - side) for side in (height, width)]
    around = [(lack // 2, lack - lack // 2) for lack in lacks]
    continued = [tensor(np.pad(image, [*around, (0, 0)], "edge")) for image in (original, picture)]
    top, left = around[0][0], around[1][0]
    expected = difference_map(*continued)[:, top : top + height, left : left + width]
    assert torch.equal(difference_map(tensor(original), tensor(picture)), expected)
    assert butteraugli(original, picture) == pytest.approx((expected.max().item(), norm(expected).item()))


def test_two_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shapes"):
        butteraugli(waves(20, 20), waves(20, 21))


def test_norm_of_a_map() -> None:
    assert norm(torch.full((2, 5, 7), 1.5)).tolist() == pytest.approx([1.5, 1.5])
    assert norm(torch.zeros(2, 5, 7)).tolist() == [0, 0]
    tiny = torch.tensor([[[1e-6, 0.0]]])
    assert norm(tiny).item() == pytest.approx(1e-6 * sum(0.5 ** (1 / p) for p in (3, 6, 12)) / 3)


def test_pictures_of_a_batch_are_measured_each_on_its_own() -> None:
    pairs = [[tensor(image[:64, :80]) for image in PAIRS[name]] for name in ("little noise", "much noise", "moved")]
    together = three_norm(*(torch.cat(images) for images in zip(*pairs, strict=True)))
    assert together.tolist() == pytest.approx([three_norm(*pair).item() for pair in pairs], rel=1e-5)


@pytest.mark.parametrize("by", ["picture", "original"])
def test_gradients_are_those_of_the_function(by: str) -> None:
    generator = torch.Generator().manual_seed(0)
    original = 40 + 170 * torch.rand(2, 3, 18, 17, generator=generator, dtype=torch.float64)
    picture = original + 10 * torch.randn(original.shape, generator=generator, dtype=torch.float64)
    ahead = torch.randn(original.shape, generator=generator, dtype=torch.float64)
    to_original, to_picture = (ahead, 0 * ahead) if by == "original" else (0 * ahead, ahead)
    step = 1e-6
    forth, back = (three_norm(original + s * to_original, picture + s * to_picture) for s in (step, -step))
    slope = (forth - back) / (2 * step)
    x = (original if by == "original" else picture).requires_grad_()
    three_norm(original, picture).sum().backward()
    assert x.grad is not None
    assert (x.grad * ahead).flatten(1).sum(1).tolist() == pytest.approx(slope.tolist(), rel=1e-5)


def test_equal_pictures_have_no_slope() -> None:
    original = tensor(waves(32, 32))
    picture = original.clone().requires_grad_()
    three_norm(original, picture).sum().backward()
    assert picture.grad is not None
    assert not picture.grad.any()


def test_black_pictures_have_a_finite_slope() -> None:
    original = torch.zeros(1, 3, 32, 32)
    picture = original.clone().requires_grad_()
    three_norm(original + tensor(noisy(np.zeros((32, 32, 3), np.uint8), 2)), picture).sum().backward()
    assert picture.grad is not None
    assert torch.isfinite(picture.grad).all()


def test_gradients_follow_a_call_without() -> None:
    """What is kept from one call for the next is of use to both."""
    x = tensor(noisy(waves(41, 43), 5))
    with torch.inference_mode():
        three_norm(tensor(waves(41, 43)), x)
    x.requires_grad_()
    three_norm(tensor(waves(41, 43)), x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)


def kernels(step: lines.Step, begun: tuple[lines.Pixel, ...] = ((0, 0),)) -> Iterator[torch.Tensor]:
    """The lines that go on from there as kernels of a convolution, times the roots of their weights."""
    if step.weight:
        kernel = torch.zeros(1, 9, 9, dtype=torch.float64)
        for row, column in begun:
            kernel[0, 4 + row, 4 + column] = kernel[0, 4 - row, 4 - column] = step.weight**0.5
        yield kernel
    for pixel, longer in step.next.items():
        yield from kernels(longer, (*begun, pixel))


@pytest.mark.parametrize(("name", "expected"), [("FINE", 12), ("COARSE", 16)])
def test_sums_along_lines_are_convolutions(monkeypatch: pytest.MonkeyPatch, name: str, expected: int) -> None:
    monkeypatch.setattr(lines, "CHUNK", 500)
    tree = getattr(lines, name)
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(2, 3, 9, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    of_all = torch.stack(list(kernels(tree)))
    assert len(of_all) == expected
    by_convolution = F.conv2d(planes.view(6, 1, 9, 12), of_all, padding=4).square().sum(1).view(2, 3, 9, 12).sum(0)
    sums = lines.squared_sums(planes, tree)
    assert torch.allclose(sums, by_convolution)
    outer = torch.randn(sums.shape, generator=generator, dtype=torch.float64)
    slopes = [torch.autograd.grad(result, planes, outer)[0] for result in (sums, by_convolution)]
    assert torch.allclose(*slopes)
