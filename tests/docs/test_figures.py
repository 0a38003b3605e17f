"""Figures in prose are those of the records that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = (ROOT / "benchmarks/results/rate_distortion_kodak.txt").read_text()


def fewer_bits(ours: str, other: str, unit: str) -> str:
    """What the record says that ``ours`` saves against ``other``, in percent as prose has it; a loss has no place there."""
    [found] = re.findall(rf"^BD-rate of {re.escape(ours)} against {other}: ([+-][\d.]+) % over .*\({unit}\)$", RECORD, re.M)
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
    record = (ROOT / "benchmarks/results/codec_speed_avx2.txt").read_text()
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \|$", readme, re.M)
    assert len(rows) == 5
    for name, *speeds in rows:
        [found] = re.findall(rf"^{re.escape(name.lower())} +[\d.]+ +([\d.]+) +[\d.]+ +([\d.]+) ", record.lower(), re.M)
        assert list(found) == speeds
    sentence = r"decodes at ([\d.]+) MP/s, a preview of an eighth of the size at ([\d.]+) "
    [(draft, preview)] = re.findall(sentence, readme.replace("\n", " "))
    assert f"our draft: {draft} MP/s" in record
    assert f"our scale 1/8: {preview} MP/s" in record
