"""Lists of inputs, and side files of pictures: what of a folder belongs together."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cnnbatch.archive.fields import Field
from cnnbatch.containers import SourceSettings
from cnnbatch.containers.manifest import Entry, Manifest, key_below
from cnnbatch.containers.part import parse_part
from cnnbatch.containers.sidecars import USUAL, joined
from cnnbatch.errors import UsageError
from cnnbatch.storage import ObjectInfo, open_store

ROWS = [("a.jpg", "cat", "a, b\nc"), ("b/c.png", "007", "")]


def manifest(path: Path, column: str | None = None) -> Manifest:
    return Manifest(open_store(str(path.parent)), path.name, column)


def test_a_list_is_read_as_csv_json_lines_or_parquet(tmp_path: Path) -> None:
    text = 'label,url,caption\r\ncat,a.jpg,"a, b\nc"\r\n007,b/c.png,\r\n'
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "l.tsv").write_text('label\turl\tcaption\ncat\ta.jpg\t"a, b\nc"\n007\tb/c.png\t\n')
    expected = [(url, (Field("label", label), Field("caption", caption))) for url, label, caption in ROWS]
    for name in ("l.csv", "l.csv.gz", "l.tsv"):
        assert [(entry.value, entry.fields) for entry in manifest(tmp_path / name)] == expected, name
    (tmp_path / "l.jsonl").write_text(
        '{"n": 3, "key": "a.jpg", "box": [1, 2.5], "big": 99999999999999999999}\n\n{"key": "b.jpg", "n": null}\n'
    )
    assert list(manifest(tmp_path / "l.jsonl")) == [
        Entry(1, "a.jpg", (Field("n", 3), Field("box", "[1, 2.5]"), Field("big", "99999999999999999999"))),
        Entry(3, "b.jpg", (Field("n", None),)),
    ]
    table = pa.table({"image": ["a.jpg", None], "box": pa.array([[1.5], []], pa.list_(pa.float32())), "n": [1, 2]})
    pq.write_table(table, tmp_path / "l.parquet")
    first, second = manifest(tmp_path / "l.parquet")
    assert (first.value, [field.plain() for field in first.fields], second.value) == ("a.jpg", [[1.5], 1], "")


def test_what_is_wrong_with_a_row_is_told_of_that_row(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("key,n\na.jpg\nb.jpg,1,2\nc.jpg,3\n")
    assert list(manifest(tmp_path / "l.csv")) == [
        Entry(2, "a.jpg", (Field("n", None),)), Entry(3, None), Entry(4, "c.jpg", (Field("n", "3"),))
    ]  # fmt: skip
    (tmp_path / "l.jsonl").write_text('{"key": "a.jpg"}\n{"key": \n[1]\n{"other": 1}\n{"key": 7}\n')
    assert [(entry.number, entry.value) for entry in manifest(tmp_path / "l.jsonl")] == [
        (1, "a.jpg"), (2, None), (3, None), (4, ""), (5, "")
    ]  # fmt: skip
    (tmp_path / "latin.csv").write_bytes(b"key\na.jpg\nb\xff.jpg\n")
    assert [key_below(entry.value or "", "/data")[1] for entry in manifest(tmp_path / "latin.csv")] == [None, "name"]
    (tmp_path / "quote.csv").write_text('key\na.jpg\n"b.jpg\n')
    assert [entry.value for entry in manifest(tmp_path / "quote.csv")] == ["a.jpg", None]
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"key\n" + b"a.jpg\n" * 9)[:-9])
    assert list(manifest(tmp_path / "cut.csv.gz"))[-1].value is None
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    assert [entry.value for entry in manifest(tmp_path / "cut.parquet")] == [None]


def test_a_list_without_a_column_of_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("picture,n\na.jpg,1\n")
    with pytest.raises(UsageError, match=r"'picture', 'n': source\.key_column"):
        manifest(tmp_path / "l.csv").check()
    manifest(tmp_path / "l.csv", "picture").check()
    (tmp_path / "empty.csv").write_text("")
    for name in ("empty.csv", "none.csv", "l.xlsx"):
        with pytest.raises(UsageError):
            manifest(tmp_path / name).check()


@pytest.mark.parametrize(
    ("value", "source", "found"),
    [
        ("a/b.jpg", "/data/in", ("a/b.jpg", None)),
        ("./a.jpg", "/data/in", ("a.jpg", None)),
        ("/data/in/a.jpg", "/data/in", ("a.jpg", None)),
        ("file:///data/in/a.jpg", "/data/in", ("a.jpg", None)),
        ("/data/other/a.jpg", "/data/in", ("/data/other/a.jpg", "outside")),
        ("/data/in/../x.jpg", "/data/in", ("/data/in/../x.jpg", "outside")),
        ("../x.jpg", "/data/in", ("../x.jpg", "outside")),
        ("a/../../x.jpg", "/data/in", ("a/../../x.jpg", "outside")),
        ("a//b.jpg", "/data/in", ("a//b.jpg", "name")),
        ("%2e%2e/x.jpg", "/data/in", ("%2e%2e/x.jpg", None)),
        ("https://host/a.jpg", "/data/in", ("https://host/a.jpg", "outside")),
        ("s3://bucket/in/a.jpg", "s3://bucket/in", ("a.jpg", None)),
        ("s3a://bucket/in/a.jpg", "s3://bucket/in", ("a.jpg", None)),
        ("s3://bucket/inside/a.jpg", "s3://bucket/in", ("s3://bucket/inside/a.jpg", "outside")),
        ("s3://other/in/a.jpg", "s3://bucket/in", ("s3://other/in/a.jpg", "outside")),
        ("s3://bucket/in/../a.jpg", "s3://bucket/in", ("s3://bucket/in/../a.jpg", "outside")),
        ("/a.jpg", "s3://bucket/in", ("/a.jpg", "outside")),
        ("https://host/in/a.jpg?size=9", "https://host/in", ("a.jpg?size=9", None)),
        ("https://host/in/%2E%2e/a.jpg", "https://host/in", ("https://host/in/%2E%2e/a.jpg", "outside")),
        ("https://host/in/..%2fa.jpg", "https://host/in", ("https://host/in/..%2fa.jpg", "name")),
        ("..\\a.jpg", "https://host/in", ("..\\a.jpg", "name")),
        ("https://host.evil/in/a.jpg", "https://host/in", ("https://host.evil/in/a.jpg", "outside")),
        ("http://host/in/a.jpg", "https://host/in", ("http://host/in/a.jpg", "outside")),
        ("https://any.host/a.jpg", "https://", ("any.host/a.jpg", None)),
        ("https://user:word@host/a.jpg", "https://", ("https://user:word@host/a.jpg", "name")),
    ],
)  # fmt: skip
def test_what_a_list_means_lies_below_the_source_or_is_a_fault(value: str, source: str, found: tuple[str, str | None]) -> None:
    assert key_below(value, source) == found


def beside(*keys: str) -> dict[str, list[str]]:
    """For each input its side files."""
    infos = [ObjectInfo(key, 1) for key in keys]
    return {info.key: files_of(info) for info in joined(infos, USUAL)}


def files_of(info: ObjectInfo) -> list[str]:
    return [] if info.part is None else [where[1] for where in parse_part(info.part).row["files"]]


def test_files_called_like_a_picture_go_with_it() -> None:
    assert beside("b.txt", "a.txt", "a.jpg", "a.jpg.xmp", "a.JSON", "a.md", "d/a.txt", "a-1.txt") == {
        "a.jpg": ["a.JSON", "a.jpg.xmp", "a.txt"], "a.md": [], "b.txt": [], "d/a.txt": [], "a-1.txt": []
    }  # fmt: skip
    assert beside("a.png", "a.jpg", "a.txt", "a.png.txt") == {"a.jpg": ["a.txt"], "a.png": ["a.png.txt"]}
    assert beside("f.1.jpg", "f.1.txt", "f.2.cls", "f.2.jpg", "f.txt") == {
        "f.1.jpg": ["f.1.txt"], "f.2.jpg": ["f.2.cls"], "f.txt": []
    }  # fmt: skip
    assert beside(".a.jpg", ".a.txt", "txt", "jpg") == {".a.jpg": [], ".a.txt": [], "txt": [], "jpg": []}


_ENDINGS = st.sampled_from([".jpg", ".png", ".txt", ".jpg.txt", ".cls", ".bin", ""])


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab.-", max_size=4), _ENDINGS), unique=True, max_size=14), st.randoms())
def test_each_file_is_an_input_or_beside_one_whatever_the_order(parts: list[tuple[str, str]], chance: object) -> None:
    keys = sorted({f"{name}{ending}" for name, ending in parts})
    found = beside(*keys)
    assert sorted([*found, *(side for sides in found.values() for side in sides)]) == keys
    shuffled = list(keys)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert beside(*shuffled) == found
    for picture, sides in found.items():
        assert all(side.startswith(picture.rpartition(".")[0] + ".") for side in sides)


def test_settings_that_cannot_be_together_are_refused() -> None:
    assert SourceSettings(sidecars=True).sidecars == USUAL  # type: ignore[arg-type]
    assert SourceSettings(sidecars=".TXT, xml").sidecars == ("txt", "xml")  # type: ignore[arg-type]
    for wrong in (
        {"sidecars": "jpg"}, {"sidecars": [3]}, {"kind": "manifest"}, {"kind": "zip", "manifest": "a.csv"},
        {"sidecars": True, "kind": "parquet"}, {"sidecars": True, "manifest": "a.csv"},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            SourceSettings.model_validate(wrong)
