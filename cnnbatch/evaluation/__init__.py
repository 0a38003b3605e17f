"""Rate, distortion and speed of codecs side by side on anyone's pictures, without Ray; `jobs.evaluate` runs it."""

from importlib.util import find_spec

from cnnbatch.errors import UsageError

_LIBRARIES = {"scipy": "scipy", "pytorch_msssim": "pytorch-msssim"}
"""Module → package, without which nothing is measured. Others (matplotlib, scikit-learn) only leave a part out."""


def check_libraries() -> None:
    """Raises UsageError naming what has to be installed."""
    absent = [package for module, package in _LIBRARIES.items() if find_spec(module) is None]
    if absent:
        raise UsageError(f"an evaluation needs {', '.join(absent)}: pip install 'cnnbatch[evaluate]'")
