"""What the long runs of the kill harness printed: enough kills, and nothing lost."""

import re
from pathlib import Path

RESULTS = Path(__file__).with_name("results.txt")
LEAST_KILLS = 300
TARGETS = {"step", "power", "process", "race", "store", "driver", "worker", "node"}


def test_the_long_runs_killed_enough_and_lost_nothing() -> None:
    """A row: target, store, kills, rows lost, keys doubled, files unreadable, other faults …"""
    rows = re.findall(r"^(\w+) +(local|s3) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) ", RESULTS.read_text(), re.MULTILINE)
    kills = {target: sum(int(row[2]) for row in rows if row[0] == target) for target in {row[0] for row in rows}}
    assert kills.keys() == TARGETS
    assert all(kills.values())
    assert sum(kills.values()) >= LEAST_KILLS
    assert {row[1] for row in rows} == {"local", "s3"}
    for row in rows:
        assert row[3:] == ("0", "0", "0", "0"), row
