"""Text of others (keys, file names, what a store says) as it may reach a terminal, a log or a page."""

import io
from collections.abc import Iterable
from typing import TextIO

NO_BREAK_SPACE = "\u00a0"


def visible(text: str) -> str:
    """``text`` on one line, with control characters, bidirectional overrides and lone surrogates written out as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == NO_BREAK_SPACE else c.encode("unicode_escape").decode() for c in text)


def visible_lines(lines: Iterable[str]) -> str:
    """The lines, each `visible`; tabs between columns stay."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in lines)


def write_anything(*streams: TextIO) -> None:
    """Makes the streams write what their encoding has no bytes for as escapes: no result is lost over a ``→`` in its report."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
