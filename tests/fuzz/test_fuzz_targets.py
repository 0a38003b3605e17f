"""Whatever bytes a reader is given, it returns or raises an error of ours; the harness of the long runs finds what is planted.

``python -m tests.fuzz.run`` does the same a hundred thousand times; `results.txt` is what it printed.
"""

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutate
from tests.fuzz.run import TARGETS as NAMES
from tests.fuzz.run import Campaign
from tests.fuzz.targets import TARGETS

EXAMPLES = {
    "bitstream": 250,
    "entropy": 500,
    "codec_file": 40,
    "dense": 250,
    "dense_file": 40,
    "log": 60,
    "parquet": 200,
    "images": 600,
    "cnb": 200,
}
RESULTS = Path(__file__).with_name("results.txt")


@pytest.mark.parametrize("name", EXAMPLES)
def test_changed_inputs_do_no_harm(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    for data in seeds:
        target.run(data)

    @settings(max_examples=EXAMPLES[name], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    # Seeds are drawn by number: a failure is told with what was drawn, and codec files are long.
    @given(st.integers(0, len(seeds) - 1) | st.binary(max_size=200), st.integers(0, 2**32), st.booleans())
    def runs(start: int | bytes, seed: int, repaired: bool) -> None:
        rng = random.Random(seed)
        data = start if isinstance(start, bytes) else seeds[start]
        changed = mutate(rng, data, seeds, max_size=target.max_size)
        target.run(target.repair(changed, rng) if repaired else changed)

    runs()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_repaired_seed_is_still_sound(name: str) -> None:
    """Else what lies behind the checksums would never be reached."""
    target = TARGETS[name]
    for data in target.seeds():
        target.run(target.repair(data, random.Random(0)))
    if name in {"cnb", "entropy"}:
        assert all(target.repair(data, random.Random(0)) == data for data in target.seeds())


@pytest.mark.parametrize("path", sorted(Path(__file__).with_name("found").iterdir()), ids=lambda path: path.name)
def test_what_was_found_once_does_no_harm_any_more(path: Path) -> None:
    TARGETS[path.name.rpartition("-")[0]].run(path.read_bytes())


def test_the_harness_finds_exceptions_deaths_hangs_and_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    campaign = Campaign("planted", "random", 5, 1, tmp_path)  # the five seeds: sound, and four that are not
    line = campaign.run()
    assert campaign.deaths == {"crash": 1, "hang": 1}
    assert campaign.exceptions == 2
    assert re.search(r" 5 executions +3 crashes +1 hangs ", line)
    texts = [path.read_text() for path in tmp_path.glob("*.txt")]
    for word in ("ZeroDivisionError: planted", "memory rose by", "took over 2 s", "ended with -6"):
        assert any(word in text for text in texts)
    capfd.readouterr()


def test_every_target_has_a_name_on_the_command_line() -> None:
    assert set(NAMES) == set(TARGETS) == {*EXAMPLES, "planted"}


def test_the_committed_run_is_long_and_clean() -> None:
    lines = [line for line in RESULTS.read_text().splitlines() if " executions " in line]
    found = [re.findall(r"([\d,]+) (executions|crashes|hangs)", line) for line in lines]
    counts = [{word: int(number.replace(",", "")) for number, word in words} for words in found]
    assert sum(count["executions"] for count in counts) >= 10**6
    assert {(count["crashes"], count["hangs"]) for count in counts} == {(0, 0)}
    assert {line.split()[0] for line in lines} == set(EXAMPLES)
