"""A store in trouble: the job goes on, or ends in one sentence and in time; the same command then finishes the work."""

import re
from itertools import count
from pathlib import Path

import pytest

from cnnbatch.archive import open_archive
from cnnbatch.errors import DamagedRow
from tests.faults.conftest import IMPATIENT, PICTURES, Place
from tests.faults.proxy import Rule
from tests.stages.pictures import as_file, waves

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    "rule",
    [
        Rule("503 SlowDown", times=3, after=5),
        pytest.param(Rule("500", methods="GET", path="/source/", once_each=True), marks=pytest.mark.slow),
        Rule("truncated", methods="GET", path="/source/", once_each=True),
        Rule("flipped", methods="GET", path="/source/", once_each=True),
        pytest.param(Rule("truncated", methods="GET", path="/archive/", once_each=True), marks=pytest.mark.slow),
        pytest.param(Rule("lost-request", once_each=True), marks=pytest.mark.slow),
        Rule("lost-response", methods="PUT POST DELETE", once_each=True),
    ],
    ids=lambda rule: f"{rule.fault} {rule.path or 'anywhere'}",
)
def test_a_fault_that_passes_is_not_noticed(place: Place, rule: Rule) -> None:
    place.break_with(rule)
    ended = place.compress()
    assert place.proxy.faults
    assert ended.code == 0, ended.stderr
    assert ended.outcomes == {"cnn": len(PICTURES)}
    place.check_complete()


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        pytest.param(Rule("503 SlowDown", after=12), "overloaded", marks=pytest.mark.slow),
        (Rule("silence", after=12), "did not answer in time"),
        pytest.param(
            Rule("trickle", methods="GET", path="list-type|/source/"), "did not answer in time", marks=pytest.mark.slow
        ),
        pytest.param(Rule("lost-request", after=12), "cannot be reached|ended too early", marks=pytest.mark.slow),
        pytest.param(Rule("lost-response", methods="PUT", path="/data/"), "cannot write", marks=pytest.mark.slow),
        (Rule("503 SlowDown", methods="PUT", path="/_delta_log/", after=1), "cannot commit within 3 s .* overloaded"),
        pytest.param(Rule("403 InvalidAccessKeyId", after=15), "does not know the access key", marks=pytest.mark.slow),
        pytest.param(Rule("403 ExpiredToken", after=15), "have expired", marks=pytest.mark.slow),
        (Rule("403 AccessDenied", after=15), "do not permit"),
    ],
    ids=lambda part: f"{part.fault} {part.path}" if isinstance(part, Rule) else "",
)
def test_a_fault_that_stays_ends_in_a_sentence_and_nothing_is_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch, rule: Rule, sentence: str
) -> None:
    monkeypatch.setattr("cnnbatch.archive.log.COMMIT_SECONDS", 3.0)
    monkeypatch.setattr("cnnbatch.storage.s3_listing.SLOWEST_BODY", 4)
    monkeypatch.setattr("cnnbatch.storage.config.SLOWEST_BODY", 4)
    place.break_with(rule)
    ended = place.compress(*IMPATIENT)
    assert place.proxy.faults
    assert ended.code == 1
    last = ended.stderr.rstrip("\n").splitlines()[-1]
    assert re.search(f"^error: .*({sentence})", last)
    assert len(last) < 500
    place.settle()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("truncated", "truncated", marks=pytest.mark.slow),
        ("flipped", "checksum"),
        pytest.param("404", "vanished", marks=pytest.mark.slow),
        ("403", "forbidden"),
    ],
)
def test_an_object_that_stays_damaged_fails_alone_and_is_taken_later(place: Place, fault: str, reason: str) -> None:
    place.break_with(Rule(fault, methods="GET", path="/source/3/"))
    ended = place.compress()
    assert ended.code == 0, ended.stderr
    assert ended.outcomes == {"cnn": len(PICTURES) - 1, "failed": 1}
    assert [(failure["key"], failure["error"]) for failure in ended.report["failures"]] == [("3/picture.png", reason)]
    place.settle()


def test_a_source_that_changes_and_vanishes_in_the_middle(place: Place) -> None:
    """Between the listing and the read: one object is replaced, one is deleted, one comes too late for this run."""

    def change() -> None:
        place.source.put("2/picture.png", PICTURES["1/picture.png"])
        place.source.delete("4/picture.png")
        place.source.put("new.png", PICTURES["0/picture.png"])

    place.break_with(Rule("pass", methods="GET", path="/source/0/", times=1, then=change))
    ended = place.compress()
    assert ended.code == 0, ended.stderr
    assert {failure["key"]: failure["error"] for failure in ended.report["failures"]} == {
        "2/picture.png": "changed",
        "4/picture.png": "vanished",
    }
    assert ended.outcomes == {"cnn": 3, "failed": 2}
    place.settle()


@pytest.mark.slow
def test_a_bit_that_flips_while_a_changed_image_leaves_its_shard_damages_no_neighbour(place: Place) -> None:
    """Each read of the archive in turn: the old shard is written again without the changed image, and then swept."""
    place.compress()
    for after in count():
        place.source.put("0/picture.png", as_file(waves(48, 64 + after, seed=9)))
        place.proxy.faults.clear()
        place.break_with(Rule("flipped", methods="GET", path="/archive/data/", after=after, times=1))
        ended = place.compress()
        assert ended.code == 0, ended.stderr
        if not place.proxy.faults:
            break
        rows = list(open_archive(place.archive.url, place.bucket.config).rows())
        assert not [row for row in rows if isinstance(row, DamagedRow)]
        assert len(rows) == len(PICTURES)
    assert after >= 3
    place.check_complete()


def test_what_a_storm_interrupted_is_given_back_by_the_next_run(place: Place, tmp_path: Path) -> None:
    place.break_with()
    assert place.compress().code == 0
    words = (f"{place.bucket.url}/archive", str(tmp_path), f"storage.endpoint={place.proxy.endpoint}", *place.settings[:4])
    place.break_with(Rule("503 SlowDown", methods="GET", path="/data/"))
    ended = place.jobs.reconstruct(*words)
    assert ended.code == 1
    assert "error: " in ended.stderr
    place.break_with(Rule("flipped", methods="GET", path="/data/", once_each=True), Rule("503 SlowDown", times=2))
    ended = place.jobs.reconstruct(*words)
    assert ended.code == 0, ended.stderr
    assert {fault for fault, _, _ in place.proxy.faults} == {"flipped", "503 SlowDown"}
    assert len(list(tmp_path.rglob("picture.png"))) == len(PICTURES)
    place.break_with()
    assert place.jobs.reconstruct(*words).code == 0
