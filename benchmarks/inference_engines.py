"""How fast inference engines compute the two transforms of the codec, against PyTorch as it is shipped.

Inputs are what the codec gives g_a and g_s for square pieces of photographs at one quality, a constant of the exported
graphs. Every engine has one thread, all take turns, and processor time counts, so that other programs matter less. int8:
the learned 1×1 layers, calibrated on every other photograph; the loss λ·MSE + bits per pixel, of real bitstreams of the
others, is with the engine in the place of that transform alone. An engine that is not installed or does not compile is
named and left out (`pip install 'cnnbatch[engines]'`).

    python -m benchmarks.inference_engines [--side 512] [--rounds 9] [--quality 32] [--engines eager,openvino]
"""

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.codec_speed import sample_photographs
from benchmarks.hardware import hardware
from cnnbatch.codec import DEFAULT_QUALITY, Codec
from cnnbatch.codec.adaptive_filter.filtering import filtered
from cnnbatch.codec.hyperprior.coder import HyperpriorCoder
from cnnbatch.codec.runtime.cpu import cpu_has_bf16
from cnnbatch.codec.runtime.process import dedicate_process

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
Run = Callable[[Array], Array]
Name = Literal["g_a", "g_s"]

TRANSFORMS: tuple[Name, ...] = ("g_a", "g_s")

PIECES = 2
"""Pieces of a photograph, at most, in each direction."""

OPERATORS = 6
"""Operators of eager that the profile names."""

NOT_INT8 = (".*bypass.*", ".*filter.*")
"""Linear layers, whose products of hundreds of quantisation steps need more than eight bits."""


class AtQuality(nn.Module):
    """g_a or g_s at one quality."""

    def __init__(self, transform: nn.Module, quality: float) -> None:
        super().__init__()
        self.transform = transform
        self.quality: Tensor
        self.register_buffer("quality", torch.tensor([quality]))

    def forward(self, x: Tensor) -> Tensor:
        """As the transform itself, for one image."""
        result: Tensor = self.transform(x, self.quality)
        return result


@dataclass(frozen=True, slots=True)
class Work:
    """One transform and its inputs: those to measure with, and those to calibrate int8 with, all of one shape."""

    module: AtQuality
    inputs: Sequence[Array]
    calibration: Sequence[Array]
    bf16: bool
    """Whether the codec computes it in bf16 on this CPU."""


def eager(work: Work) -> Run:
    return _torch_run(work.module, bf16=work.bf16)


def compiled(work: Work) -> Run:
    options: dict[str, Any] = {"compile_threads": 1}  # by this process, so that its seconds are seen
    return _torch_run(torch.compile(work.module, dynamic=False, options=options), bf16=work.bf16)


def _torch_run(call: Callable[[Tensor], Tensor], *, bf16: bool) -> Run:
    def run(x: Array) -> Array:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            result: Array = call(torch.from_numpy(x)).float().numpy()
        return result

    return run


def onnx_runtime(work: Work) -> Run:
    import onnxruntime

    with _exportable():
        program = torch.onnx.export(work.module, (_example(work),), dynamo=True, verbose=False, input_names=["x"])
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    serialised = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"x": x})[0])


def openvino(work: Work) -> Run:
    return _openvino_run(_openvino_model(work))


def openvino_int8(work: Work) -> Run:
    model = _openvino_model(work)
    import nncf

    return _openvino_run(
        nncf.quantize(
            model,
            nncf.Dataset(list(work.calibration)),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(work.calibration),
            ignored_scope=nncf.IgnoredScope(patterns=list(NOT_INT8)),
        )
    )


def _openvino_model(work: Work) -> Any:
    os.environ.setdefault("CI", "true")  # elsewhere importing OpenVINO or NNCF sends what it is used for to its makers
    import openvino

    with _exportable():
        return openvino.convert_model(work.module, example_input=_example(work), input=[work.inputs[0].shape])


def _openvino_run(model: Any) -> Run:
    import openvino

    one_thread = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", one_thread).create_infer_request()
    return lambda x: np.asarray(request.infer([x], share_inputs=True, share_outputs=True)[0])


ENGINES: dict[str, Callable[[Work], Run]] = {
    "eager": eager,
    "compiled": compiled,
    "onnx runtime": onnx_runtime,
    "openvino": openvino,
    "openvino int8": openvino_int8,
}
"""The first is what the others are compared with."""


def _example(work: Work) -> Tensor:
    return torch.from_numpy(work.inputs[0])


@contextlib.contextmanager
def _exportable() -> Iterator[None]:
    """Two operators that ONNX or OpenVINO do not know, from ones that they do."""

    def copysign(magnitude: Tensor, sign: Tensor) -> Tensor:
        return torch.where(sign < 0, -magnitude, magnitude)

    def kron(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None, :, None] * b[None, :, None, :]).reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])

    with mock.patch.object(torch, "copysign", copysign), mock.patch.object(torch, "kron", kron):
        yield


@contextlib.contextmanager
def substituted(codec: Codec, transform: Name, run: Run) -> Iterator[None]:
    """Inside, the codec computes ``transform`` by ``run``, whatever the quality."""
    coder = coder_of(codec)
    synthesis = coder.decoder.synthesis

    def analysis(x: Tensor, quality: Tensor, *, bf16: bool) -> Tensor:
        return torch.from_numpy(run(x.numpy()).copy())

    def pixels(y_hat: Tensor, quality: Tensor, own: Tensor | None = None) -> Tensor:
        picture, step = torch.from_numpy(run(y_hat.numpy()).copy()), codec.file.settings.step(quality)
        return filtered(picture, synthesis.filter_weights(quality), step).add_(0.5).clamp_(0, 255).to(torch.uint8)

    analysed = mock.patch.object(coder.encoder, "analysis", analysis)
    with analysed if transform == "g_a" else mock.patch.object(synthesis, "pixels", pixels):
        yield


@dataclass(frozen=True, slots=True)
class Figures:
    """One engine in one transform."""

    transform: Name
    engine: str
    mp_per_cpu_s: float
    ratio: float
    """Its speed over eager's: median of the rounds' ratios."""
    largest_difference: float
    """From the transform in float32: of y in quantisation steps, of pixels in grey levels."""
    loss_change: float
    """Relative change of λ·MSE + bits per pixel."""
    preparing_cpu_s: float
    """Until its first result; less where inductor's cache has what it compiles."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The measurements, and the reasons for those that are missing."""

    figures: Sequence[Figures]
    left_out: dict[str, str]
    eager_shares: dict[Name, dict[str, float]]
    """Shares of eager's time in each transform: the operators that take most."""


def pieces(photographs: Sequence[Pixels], side: int) -> list[Pixels]:
    """Squares of ``side`` pixels, side by side from each photograph's upper left; none of one that is smaller."""
    return [
        np.ascontiguousarray(one[top : top + side, left : left + side])
        for one in photographs
        for top in range(0, min(one.shape[0], PIECES * side) - side + 1, side)
        for left in range(0, min(one.shape[1], PIECES * side) - side + 1, side)
    ]


def coder_of(codec: Codec) -> HyperpriorCoder:
    """Raises SystemExit for a codec file of another architecture."""
    if not isinstance(codec.coder, HyperpriorCoder):
        raise SystemExit("the codec file is not a hyperprior's")
    return codec.coder


def seen(codec: Codec, pictures: Sequence[Pixels], quality: float) -> dict[Name, list[Array]]:
    """The codec's inputs to each transform for each picture."""
    inputs: dict[Name, list[Array]] = {name: [] for name in TRANSFORMS}
    encoder, synthesis = coder_of(codec).encoder, coder_of(codec).decoder.synthesis

    def noting(transform: Name, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
            inputs[transform].append(x.numpy().copy())
            return function(x, *arguments, **options)

        return call

    analysis = mock.patch.object(encoder, "analysis", noting("g_a", encoder.analysis))
    with analysis, mock.patch.object(synthesis, "pixels", noting("g_s", synthesis.pixels)):
        for picture in pictures:
            codec.reconstruct(codec.compress([picture], quality))
    return inputs


def loss(codec: Codec, pictures: Sequence[Pixels], quality: float) -> float:
    """λ·MSE + bits per pixel, mean over the pictures, each coded alone."""
    lmbda = float(codec.file.settings.lmbda(torch.tensor(quality)))
    found = []
    for picture in pictures:
        [bitstream] = codec.compress([picture], quality)
        [decoded] = codec.reconstruct([bitstream])
        mse = float(np.square(decoded.astype(np.float64) - picture).mean())
        found.append(lmbda * mse + 8 * len(bitstream) / (picture.shape[0] * picture.shape[1]))
    return statistics.fmean(found)


def measure(
    codec: Codec,
    pictures: Sequence[Pixels],
    calibration: Sequence[Pixels],
    *,
    quality: float,
    rounds: int,
    names: Sequence[str],
) -> Outcome:
    """Every engine of ``names``, eager among them, in both transforms; all pictures have one shape."""
    inputs, others = seen(codec, pictures, quality), seen(codec, calibration, quality)
    before = loss(codec, pictures, quality)
    figures: list[Figures] = []
    left_out: dict[str, str] = {}
    shares: dict[Name, dict[str, float]] = {}
    for transform in TRANSFORMS:
        module = AtQuality(getattr(codec.file.model(), transform), quality).eval()  # in floats
        work = Work(module, inputs[transform], others[transform], bf16=transform == "g_a" and cpu_has_bf16())
        runs, preparing = _prepared(work, names, left_out)
        seconds = _processor_seconds(runs, work.inputs, rounds)
        shares[transform] = _shares(runs["eager"], work.inputs)
        for name, run in runs.items():
            with substituted(codec, transform, run):
                change = loss(codec, pictures, quality) / before - 1
            speed = pictures[0].shape[0] * pictures[0].shape[1] / 1e6 / statistics.median(seconds[name])
            ratio = statistics.median(e / s for e, s in zip(seconds["eager"], seconds[name], strict=True))
            figures.append(Figures(transform, name, speed, ratio, _difference(work, run), change, preparing[name]))
    return Outcome(figures, left_out, shares)


def _difference(work: Work, run: Run) -> float:
    exact = _torch_run(work.module, bf16=False)
    return max(float(np.abs(run(x) - exact(x)).max()) for x in work.inputs)


def _prepared(work: Work, names: Sequence[str], left_out: dict[str, str]) -> tuple[dict[str, Run], dict[str, float]]:
    """Engines that have run once, and the processor seconds that it took; adds to ``left_out``."""
    runs: dict[str, Run] = {}
    seconds: dict[str, float] = {}
    for name in names:
        begin = _seconds_with_compilers()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # where engines report their progress
                run = ENGINES[name](work)
                run(work.inputs[0])
        except (ImportError, RuntimeError) as error:
            left_out[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.100}"
            continue
        runs[name], seconds[name] = run, _seconds_with_compilers() - begin
    return runs, seconds


def _seconds_with_compilers() -> float:
    """Processor seconds of this process and of those that it has started and that are done."""
    return sum(os.times()[:4])


def _processor_seconds(runs: dict[str, Run], inputs: Sequence[Array], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each engine for one input, a number for every round and input; the engines take turns at each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for x in [*inputs] * rounds:
        for name, run in runs.items():
            begin = time.process_time()
            run(x)
            seconds[name].append(time.process_time() - begin)
    return seconds


def _shares(run: Run, inputs: Sequence[Array]) -> dict[str, float]:
    """Torch's operators → share of the time, the `OPERATORS` that take most."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for x in inputs:
            run(x)
    found = {one.key: float(one.self_cpu_time_total) for one in profile.key_averages()}
    most = sorted(found, key=lambda key: -found[key])[:OPERATORS]
    return {key: found[key] / sum(found.values()) for key in most}


def together(figures: Sequence[Figures]) -> dict[str, float]:
    """Engine → its speed over eager's for both transforms, one after the other."""
    seconds: dict[str, list[float]] = {}
    for one in figures:
        seconds.setdefault(one.engine, []).append(1 / one.mp_per_cpu_s)
    whole = {name: sum(both) for name, both in seconds.items() if len(both) == len(TRANSFORMS)}
    return {name: whole["eager"] / both for name, both in whole.items()}


def table(outcome: Outcome) -> str:
    header = "transform  engine         MP/CPU s  ÷ eager  largest difference     loss  preparing CPU s"
    lines = [
        f"{one.transform:<10} {one.engine:<13} {one.mp_per_cpu_s:9.2f} {one.ratio:8.2f} {one.largest_difference:19.2g} "
        f"{100 * one.loss_change:+7.3f}% {one.preparing_cpu_s:16.1f}"
        for one in outcome.figures
    ]
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in together(outcome.figures).items())
    left_out = [f"left out: {name} ({reason})" for name, reason in outcome.left_out.items()]
    profile = [
        f"eager {name}: "
        + ", ".join(f"{operator.removeprefix('aten::')} {100 * share:.0f} %" for operator, share in most.items())
        for name, most in outcome.eager_shares.items()
    ]
    return "\n".join([header, *lines, f"both transforms ÷ eager: {ratios}", *profile, *left_out])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="of the pieces in pixels, a multiple of 64 (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="passes over the pieces; medians count (default %(default)s)")
    parser.add_argument("--quality", type=float, default=DEFAULT_QUALITY)
    parser.add_argument("--engines", default=",".join(ENGINES), help="separated by commas (default %(default)s)")
    parser.add_argument("--codec", help="another codec file")
    options = parser.parse_args(argv)
    chosen = [name for name in ENGINES if name == "eager" or name in options.engines.split(",")]
    if unknown := set(options.engines.split(",")) - set(ENGINES):
        parser.error(f"no engine {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    dedicate_process()
    photographs = sample_photographs()
    calibration, pictures = (pieces(some, options.side) for some in (photographs[::2], photographs[1::2]))
    if not (calibration and pictures):
        parser.error(f"no photographs of {options.side} × {options.side} pixels")
    codec = Codec.load(options.codec, device="cpu")
    outcome = measure(codec, pictures, calibration, quality=options.quality, rounds=options.rounds, names=chosen)
    print(f"{len(pictures)} pieces of {options.side} × {options.side} pixels, quality {options.quality:g}, one thread")
    print(table(outcome))
    print(*hardware().values(), sep="; ")


if __name__ == "__main__":
    main()
