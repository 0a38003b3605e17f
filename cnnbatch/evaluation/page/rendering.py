"""`EvaluationSummary` → HTML.

The template escapes everything that it prints, and the data for the script is JSON in which no ``<`` is left. A
Content-Security-Policy lets the page run the one script and the one style that were put into it, known by their sha256,
and lets it fetch nothing.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cnnbatch.evaluation.page import script_data, view, wording
from cnnbatch.evaluation.scales import SCALES
from cnnbatch.evaluation.summary import EvaluationSummary
from cnnbatch.text import visible
from cnnbatch.version import VERSION

SCRIPTS = ("dom.js", "scales.js", "chart.js", "curves.js", "pictures.js", "start.js")
"""In the order in which they build on each other; together one script."""


def render_page(summary: EvaluationSummary) -> str:
    """One HTML document, to be written as UTF-8. Its size is that of the examples' base64 and about 100 kB."""
    style, script = _style(), _script()
    return (
        _environment()
        .get_template("page.html")
        .render(
            summary=summary,
            version=VERSION,
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            data=script_data.for_script(summary),
            hero=view.hero(summary),
            bars=view.bars(summary.recommendation),
            matrices=view.matrices(summary),
            speeds=view.speed_rows(summary.curves),
            missed=view.missed(summary),
            measured=view.measured(summary.curves),
            digits={measure: scale.digits for measure, scale in SCALES.items()},
            figures=view.figures,
            asked_for=view.asked_for,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cnnbatch.evaluation.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    for name in ("weight", "share", "number", "quality", "speed", "moment"):
        environment.filters[name] = getattr(wording, name)
    return environment


@cache
def _style() -> str:
    return _asset("page.css")


@cache
def _script() -> str:
    return "'use strict';\n(() => {\n" + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"


def _asset(name: str) -> str:
    return files("cnnbatch.evaluation.page").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
