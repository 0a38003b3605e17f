"""The benchmark of the entropy coder measures what it says."""

import json

import numpy as np
import pytest

from benchmarks.entropy_coder import SCALES, TARGET_RATIO, draw, information, mass, measure, report, table


def test_size_over_entropy_is_just_above_one() -> None:
    """Two-sided: below one by more than the last words' rounding would mean that the entropy is wrong."""
    figures = measure(symbols=300_000, rounds=1)
    assert 1 <= figures.size_over_entropy <= TARGET_RATIO
    assert min(figures.encode_best, figures.decode_best) > 1e6


def test_the_information_of_symbols_is_that_of_their_distribution() -> None:
    assert sum(mass(k, 3.0) for k in range(-30, 0)) < 0.5
    assert mass(0, 3.0) + 2 * sum(mass(k, 3.0) for k in range(1, 40)) == pytest.approx(1)
    symbols, indexes = np.array([0, -2, 2], np.int16), np.array([5, 9, 9], np.uint8)
    expected = -np.log2([mass(0, SCALES[5]), mass(2, SCALES[9]), mass(2, SCALES[9])]).sum()
    assert information(symbols, indexes) == pytest.approx(expected)


def test_no_symbol_that_the_codec_leaves_out_is_counted() -> None:
    assert draw(10_000)[1].min() == 1


def test_the_report_is_json_and_the_table_names_the_hardware() -> None:
    figures = measure(symbols=2000, rounds=2)
    assert json.loads(json.dumps(report(figures)))["size_over_entropy"] == figures.size_over_entropy
    assert len(table(figures).splitlines()) == 4
    assert "cores" in table(figures).splitlines()[-1]
