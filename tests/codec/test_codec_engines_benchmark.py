"""The comparison of inference engines, with the one that is always there, one that is not, and one that computes wrongly."""

from functools import cache

import numpy as np
import pytest

from benchmarks import inference_engines
from benchmarks.inference_engines import Array, Figures, Outcome, Run, Work
from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.runtime.cpu import cpu_has_bf16
from cnnbatch.training.int8_calibration import calibrate_int8
from tests.codec.models import picture, tiny_model


@cache
def fitted_codec() -> Codec:
    model = tiny_model()
    calibrate_int8(model, [picture(128, 192, seed=n) for n in range(6)])
    return Codec(dump_codec(model, training={}), device="cpu")


def measured(*names: str) -> Outcome:
    codec = fitted_codec()
    pictures = [picture(64, 64, seed=seed) for seed in range(2)]
    return inference_engines.measure(codec, pictures, pictures[:1], quality=32, rounds=1, names=names)


def test_eager_is_what_the_codec_computes() -> None:
    outcome = measured("eager")
    assert [one.transform for one in outcome.figures] == ["g_a", "g_s"]
    for one in outcome.figures:
        assert (one.engine, one.ratio) == ("eager", 1)
        assert one.loss_change == pytest.approx(0, abs=1e-3 if one.transform == "g_a" else 0.01)  # decoders round g_s
        assert one.largest_difference < (1 if cpu_has_bf16() else 1e-6)
        assert one.mp_per_cpu_s > 0
    assert not outcome.left_out
    assert all(0.3 < sum(shares.values()) <= 1 for shares in outcome.eager_shares.values())


def test_an_engine_that_is_missing_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(work: Work) -> Run:
        raise ImportError("No module named 'elsewhere'\nand more")

    monkeypatch.setitem(inference_engines.ENGINES, "elsewhere", missing)
    outcome = measured("eager", "elsewhere")
    assert {one.engine for one in outcome.figures} == {"eager"}
    printed = inference_engines.table(outcome)
    assert printed.endswith("left out: elsewhere (ImportError: No module named 'elsewhere')")


def test_an_inexact_engine_is_seen_in_difference_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(work: Work) -> Run:
        exact = inference_engines.eager(work)

        def run(x: Array) -> Array:
            return np.asarray(exact(x) + 3)

        return run

    monkeypatch.setitem(inference_engines.ENGINES, "off", off)
    for one in measured("eager", "off").figures:
        if one.engine == "off":
            assert one.largest_difference == pytest.approx(3, abs=0.5)
            assert one.loss_change > 0.01


def test_both_transforms_together_are_weighed_by_their_seconds() -> None:
    def figures(transform: inference_engines.Name, engine: str, speed: float) -> Figures:
        return Figures(transform, engine, speed, 1, 0, 0, 0)

    found = [figures("g_a", "eager", 2), figures("g_s", "eager", 1), figures("g_a", "fast", 2), figures("g_s", "fast", 2)]
    found.append(figures("g_a", "half", 9))
    assert inference_engines.together(found) == {"eager": 1, "fast": 1.5}


def test_the_command_measures_sample_photographs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(inference_engines, "dedicate_process", lambda: None)
    inference_engines.main(["--side", "64", "--rounds", "1", "--engines", "eager"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 pieces of 64 × 64 pixels, quality 40, one thread"
    assert [line.split()[:2] for line in lines[2:4]] == [["g_a", "eager"], ["g_s", "eager"]]
    assert lines[4] == "both transforms ÷ eager: eager 1.00"


@pytest.mark.parametrize(
    ("arguments", "message"), [("--engines=abacus", "no engine abacus"), ("--side=4096", "no photographs")]
)
def test_nothing_to_measure_is_said(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inference_engines, "dedicate_process", lambda: None)
    with pytest.raises(SystemExit):
        inference_engines.main([arguments])
    assert message in capsys.readouterr().err
