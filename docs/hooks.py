"""MkDocs hooks: fill the reference of commands from the parsers themselves, so that it cannot go stale."""

import argparse
from collections.abc import Iterator

from cnnbatch.command_options import command_parser

PLACE = "<!-- commands -->"
WIDTH = 96


def on_page_markdown(markdown: str, **_: object) -> str:
    """Puts the help of every command in the place that the page of commands has for it."""
    return markdown.replace(PLACE, "\n".join(_commands(command_parser(), "cnnbatch"))) if PLACE in markdown else markdown


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    """A heading and the help of ``parser``, then those of its subcommands."""
    parser.prog = name
    parser.formatter_class = _formatter(parser)
    yield f"## `{name}`\n\n```text\n{parser.format_help().rstrip()}\n```\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from _commands(below, f"{name} {word}")


def _formatter(parser: argparse.ArgumentParser) -> type[argparse.HelpFormatter]:
    base = parser.formatter_class

    class Wide(base):  # type: ignore[misc, valid-type]
        def __init__(self, prog: str) -> None:
            super().__init__(prog, width=WIDTH)

    return Wide
