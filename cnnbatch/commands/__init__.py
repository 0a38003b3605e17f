"""The subcommands of ``cnnbatch``; their options are in `cnnbatch.cli`. Each is imported when it is run."""

import argparse
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "archives": ("info", "ls", "get"),
    "pictures": ("encode", "decode"),
    "upkeep": ("doctor", "erase", "compact", "restore-rows"),
}
"""Modules of this package, and the commands that each has a function for."""

COMMANDS: Final[Mapping[str, str]] = {name: module for module, names in MODULES.items() for name in names}


def command(name: str) -> Callable[[argparse.Namespace], None]:
    """The function that does what a command says."""
    module = import_module(f"{__name__}.{COMMANDS[name]}")
    function: Callable[[argparse.Namespace], None] = getattr(module, name.replace("-", "_"))
    return function
