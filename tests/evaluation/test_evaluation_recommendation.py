"""The quality that reaches a target, and what a file weighs in an archive."""

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbatch.codec import DEFAULT_QUALITY
from cnnbatch.evaluation.codecs import LOSSLESS, CodecSpec
from cnnbatch.evaluation.measurement import Measured, Row
from cnnbatch.evaluation.measurement_table import Measurements
from cnnbatch.evaluation.recommendation import Goal, GoalSearch, QualitySearch, kept_bytes, recommendation
from cnnbatch.evaluation.sampling import Stratum, stratify
from tests.evaluation.test_evaluation_sampling import listing

A = CodecSpec("a", "A", "1", (10.0, 50.0, 90.0))
CNN = CodecSpec("cnn", "cnnbatch", "1", (0.0, 63.0), highest=63, step=0.25)


@given(
    st.floats(20, 55),
    st.sampled_from([(0.0, 100.0, 1.0), (1.0, 100.0, 1.0), (0.0, 63.0, 0.25), (0.0, 7.0, 1.0)]),
    st.floats(0.3, 3),
)
def test_the_lowest_quality_that_reaches_the_target_is_found(
    target: float, scale: tuple[float, float, float], bend: float
) -> None:
    lowest, highest, step = scale

    def mean(quality: float) -> float:
        return 22 + 25 * ((quality - lowest) / (highest - lowest)) ** bend

    search = QualitySearch(target, lowest, highest, step)
    for _ in range(40):
        quality = search.next()
        if quality is None:
            break
        assert quality not in search.known
        assert lowest <= quality <= highest
        search.known[quality] = mean(quality)
    assert search.next() is None
    reaching = [q for q in (lowest + step * i for i in range(round((highest - lowest) / step) + 1)) if mean(q) >= target]
    assert search.answer == (reaching[0] if reaching else None)


def test_a_known_curve_makes_the_search_short() -> None:
    def mean(quality: float) -> float:
        return 25 + 6 * math.log2(1 + quality / 10)

    search = QualitySearch(36.0, 0, 100, 1, {quality: mean(quality) for quality in (8, 20, 40, 60, 75, 85, 92)})
    rounds = 0
    while (quality := search.next()) is not None:
        search.known[quality] = mean(quality)
        rounds += 1
    assert rounds <= 4
    assert (search.answer or 0) - 1 < 10 * (2 ** (11 / 6) - 1) <= (search.answer or 0)


def measurements(*rows: tuple[str, str, float, int, float]) -> pa.Table:
    found = Measurements()
    for key, codec, quality, num_bytes, psnr_db in rows:
        found.add(Measured(key, 1000, 900, (Row(codec, quality, num_bytes, psnr_db),), "png", 10, 10))
    return found.table()


def file(key: str, size: int = 1000) -> Measured:
    return Measured(key, size, 900, (), "png", 10, 10, side_bytes=7)


STRATA = stratify(listing({"x.png": 1000, "y.png": 1000}), sample=0)
FILES = {"x.png": file("x.png"), "y.png": file("y.png")}
POINTS = [(key, "a", q, n, db) for key in FILES for q, n, db in ((10.0, 100, 30.0), (50.0, 200, 35.0), (90.0, 400, 40.0))]


def test_the_choice_is_measured_at_its_quality() -> None:
    search = GoalSearch(Goal("psnr_db", 33.0), [A], measurements(*POINTS), frozenset(FILES))
    assert search.wanted() == {"a": 34.0}
    more = [(key, "a", 34.0, 160, 33.0) for key in FILES]
    search.learn(measurements(*POINTS, *more), {"a": 34.0})
    again = search.wanted()["a"]
    assert 10 < again < 34
    search.learn(measurements(*POINTS, *more, *[(key, "a", again, 150, 32.99) for key in FILES]), {"a": again})
    found = recommendation(Goal("psnr_db", 33.0), STRATA, FILES, search.choices(STRATA, FILES))
    [choice] = found.choices
    assert (choice.quality, choice.psnr_db) == (34.0, 33.0)
    assert choice.total is not None
    assert choice.total.bytes == 2 * (160 + 7)
    assert (found.source_bytes, found.transcoded.bytes, found.files, found.sampled) == (2000, 1800, 2, 2)


def test_a_target_beyond_a_codec_is_said() -> None:
    points = [*POINTS, *[(key, "a", 100.0, 900, 41.0) for key in FILES]]
    search = GoalSearch(Goal("psnr_db", 60.0), [A], measurements(*points), frozenset(FILES))
    search.learn(measurements(*points), {"a": 100.0})
    assert search.wanted() == {}
    [choice] = search.choices(STRATA, FILES)
    assert (choice.quality, choice.total) == (None, None)
    assert choice.reason == "no quality reaches 60; the highest gives 41"


def scores(*rows: tuple[str, float, int, float]) -> pa.Table:
    found = Measurements()
    for key, quality, num_bytes, score in rows:
        found.add(Measured(key, 1000, 900, (Row("a", quality, num_bytes, 30.0, ssimulacra2=score),), "png", 10, 10))
    return found.table()


def test_each_picture_gets_the_quality_that_it_needs() -> None:
    goal = Goal("ssimulacra2", 80.0, each=True, slack=0.5)
    rows = [("x.png", 10.0, 100, 60.0), ("x.png", 50.0, 200, 80.4), ("x.png", 90.0, 400, 90.0)]
    rows += [("y.png", 10.0, 100, 40.0), ("y.png", 50.0, 250, 70.0), ("y.png", 90.0, 500, 86.0)]
    search = GoalSearch(goal, [A], scores(*rows), frozenset(FILES))
    assert search.wanted() == {"a": {"y.png": 75.0}}  # 80.4 is near enough
    rows.append(("y.png", 75.0, 410, 79.6))
    search.learn(scores(*rows), search.wanted())
    assert search.wanted() == {}
    found = recommendation(goal, STRATA, FILES, search.choices(STRATA, FILES))
    [choice] = found.choices
    assert (choice.quality, choice.qualities, choice.out_of_reach) == (None, (50.0, 75.0), 0)
    assert choice.at == "qualities 50…75"
    assert choice.ssimulacra2 == pytest.approx(80.0)
    assert choice.total is not None
    assert choice.total.bytes == (200 + 7) + (410 + 7)
    assert (found.measure, found.target, found.each) == ("ssimulacra2", 80.0, True)


def test_a_picture_out_of_reach_is_kept_without_loss() -> None:
    goal = Goal("ssimulacra2", 80.0, each=True, slack=0.5)
    rows = [
        (key, q, n, s)
        for key, best in (("x.png", 80.0), ("y.png", 70.0))
        for q, n, s in ((90.0, 400, 60.0), (100.0, 500, best))
    ]
    search = GoalSearch(goal, [A], scores(*rows), frozenset(FILES))
    assert search.wanted() == {}
    [choice] = search.choices(STRATA, FILES)
    assert (choice.qualities, choice.out_of_reach) == ((100.0, 100.0), 1)
    assert choice.total is not None
    assert choice.total.bytes == (500 + 7) + 900
    [none] = GoalSearch(Goal("ssimulacra2", 95.0, each=True), [A], scores(*rows), frozenset(FILES)).choices(STRATA, FILES)
    assert (none.total, none.reason) == (None, "no picture reaches 95; the best gives 80")


def test_no_ms_ssim_is_said() -> None:
    search = GoalSearch(Goal("ms_ssim", 0.98), [A], measurements(*POINTS), frozenset(FILES))
    assert search.wanted() == {}
    assert "smaller than its window" in (search.choices(STRATA, FILES)[0].reason or "")


def test_a_picture_missing_at_a_quality_is_no_mean() -> None:
    search = GoalSearch(Goal("psnr_db", 33.0), [A], measurements(*POINTS), frozenset(FILES))
    search.learn(measurements(*POINTS, ("x.png", "a", 34.0, 160, 33.0)), {"a": 34.0})
    assert search.wanted() == {}
    [choice] = search.choices(STRATA, FILES)
    assert choice.quality == 50  # a quality that all were measured at still reaches the goal


def test_without_a_goal_ours_is_measured_at_its_usual_quality() -> None:
    table = measurements(*[(key, "cnn", DEFAULT_QUALITY, 120, 36.0) for key in FILES])
    search = GoalSearch(None, [A, CNN, CodecSpec("png", "PNG", "1", LOSSLESS)], table, frozenset(FILES))
    assert search.wanted() == {"cnn": DEFAULT_QUALITY}
    search.learn(table, {"cnn": DEFAULT_QUALITY})
    assert search.wanted() == {}
    assert [(c.codec, c.quality) for c in search.choices(STRATA, FILES)] == [("cnn", DEFAULT_QUALITY)]


@pytest.mark.parametrize(
    ("coded", "kept"),
    [(100, 107), (892, 899), (893, 900), (5000, 900), (None, 900)],
    ids=["much", "just", "equal", "more", "no"],
)
def test_what_would_not_shrink_is_kept_without_loss(coded: int | None, kept: int) -> None:
    assert kept_bytes(file("x"), coded) == kept


def test_strata_are_told() -> None:
    found = recommendation(None, STRATA, FILES, [])
    assert isinstance(STRATA[0], Stratum)
    assert [(s.format, s.files, s.sampled) for s in found.strata] == [("png", 2, 2)]
    assert (found.measure, found.target, found.choices) == (None, None, ())
    assert "bootstrap" in found.method
