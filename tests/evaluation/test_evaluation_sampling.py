"""The sample has every format and size, and its interval holds the true total about as often as it says."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from cnnbatch.evaluation.sampling import Stratum, estimate, learning_order, named_format, stratify
from cnnbatch.storage.columns import LISTING_SCHEMA


def listing(sizes: dict[str, int]) -> pa.Table:
    rows = [{"key": key, "size": size, "etag": None, "mtime": None} for key, size in sizes.items()]
    return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)


def source(seed: int = 0, files: int = 600) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    suffixes = rng.choice(["jpg", "png", "txt"], files, p=[0.8, 0.18, 0.02])
    return {f"{number:04}.{suffix}": int(rng.lognormal(12, 1)) for number, suffix in enumerate(suffixes)}


def result(key: str, size: int) -> int:
    """What a file becomes: a share of it that differs by format and from file to file."""
    share = {"jpg": 0.4, "png": 0.15, "txt": 1.0}[key[-3:]]
    return round(size * share * (0.7 + 0.6 * (int(key[:4]) * 37 % 97) / 97))


def test_every_file_is_in_one_stratum_and_every_format_is_sampled() -> None:
    sizes = source()
    strata = stratify(listing(sizes), sample=60)
    assert sum(len(stratum.sizes) for stratum in strata) == len(sizes)
    assert sum(stratum.num_bytes for stratum in strata) == sum(sizes.values())
    assert {stratum.format for stratum in strata} == {"jpeg", "png", "other"}
    assert all(len(stratum.sample) >= 5 for stratum in strata)
    drawn = [info for stratum in strata for info in stratum.sample]
    assert 55 <= len(drawn) <= 70
    assert all(sizes[info.key] == info.size for info in drawn)
    assert len({info.key for info in drawn}) == len(drawn)
    jpegs = [stratum for stratum in strata if stratum.format == "jpeg"]
    assert len(jpegs) == 4
    assert all(a.sizes.max() <= b.sizes.min() for a, b in itertools.pairwise(jpegs))


def test_the_same_seed_draws_the_same_files_and_another_draws_others() -> None:
    table = listing(source())

    def keys(seed: int) -> list[str]:
        return [info.key for stratum in stratify(table, sample=50, seed=seed) for info in stratum.sample]

    assert keys(1) == keys(1) != keys(2)


def test_codecs_learn_from_files_of_every_size_that_are_not_in_the_sample() -> None:
    sizes = source(files=600)
    strata = stratify(listing(sizes), sample=60)
    sampled = {info.key for stratum in strata for info in stratum.sample}
    order = [info.key for info in learning_order(listing(sizes), strata)]
    assert sorted(order) == sorted(sizes.keys() - sampled)
    first = [sizes[key] for key in order[:24]]
    smaller = np.searchsorted(np.sort(list(sizes.values())), first) / len(sizes)
    assert 0.3 < smaller.mean() < 0.7
    assert {key.rpartition(".")[2] for key in order[:24]} >= {"jpg", "png"}
    assert len(learning_order(listing(sizes), strata, most=24)) == 24
    whole = stratify(listing(sizes), sample=0)
    assert len(learning_order(listing(sizes), whole)) == len(sizes)  # there are no others


@pytest.mark.parametrize("sample", [0, 7, 100])
def test_few_files_or_no_limit_take_all(sample: int) -> None:
    sizes = source(files=7)
    strata = stratify(listing(sizes), sample=sample)
    assert sorted(info.key for stratum in strata for info in stratum.sample) == sorted(sizes)


def test_a_source_measured_whole_has_its_exact_total() -> None:
    sizes = source(files=40)
    found = estimate(stratify(listing(sizes), sample=0), lambda info: result(info.key, info.size))
    truth = sum(result(key, size) for key, size in sizes.items())
    assert found.bytes == found.low_bytes == found.high_bytes == truth


@pytest.mark.parametrize(("sample", "least", "widest"), [(20, 0.88, 0.8), (60, 0.9, 0.4)])
def test_the_interval_holds_the_true_total_about_as_often_as_it_says(sample: int, least: float, widest: float) -> None:
    sizes = source(3)
    rng = np.random.default_rng(5)
    after = {key: round(size * rng.uniform(0.1, 0.9)) for key, size in sizes.items()}
    truth, table, held, widths = sum(after.values()), listing(sizes), 0, []
    for seed in range(100):
        found = estimate(stratify(table, sample=sample, seed=seed), lambda info: after[info.key], seed=seed)
        held += found.low_bytes <= truth <= found.high_bytes
        widths.append((found.high_bytes - found.low_bytes) / truth)
    assert least <= held / 100 <= 1
    assert 0.02 < np.mean(widths) < widest


def test_empty_files_weigh_nothing() -> None:
    found = estimate(stratify(listing({"a.jpg": 0, "b.jpg": 0}), sample=0), lambda info: 0)
    assert (found.bytes, found.low_bytes, found.high_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    ("key", "name"),
    [("a/b.JPG", "jpeg"), ("x.tif", "tiff"), ("x.webp", "webp"), ("x", "other"), (".png", "other"), ("x.docx", "other")],
)
def test_the_format_is_what_the_name_says(key: str, name: str) -> None:
    assert named_format(key) == name


def test_a_stratum_says_what_it_is() -> None:
    strata = stratify(listing({"a.png": 5, "b.png": 9}), sample=1)
    [summary] = [stratum.summary() for stratum in strata]
    assert isinstance(strata[0], Stratum)
    assert summary.model_dump() == {
        "format": "png", "smallest_bytes": 5, "largest_bytes": 9, "files": 2, "bytes": 14, "sampled": 2,
    }  # fmt: skip
