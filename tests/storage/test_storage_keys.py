"""Keys and URLs: nothing leaves its root, and a source inside an archive is found."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbatch.errors import UsageError
from cnnbatch.storage import is_safe_key, overlaps, safe_join

NASTY = st.sampled_from(["..", ".", "", "/", "\\", "\0", "\n", "C:", "c:\\x", "a", "é", "~", "\udcff", "x" * 300, "\x85"])
ROOT = Path("/srv/some/root")


@given(st.one_of(st.text(), st.lists(NASTY, max_size=6).map("/".join), st.lists(NASTY, max_size=6).map("".join)))
def test_a_key_is_refused_or_stays_below_the_root(key: str) -> None:
    try:
        path = safe_join(ROOT, key)
    except UsageError:
        assert not is_safe_key(key)
        return
    assert path != ROOT
    assert path.resolve().is_relative_to(ROOT)
    assert ".." not in path.parts
    assert path.relative_to(ROOT).as_posix() == key
    assert "\\" not in key
    assert key.isprintable() or all(ord(char) >= 0xA0 or 0x20 <= ord(char) < 0x7F for char in key)
    assert max(len(part.encode()) for part in path.relative_to(ROOT).parts) <= 255


@given(st.lists(st.text("abcXYZ019 _-.é%+#?*~", min_size=1, max_size=8), min_size=1, max_size=5))
def test_ordinary_names_are_allowed(names: list[str]) -> None:
    key = "/".join(names)
    assert is_safe_key(key) == all(name not in {".", ".."} for name in names)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("s3://bucket", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/a/", True),
        ("s3://bucket/a/b", "s3a://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket/a", "s3://other/a", False),
        ("s3://bucket/a", "gs://bucket/a", False),
        ("/data/a", "file:///data/a/b", True),
        ("/data/a/../b", "/data/b", True),
        ("/data/a", "/data/ab", False),
        ("/", "/data", True),
        ("/bucket/a", "s3://bucket/a", False),
        ("memory://x/a", "memory://x", True),
    ],
)
def test_overlap_is_found_by_whole_folders(a: str, b: str, expected: bool) -> None:
    assert overlaps(a, b) is overlaps(b, a) is expected


def test_overlap_is_found_through_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    assert overlaps(str(tmp_path / "link/inner"), str(tmp_path / "real"))
    assert overlaps(str(tmp_path / "real"), str(tmp_path / "link/not yet there"))
    assert not overlaps(str(tmp_path / "link/inner"), str(tmp_path / "real/other"))


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert overlaps("pictures", str(tmp_path))
    assert overlaps("./pictures/", str(tmp_path / "pictures"))
