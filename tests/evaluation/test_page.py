"""The report page as text: what is in it, what is escaped, how large it is. `test_page_browser` opens it."""

import base64
import hashlib
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cnnbatch.evaluation.examples import MOST_EXAMPLES
from cnnbatch.evaluation.page import render_page, rendering, view, wording
from cnnbatch.evaluation.summary import BdRate, EvaluationSummary, Unmeasured
from cnnbatch.text import visible
from tests.evaluation import page_samples

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "cnnbatch/evaluation/page/assets"
PAGE_BYTES = 15_000_000


class Elements(HTMLParser):
    """Every element's name and attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in {"script", "style"}:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def text(self, tag: str, **attributes: str) -> list[str]:
        return [text for name, has, text in self.found if name == tag and attributes.items() <= has.items()]


@pytest.fixture(scope="module")
def summary() -> EvaluationSummary:
    return page_samples.summary()


@pytest.fixture(scope="module")
def page(summary: EvaluationSummary) -> str:
    return render_page(summary)


def test_a_page_with_24_pictures_has_at_most_15_mb(summary: EvaluationSummary, page: str) -> None:
    assert len(summary.examples) == MOST_EXAMPLES == 24
    assert 5_000_000 < len(page.encode()) <= PAGE_BYTES


def test_the_policy_names_the_one_script_and_the_one_style(page: str) -> None:
    elements = Elements(page)
    [policy] = [has["content"] or "" for tag, has, _ in elements.found if has.get("http-equiv") == "Content-Security-Policy"]
    [style] = elements.text("style")
    [script] = [text for tag, has, text in elements.found if tag == "script" and "type" not in has]
    for text, directive in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"; {directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("text", ["usual", "hostile"])
def test_nothing_in_the_page_refers_to_another_place_or_runs_by_an_attribute(page: str, text: str) -> None:
    elements = Elements(page if text == "usual" else render_page(page_samples.hostile()))
    names = {tag for tag, _, _ in elements.found}
    assert not names & {"img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes, _ in elements.found:
        assert not {"src", "style", "srcset", "action"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), tag


def test_the_data_for_the_script_cannot_end_its_element() -> None:
    elements = Elements(render_page(page_samples.hostile()))
    [data] = elements.text("script", id="data")
    assert not set("<>&'") & set(data)
    keys = [example["key"] for example in json.loads(data)["examples"]]
    assert keys == [visible(key) for key in page_samples.HOSTILE]
    assert len(elements.text("script")) == 2 + 4 * len(page_samples.HOSTILE)


def test_everything_that_the_page_is_made_of_is_installed_with_it() -> None:
    assert {path.name for path in ASSETS.iterdir()} == {*rendering.SCRIPTS, "page.css", "page.html"}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "cnnbatch.evaluation.page" in settings["packages"]
    assert settings["package-data"]["cnnbatch.evaluation.page"] == ["assets/*"]


def test_the_recommendation_comes_first(page: str) -> None:
    heading = page[page.index("<h1") : page.index("</h1>")]
    assert re.sub(r"<[^>]+>", "", heading).split() == ["1.24", "TB", "→", "310", "GB"]
    assert page.index("<h1") < page.index("<table") < page.index('<section id="curves"')


def test_each_way_has_its_bar_and_ours_stands_before_the_others(summary: EvaluationSummary) -> None:
    bars = view.bars(summary.recommendation)
    assert [bar.label for bar in bars] == ["As it is", "JPEGs transcoded without loss", "cnnbatch", "JPEG 4:4:4", "JPEG XL"]
    assert [bar.weight for bar in bars] == ["1.24\u00a0TB", "1.05\u00a0TB", "310\u00a0GB", "470\u00a0GB", "355\u00a0GB"]
    assert bars[2].interval == "288\u00a0GB – 332\u00a0GB"
    assert bars[2].low < bars[2].length == 25.0 < bars[2].high
    assert [bar.ours for bar in bars] == [False, False, True, False, False]


def test_a_target_that_ours_does_not_reach_is_said(summary: EvaluationSummary) -> None:
    advice = summary.recommendation
    assert advice is not None
    out_of_reach = advice.choices[0].model_copy(update={"quality": None, "total": None, "reason": "the highest gives 45.1"})
    page = render_page(summary.model_copy(update={"recommendation": advice.model_copy(update={"choices": (out_of_reach,)})}))
    assert "cnnbatch was not recommended: the highest gives 45.1." in page


def test_a_pair_without_a_bd_rate_has_a_footnote(summary: EvaluationSummary) -> None:
    rates = [
        BdRate(anchor="jpeg444", codec="cnn", measure="psnr_db", percent=-35.21, low=28.04, high=41.0),
        BdRate(anchor="cnn", codec="jpeg444", measure="psnr_db", percent=None, low=None, high=None, reason="no overlap"),
    ]
    [matrix] = view.matrices(summary.model_copy(update={"bd_rates": tuple(rates)}))
    assert (matrix.name, matrix.unit) == ("PSNR", "dB")
    (label, ours, [itself, cell]), (_, _, [other, _]) = matrix.rows
    assert (label, ours, itself) == ("cnnbatch", True, None)
    assert cell == view.Cell("−35.2 %", "28.0–41.0", "fewer3", None)
    assert other == view.Cell(wording.MISSING, "", "", 1)
    assert matrix.notes == ("no overlap",)


def test_thousands_of_unmeasured_images_are_counted_and_the_first_are_named(summary: EvaluationSummary) -> None:
    rows = tuple(Unmeasured(key=f"{n:05}.jpg", codec="webp" if n % 2 else None, stage="encode", error="x") for n in range(3000))
    missed = view.missed(summary.model_copy(update={"unmeasured": rows}))
    assert missed.counts == (("every codec, encode", 1500), ("webp, encode", 1500))
    assert (len(missed.rows), missed.more) == (view.MOST_MISSED, 3000 - view.MOST_MISSED)
    assert missed.rows[0].codec is None


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (99_949, "99.9 kB"), (999_500, "1.00 MB"), (1_240_000_000_000, "1.24 TB")],
)
def test_weights_have_three_digits(num_bytes: int, text: str) -> None:
    assert wording.weight(num_bytes) == text.replace(" ", "\u00a0")


def test_text_that_would_hide_or_turn_itself_is_written_out() -> None:
    assert visible("a\u202egpj.exe\x00\udcff") == "a\\u202egpj.exe\\x00\\udcff"
    assert visible("Ünïcode 猫 1\u00a0kB") == "Ünïcode 猫 1\u00a0kB"
