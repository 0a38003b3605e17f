"""Names of a package that are imported when they are first used, so that a command pays only for what it needs (PEP 562).

    if TYPE_CHECKING:
        from cnnbatch.storage.urls import overlaps
    else:
        __getattr__ = lazily(__name__)

The imports for type checkers are the list: nothing else repeats which module has which name.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def lazily(package: str) -> Callable[[str], object]:
    """Makes the ``__getattr__`` of ``package``, for the names that it imports under ``if TYPE_CHECKING``."""
    modules: dict[str, str] = {}

    def get(name: str) -> object:
        if not modules:
            modules.update(_imports(Path(str(sys.modules[package].__file__)).read_text()))
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


def _imports(source: str) -> dict[str, str]:
    """The module of each name that is imported under ``if TYPE_CHECKING``."""
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [statement for node in blocks for statement in node.body if isinstance(statement, ast.ImportFrom)]
    return {alias.name: str(statement.module) for statement in imports for alias in statement.names}
