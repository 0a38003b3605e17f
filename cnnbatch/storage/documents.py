"""JSON that others wrote."""

import json
import math
from typing import Any


def parse_json(data: str | bytes) -> Any:
    """The JSON value in ``data``: finite numbers only, and whatever is wrong with it is a ValueError."""
    try:
        return json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
