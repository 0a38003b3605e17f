"""The scale net is exact: float32 gives the integers, whatever the machine does inside."""

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.codec.codec_file import parse_codec
from cnnbatch.codec.runtime.onednn import cpu_has_int8, product_of_integers
from cnnbatch.codec.transforms.exact_layers import ExactLinear, ExactNet, indexes_of
from cnnbatch.codec.transforms.integer_kernels import ACTIVATION_MAX, ACTIVATION_UNIT, EXACT_LIMIT
from cnnbatch.codec.transforms.integer_layers import IntegerLinear, IntegerNet, Integers
from cnnbatch.errors import CodecFileError
from tests.codec.models import TINY, tiny_codec_file, tiny_model
from tests.codec.reference import scale_indexes

FILE = parse_codec(tiny_codec_file())
NET = ExactNet(FILE.model().scale_net)


@pytest.fixture
def threads() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def random_z(shape: tuple[int, ...], seed: int = 0, largest: int = 127) -> torch.Tensor:
    z = np.random.default_rng(seed).integers(-largest, largest + 1, (*shape, TINY.hyper_channels))
    return torch.from_numpy(z.astype(np.float32))


@torch.inference_mode()
def run(net: IntegerNet | ExactNet, z: torch.Tensor) -> torch.Tensor:
    return net(z)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 9, 127]), st.integers(0, 252), st.integers(0, 2**32))
def test_float32_gives_what_int64_gives(rows: int, columns: int, largest: int, step: int, seed: int) -> None:
    z = random_z((rows, columns), seed, largest)
    found = torch.floor(run(NET, z[None])[0] + 0.5).numpy() + FILE.arrays["scale_offset.table"][step]
    expected = scale_indexes(FILE.arrays, z.numpy().astype(np.int64), TINY.num_scales, step)
    assert (found.clip(0, TINY.num_scales - 1) == expected).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 16), (16, 16), (16, 40)])
def test_float32_gives_what_float64_gives(shape: tuple[int, int]) -> None:
    exact = ExactNet(FILE.model().scale_net.double())
    z = random_z((3, *shape))
    with torch.inference_mode():
        assert torch.equal(run(NET, z).double(), exact(z.double()))


def test_a_net_elsewhere_has_no_packed_weights() -> None:
    assert ExactLinear(FILE.model().scale_net.to("meta").enter)._packed is None


@pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no VNNI")
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (16, 16), (16, 40)])
def test_products_of_integers_give_what_float32_gives(shape: tuple[int, int]) -> None:
    packed = ExactNet(FILE.model().scale_net)
    for largest in (1, 127):
        z = random_z((3, *shape), largest=largest)
        patched = "cnnbatch.codec.transforms.exact_layers.product_of_integers"
        with mock.patch(patched, side_effect=product_of_integers) as product:
            found = run(packed, z)
        assert product.call_count == 5
        assert torch.equal(found, run(FILE.model().scale_net, z))


@pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no VNNI")
def test_the_largest_sums_are_exact() -> None:
    most = 512  # inputs, of the largest settings
    for unit, largest in ((1.0, 127.0), (ACTIVATION_UNIT, ACTIVATION_MAX)):
        layer = IntegerLinear(most, 2, input_unit=unit, input_max=largest)
        weight = torch.tensor([[127.0], [-127.0]]).expand(2, most)
        layer.take(Integers(weight, torch.tensor([3.0, 10.0]), torch.tensor([99.0, -99.0])))
        x = torch.full((1, 2, 2, most), largest)
        x[0, 0, 0, 0] = 0
        with torch.inference_mode():
            expected = layer.double()(x.double())
            assert torch.equal(ExactLinear(layer.float())(x).double(), expected)


@torch.inference_mode()
def test_scale_indexes_are_rounded_half_up_and_clamped() -> None:
    positions = torch.tensor([[-0.5, 1.5, 2.49], [2.0, -9.0, 70.0]]).reshape(1, 1, 2, 3)
    found = indexes_of(positions, torch.tensor([[0.0, 1.0, 2.0]]), 64)
    assert found.flatten().tolist() == [0, 3, 4, 2, 0, 63]
    assert torch.equal(found, indexes_of(positions.double(), torch.tensor([[0.0, 1.0, 2.0]]), 64))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (33, 17)])
def test_threads_and_batches_change_nothing(shape: tuple[int, int]) -> None:
    """Sizes from one vector to thousands take other paths in a BLAS."""
    z = random_z((7, *shape))
    together = run(NET, z)
    for count in (1, 2):
        torch.set_num_threads(count)
        assert torch.equal(run(NET, z), together)
        assert all(torch.equal(run(NET, z[n : n + 1])[0], together[n]) for n in range(len(z)))


def test_memory_layout_and_autocast_change_nothing() -> None:
    z = random_z((2, 5, 6))
    expected = run(NET, z)
    permuted = z.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(NET, permuted), expected)


def test_a_position_sees_only_its_neighbourhood() -> None:
    """Zero padding at the borders, and nothing from far away: a tile is self-contained."""
    z = random_z((1, 8, 8))
    changed = z.clone()
    changed[:, :, 4:] = 0
    a, b = run(NET, z), run(NET, changed)
    assert torch.equal(a[:, :, :13], b[:, :, :13])
    assert not torch.equal(a[:, :, 13:16], b[:, :, 13:16])


def test_the_trained_net_is_the_shipped_net() -> None:
    """Before the export (quantised on the fly) and after (integers of the file): the same outputs."""
    z = random_z((2, 6, 7))
    assert torch.equal(run(tiny_model().scale_net, z), run(NET, z))


def test_outputs_are_whole_numbers_of_the_unit_of_their_channel() -> None:
    units = 2.0 ** -FILE.arrays["scale_net.leave.shift"].astype(np.float64) / 16
    ratio = run(NET, random_z((1, 9, 9))).double().numpy() / units
    assert (ratio == np.round(ratio)).all()


@pytest.mark.parametrize("layer", ["enter", "block_32.depthwise", "block_16.pointwise", "leave"])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_net_that_breaks_the_bound_is_refused(layer: str, part: str) -> None:
    target = FILE.model().scale_net.get_submodule(layer)
    assert isinstance(target, IntegerLinear)
    integers = target.integers()
    getattr(integers, part)[0] = EXACT_LIMIT
    with pytest.raises(CodecFileError, match="not exact"):
        target.take(integers)


def test_a_trained_net_that_breaks_the_bound_is_refused() -> None:
    net = FILE.model().scale_net
    net.check_exact()
    with torch.no_grad():
        net.block_16.pointwise.bias[0] = EXACT_LIMIT
    with pytest.raises(CodecFileError, match="not exact"):
        net.check_exact()


def test_the_bound_is_sharp() -> None:
    """Σ|w|·a_max + |b| < 2²³ in units of the sums; the bias fills what the weights leave."""
    layer = IntegerLinear(4, 1, input_unit=1.0, input_max=127)
    room = EXACT_LIMIT // 2 - 4 * 127 * 127
    weight, shift = torch.full((1, 4), 127.0), torch.tensor([3.0])
    layer.take(Integers(weight, shift, torch.tensor([float(room - 1)])))
    layer.check_exact(layer.integers())
    with pytest.raises(CodecFileError, match="not exact"):
        layer.take(Integers(weight, shift, torch.tensor([float(room)])))


def test_a_layer_takes_over_what_another_one_holds() -> None:
    one, other = (IntegerLinear(5, 3, input_unit=ACTIVATION_UNIT, input_max=ACTIVATION_MAX) for _ in range(2))
    torch.nn.init.normal_(one.bias)
    other.take(one.integers())
    for a, b in zip(one.integers(), other.integers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shift", [0, 11, -1, 127])
def test_a_shift_outside_its_range_is_refused(shift: int) -> None:
    layer = IntegerLinear(2, 1, input_unit=1.0, input_max=127)
    with pytest.raises(ValueError, match="shifts outside"):
        layer.take(Integers(torch.ones(1, 2), torch.tensor([float(shift)]), torch.zeros(1)))
