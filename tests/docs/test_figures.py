"""Figures in prose are those of the records in `benchmarks/results` that they name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks/results"
KODAK: Final = (RESULTS / "rate_distortion_kodak.txt").read_text()
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HISTORY: Final = {"decisions.md", "superseded.md", "experiments.md"}
"""Pages of figures that were measured once and are not measured again."""

UNITS: Final = (1, 1e3, 1e6, 1e9, 2**10, 2**20, 2**30)
NOT_MEASURED: Final = {"3.11"}
DERIVED: Final = {
    "docs/fashion_mnist.md": {"1.6": "25.04 - 23.40", "2.1": "25.04 - 22.98", "0.9": "22.67 - 21.79"},
    "docs/scale.md": {
        "1,431": "1101.5 + 135.7 + 193.1 + 0.3",
        "1,385": "1071.9 + 129.2 + 183.2 + 0.3",
    },
    "docs/evaluate.md": {"1.4": "16.8 - 15.4", "0.006": "0.0056"},
}
"""Figures that are computed from figures of the records."""


def sections(page: Path) -> Iterator[str]:
    """The text below each heading, without code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    yield from re.split(r"^#+ ", text, flags=re.M)


def figures(text: str) -> list[str]:
    """Numbers with a decimal point, and large ones with commas, outside of code."""
    plain = re.sub(r"`[^`]*`", "", text)
    return re.findall(r"(?<![\w.,/-])\d{1,3}(?:,\d{3})+(?![\w,])|(?<![\w.,/-])\d+\.\d+(?!\.?\w)", plain)


def number(figure: str) -> float:
    return float(figure.replace(",", ""))


def is_in(figure: str, measured: set[float]) -> bool:
    """Whether a measured number, in some unit, is rounded to ``figure``."""
    decimals = len(figure.partition(".")[2])
    return any(round(one / unit, decimals) == number(figure) for one in measured for unit in UNITS)


NAMING: Final = [
    (page.relative_to(ROOT).as_posix(), section)
    for page in PAGES
    if page.name not in HISTORY
    for section in sections(page)
    if "benchmarks/results/" in section and figures(section)
]


@pytest.mark.parametrize(("page", "section"), NAMING, ids=[f"{page}: {section.split(chr(10))[0]}" for page, section in NAMING])
def test_figures_are_those_of_the_records_that_their_section_names(page: str, section: str) -> None:
    names = re.findall(r"benchmarks/results/([\w.-]+\.txt)", section)
    records = "\n".join((RESULTS / name).read_text() for name in names)
    measured = {number(found) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", records)}
    stated = set(figures(section)) - NOT_MEASURED
    derived = [expression for figure, expression in DERIVED.get(page, {}).items() if figure in stated]
    assert {float(part) for expression in derived for part in re.findall(r"[\d.]+", expression)} <= measured
    computed = {eval(expression) for expression in derived}
    assert {one for one in stated if not is_in(one, measured | computed)} == set()


def fewer_bits(ours: str, other: str, unit: str) -> str:
    """What the record says that ``ours`` saves against ``other``, in percent as prose has it; a loss has no place there."""
    [found] = re.findall(rf"^BD-rate of {re.escape(ours)} against {other}: ([+-][\d.]+) % over .*\({unit}\)$", KODAK, re.M)
    assert found.startswith("-")
    return str(found[1:])


@pytest.mark.parametrize(
    ("ours", "unit", "start"), [("cnn", "points", "At equal SSIMULACRA2"), ("cnn:psnr", "dB", "at equal PSNR")]
)
def test_the_savings_in_readme_are_those_of_the_record(ours: str, unit: str, start: str) -> None:
    readme = (ROOT / "README.md").read_text()
    sentence = re.split(r"\. |\(BD-rate", readme[readme.index(start) :].replace("\n", " "), maxsplit=1)[0]
    expected = [fewer_bits(ours, other, unit) for other in ("jpeg444", "webp", "jxl", "avif")]
    assert re.findall(r"\d+\.\d", sentence) == expected


def test_the_speeds_in_readme_are_those_of_the_record() -> None:
    readme = (ROOT / "README.md").read_text()
    record = (RESULTS / "codec_speed_avx2.txt").read_text()
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \|$", readme, re.M)
    assert len(rows) == 5
    for name, *speeds in rows:
        [found] = re.findall(rf"^{re.escape(name.lower())} +[\d.]+ +([\d.]+) +[\d.]+ +([\d.]+) ", record.lower(), re.M)
        assert list(found) == speeds
    sentence = r"decodes at ([\d.]+) MP/s, a preview of an eighth of the size at ([\d.]+) "
    [(draft, preview)] = re.findall(sentence, readme.replace("\n", " "))
    assert f"our draft: {draft} MP/s" in record
    assert f"our scale 1/8: {preview} MP/s" in record


def test_what_the_qualities_look_like_is_what_was_measured() -> None:
    """SSIMULACRA2 at each quality, between those of the record, to two points."""
    points = KODAK[KODAK.index("bits per pixel and SSIMULACRA2") :]
    [line] = re.findall(r"^cnnbatch  +(.*)$", points, re.M)[:1]
    scores = [float(score) for score in line.split()[1::2]]
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", (ROOT / "docs/quality.md").read_text(), re.M)
    assert len(rows) == 5
    for quality, score in rows:
        assert abs(np.interp(float(quality), np.linspace(0, 63, len(scores)), scores) - float(score)) <= 2
