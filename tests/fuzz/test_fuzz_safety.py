"""No code in what is read, and no key that leads out of its folder."""

import ast
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbatch.errors import StorageError, UsageError
from cnnbatch.storage import is_safe_key, open_store

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "cnnbatch").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
RUN_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "torch.load", "torch.jit.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load",
         "yaml.full_load", "pd.read_pickle", "__import__"}  # fmt: skip
BETWEEN_OUR_PROCESSES = {"jobs/engine.py", "jobs/ray_tasks.py"}
"""Pickles there are made by the driver for its own workers and the reverse: they never come from a file."""

NASTY = [
    *(
        "..",
        "../x",
        "a/../../x",
        "/x",
        "//x",
        "a//b",
        "./a",
        "a/.",
        "~/x",
        "a/..",
        "",
        ".",
        "\\\\host\\x",
        "..\\x",
        "C:\\x",
        "C:x",
    ),
    *(
        "a\0b",
        "a\nb",
        "a\x1b[31m",
        "a\x7f",
        "a\x85b",
        "\u202etxt.exe",
        "CON",
        "nul.png",
        "aux/x",
        "a.",
        "a ",
        "LPT1",
        "a:stream",
    ),
    *(
        "n" * 256,
        "é" * 128,
        "/".join("d" * 600),
        "k" * 5000,
        "\udcff",
        f".cnnbatch-tmp-{'0' * 32}",
        f"a/.cnnbatch-tmp-{'f' * 32}/b",
        ".cnnbatch-tmp-holiday.png",
        "．．/x",
        "‥/x",
    ),
]


def name_of(node: ast.expr) -> str:
    return ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_can_run_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    if path.relative_to(ROOT).as_posix() not in BETWEEN_OUR_PROCESSES:
        assert not imported & RUN_CODE
    called = {name_of(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & CALLS
    assert not any(
        keyword.arg == "allow_pickle" for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords
    )


@pytest.mark.parametrize("key", NASTY)
def test_a_nasty_key_is_refused_or_written_below_the_root(key: str, tmp_path: Path) -> None:
    check_written_below(key, tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "/", "\\", "a", "é", "e\u0301", "\0", "x" * 250, "CON", "．"]), max_size=5))
def test_any_mixture_of_them_is_refused_or_written_below_the_root(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    check_written_below("/".join(parts), tmp_path_factory.mktemp("keys"))


def check_written_below(key: str, folder: Path) -> None:
    root = folder / "outer" / "root"
    root.mkdir(parents=True)
    store = open_store(str(root))
    try:
        store.put(key, b"x")
    except (UsageError, StorageError):
        assert not [path for path in folder.rglob("*") if path.is_file()]
        return
    [written] = [path for path in folder.rglob("*") if path.is_file()]
    assert written.is_relative_to(root)
    assert [info.key for info in store.list()] == [key]
    assert is_safe_key(key)


def test_two_spellings_of_one_name_stay_two_files(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")
    store = open_store(str(tmp_path))
    store.put(composed, b"1")
    store.put(decomposed, b"2")
    assert (store.read(composed), store.read(decomposed)) == (b"1", b"2")
    assert {info.key for info in store.list()} == {composed, decomposed}
