"""Names of a package that are imported when they are first used, so that a command pays only for what it needs (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """Makes the ``__getattr__`` of ``package``: ``places`` gives the names that each of its submodules has, in one string."""
    modules = {name: f"{package}.{submodule}" for submodule, names in places.items() for name in names.split()}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
