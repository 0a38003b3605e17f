"""Index, search and figures of an archive, without a server."""

import re

import numpy as np
import pytest

from cnnbatch import reading
from cnnbatch.errors import UsageError
from cnnbatch.serve.figures import figures
from cnnbatch.serve.index import payload_bytes
from cnnbatch.serve.library import Version
from cnnbatch.serve.manifests import CANVASES, collection, manifest
from cnnbatch.serve.search import Query, parse_query, pattern, select
from tests.serve.served import HOSTILE, sources


@pytest.fixture(scope="module")
def version(archive: str) -> Version:
    return Version(reading.open(archive))


def keys(version: Version, query: Query) -> list[str]:
    return [row["key"] for row in version.index.rows(select(version.archive, version.index, query))]


def test_every_picture_is_in_the_index_by_its_key(version: Version) -> None:
    expected = sorted([*sources(), "crafted.png"])
    assert [row["key"] for row in version.index.rows(range(len(version.index)))] == expected
    for number, key in enumerate(expected):
        assert version.index.find(key) == number
        assert version.row(number).key == key if key != "crafted.png" else True
    assert version.index.find("nowhere") is None
    assert len({version.index.identity(number) for number in range(len(expected))}) == len(expected)


def test_folders_count_what_is_below_them(version: Version) -> None:
    assert {(one.path, one.count) for one in version.index.subfolders("")} == {("2024/", 4), ("2025/", 1), ("odd/", 1)}
    assert [one.path for one in version.index.subfolders("2024/")] == ["2024/summer/", "2024/winter/"]
    assert [one["key"] for one in version.index.rows(version.index.below("2024/winter/"))] == [
        "2024/winter/alpha.png",
        "2024/winter/gray.png",
    ]


def test_queries(version: Version) -> None:
    assert keys(version, Query(glob="2024/*/g*.png")) == ["2024/winter/gray.png"]
    assert keys(version, Query(glob="SQUARES")) == ["squares.png"]
    assert keys(version, Query(glob="<script>")) == [HOSTILE]
    assert keys(version, Query(where="source_format = 'jpeg' and width > 0")) == ["2024/summer/turned.jpg", "2025/cmyk.jpg"]
    by_shards = keys(version, Query(where="source_format = 'jpeg' and width > 0 and mode is not null"))
    assert by_shards == ["2024/summer/turned.jpg"]  # the mode is not in the index
    assert keys(version, Query(folder="2024/", descending=True))[0] == "2024/winter/gray.png"
    sizes = [len(sources().get(key, b"")) for key in keys(version, Query(folder="2024/", sort="bytes"))]
    assert sizes == sorted(sizes)
    assert keys(version, Query(psnr_min=0, outcome="store")) == []
    assert "notes.txt" in keys(version, Query(outcome="store"))
    with pytest.raises(UsageError):
        keys(version, Query(where="width >"))


@pytest.mark.parametrize(
    "values", [{"sort": "x"}, {"psnr_min": "nan"}, {"since": "yesterday"}, {"glob": "x" * 2000}, {"folder": "a"}]
)
def test_queries_that_are_none(values: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        parse_query(values.items())


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("a*.jpg", "a/b.jpg", "b/a.jpg"),
        ("[ab]?", "ax", "cx"),
        ("[!a]", "b", "a"),
        ("a.b", "xA.Bx", "axb"),
        ("x[", "x[", "ax[b"),
        ("*\\*", "a\\b", "ab"),
    ],
)
def test_globs_become_regular_expressions(glob: str, yes: str, no: str) -> None:
    assert re.search(pattern(glob), yes)
    assert not re.search(pattern(glob), no)


def test_figures_add_up(version: Version) -> None:
    found = figures(version.index, payload_bytes(version.archive.rows.store, version.index))
    assert found["images"] == len(sources()) + 1
    for groups in ("outcomes", "formats", "folders", "months"):
        assert sum(group["images"] for group in found[groups]) == found["images"]
        assert sum(group["source_bytes"] for group in found[groups]) == found["source_bytes"]
    assert {group["name"] for group in found["folders"]} == {"", "2024/", "2025/", "odd/"}
    exact = sum(len(version.archive[key].row.payload) for key in sources())
    crafted = found["payload_bytes"] - exact
    assert crafted == len(version.archive["2024/summer/photo.png"].row.payload)
    histogram = found["histograms"]["psnr_db"]
    assert sum(histogram["counts"]) == histogram["images"] > 3


def test_manifests_name_every_picture_and_where_its_image_is(version: Version) -> None:
    def address(path: str) -> str:
        return f"http://h{path}"

    top = collection(version.index, "photos", "", address)
    assert [item["type"] for item in top["items"]] == ["Collection"] * 3 + ["Manifest"]
    assert top["items"][0]["id"] == "http://h/presentation/photos/2024%2F/collection.json"
    found = manifest(version.index, "photos", "2024/", 1, address)
    assert [canvas["label"]["none"][0] for canvas in found["items"]] == keys(version, Query(folder="2024/"))
    body = found["items"][0]["items"][0]["items"][0]["body"]
    assert body["service"][0]["id"] == "http://h/iiif/photos/2024%2Fsummer%2Fphoto.png"
    assert found["items"][0]["items"][0]["items"][0]["target"] == found["items"][0]["id"]
    assert CANVASES > len(found["items"]) == 4
    with pytest.raises(LookupError):
        manifest(version.index, "photos", "2024/", 2, address)


def test_an_archive_in_a_notebook_is_a_table_of_what_is_in_it(version: Version) -> None:
    shown = version.archive._repr_html_()
    assert shown.startswith("<table>")
    assert f"<tr><th>Pictures</th><td>{len(sources()) + 1}</td></tr>" in shown
    assert "<script>" not in shown
    assert np.isfinite(version.archive.info().ratio)
