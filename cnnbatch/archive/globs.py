"""Globs over keys, in which ``*`` crosses ``/``."""

import fnmatch
import re
from collections.abc import Callable

_FIRST_WILDCARD = re.compile(r"[*?\[]")


def matcher(pattern: str) -> Callable[[str], bool]:
    """Tells whether a key matches a glob."""
    match = re.compile(fnmatch.translate(pattern)).match
    return lambda key: match(key) is not None


def literal_prefix(pattern: str) -> str:
    """The beginning of every key that matches."""
    wildcard = _FIRST_WILDCARD.search(pattern)
    return pattern[: wildcard.start()] if wildcard else pattern
