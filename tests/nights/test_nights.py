"""Nights in a row end with archive = source, whatever was killed on the way; see `tests.nights.simulation`."""

from pathlib import Path

import pytest

from tests.nights.simulation import simulate

MOST_LOG_FILES = 150
"""Of a week, after which entries go: at most 12 commits a night and their checkpoints."""


def test_four_nights_with_kills_and_a_codec_upgrade(tmp_path: Path) -> None:
    seen = simulate(tmp_path, 4, seed=1)
    assert sum(night.kills for night in seen) > 0
    assert seen[0].images > seen[0].shards > 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_nights(tmp_path: Path) -> None:
    seen = simulate(tmp_path, 50, seed=0, ray_every=10)
    assert sum(night.kills for night in seen) > 20
    assert max(night.log_files for night in seen) < MOST_LOG_FILES
    assert max(night.shards for night in seen) < 40
    assert max(night.files for night in seen) < 100
    assert seen[-1].codecs == 1
