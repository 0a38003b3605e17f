"""Packages that import their names when they are first used."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = ("cnnbatch.archive", "cnnbatch.images", "cnnbatch.images.lossless", "cnnbatch.storage")


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_are_there_and_no_others(package: str) -> None:
    module = import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


def test_nothing_is_imported_before_it_is_used() -> None:
    loaded = f"import sys, {', '.join(PACKAGES)}; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pyarrow", "torch", "PIL", "cnnbatch.archive.reader", "cnnbatch.storage.local"} & set(modules)


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_no_getattr_that_takes_any_name(package: str) -> None:
    parsed = ast.parse(inspect.getsource(import_module(package)))
    assert not any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__getattr__" for node in parsed.body)
