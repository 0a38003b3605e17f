"""Lists of inputs and side files through the commands: what they name goes in, and nothing else is read."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import cnnbatch
from cnnbatch.archive.fields import parse_fields
from tests.containers.datasets import jpeg
from tests.jobs.conftest import Jobs, files_below

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("0.jpg", "1.jpg", "sub/x.jpg", "unlisted.jpg")):
        (folder / name).write_bytes(jpeg(number))
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    return folder


def fields_of(archive: Path, key: str) -> dict[str, object]:
    return {field.name: field.plain() for field in parse_fields(cnnbatch.open(str(archive))[key].row.fields)}


def test_a_list_says_what_goes_in_and_each_of_its_rows_has_an_outcome(jobs: Jobs, source: Path, tmp_path: Path) -> None:
    archive, rows = tmp_path / "archive", tmp_path / "list.csv"
    head = "file_name,label,caption\n0.jpg,cat,a cat\nsub/x.jpg,007,\n"
    wrong = f"none.jpg,a,b\n0.jpg,dog,again\n../secret.jpg,a,b\n{tmp_path}/secret.jpg,a,b\n,a,b\nlink.jpg,a,b\nsub,a,b\n"
    rows.write_text(f"{head}{source}/1.jpg,dog,\n{wrong}1.jpg,a,b,c\n")
    words = ("--json", "--lossless", f"source.manifest={rows}")
    ended = jobs.compress(source, archive, *words)
    assert (ended.code, ended.outcomes) == (0, {"store": 3, "failed": 8})
    assert {(f["key"], f["error"]) for f in ended.report["failures"]} == {
        ("none.jpg", "missing"), ("0.jpg", "duplicate"), ("../secret.jpg", "outside"), (f"{tmp_path}/secret.jpg", "outside"),
        ("list.csv:9", "name"), ("link.jpg", "link"), ("sub", "missing"), ("list.csv:12", "damaged"),
    }  # fmt: skip
    assert fields_of(archive, "0.jpg") == {"label": "cat", "caption": "a cat"}
    assert cnnbatch.open(str(archive))["sub/x.jpg"].row.label == "007"
    again = jobs.compress(source, archive, *words)
    assert (again.report["unchanged"], again.report["new"], again.report["changed"]) == (3, 0, 0)

    rows.write_text(head.replace("a cat", "the cat"))
    changed = jobs.compress(source, archive, *words, "--mirror-deletes")
    assert [changed.report[name] for name in ("unchanged", "changed", "removed")] == [1, 1, 1]
    assert (fields_of(archive, "0.jpg")["caption"], sorted(cnnbatch.open(str(archive)))) == ("the cat", ["0.jpg", "sub/x.jpg"])
    verified = jobs.verify(archive, "--source", source, "--json", f"source.manifest={rows}")
    assert (verified.code, verified.report["findings"]) == (0, [])

    back, folder = tmp_path / "back", tmp_path / "folder"
    assert jobs.reconstruct(archive, back).code == jobs.reconstruct(archive, folder, "--layout", "folder").code == 0
    assert files_below(back) == {name: (source / name).read_bytes() for name in ("0.jpg", "sub/x.jpg")}
    assert set(files_below(folder)) == {"0.jpg", "0.label", "0.caption", "sub/x.jpg", "sub/x.label", "sub/x.caption"}
    listed = jobs.cnnbatch("ls", archive, "--where", "label = 'cat' and caption like '%cat'")
    assert (listed.code, listed.stdout) == (0, "0.jpg\n")


def test_a_list_that_is_none_ends_the_command_before_anything_is_written(jobs: Jobs, source: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("picture\n0.jpg\n")
    for word in ("source.manifest=none.csv", "source.kind=manifest", f"source.manifest={tmp_path}/list.csv"):
        assert jobs.compress(source, tmp_path / "archive", word).code == 2
    assert not (tmp_path / "archive").exists()


class Server(SimpleHTTPRequestHandler):
    """Files, and answers that are errors; counts what was read."""

    reads: Counter[str]

    def do_GET(self) -> None:
        self.reads[self.path] += 1
        super().do_GET()

    def send_head(self):  # type: ignore[no-untyped-def]
        name = self.path.rpartition("/")[2]
        if name.isdecimal():
            self.send_error(HTTPStatus(int(name)))
            return None
        return super().send_head()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(source: Path) -> Iterator[str]:
    Server.reads = Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(source.parent))) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def test_urls_are_read_below_the_source_alone_and_those_that_answer_404_are_named(
    jobs: Jobs, server: str, tmp_path: Path
) -> None:
    archive, rows = tmp_path / "archive", tmp_path / "urls.jsonl"
    names = ("0.jpg", "sub/x.jpg", "404", "403", "500", "../secret.jpg", "%2e%2e/secret.jpg")
    urls = [*(f"{server}/source/{name}" for name in names), f"{server}/secret.jpg", "http://localhost:1/a.jpg"]
    rows.write_text("".join(json.dumps({"url": url, "number": number}) + "\n" for number, url in enumerate(urls)))
    words = ("--json", "--lossless", f"source.manifest={rows}")
    ended = jobs.compress(f"{server}/source", archive, *words)
    assert (ended.code, ended.outcomes) == (0, {"store": 2, "failed": 7})
    assert {(f["key"].removeprefix(server), f["error"]) for f in ended.report["failures"]} == {
        ("404", "missing"), ("403", "forbidden"), ("500", "unreachable"), ("/source/../secret.jpg", "outside"),
        ("/source/%2e%2e/secret.jpg", "outside"), ("/secret.jpg", "outside"), ("http://localhost:1/a.jpg", "outside"),
    }  # fmt: skip
    assert fields_of(archive, "sub/x.jpg") == {"number": 1}
    assert not any("secret" in path for path in Server.reads)
    Server.reads.clear()
    again = jobs.compress(f"{server}/source", archive, *words)
    assert again.report["unchanged"] == 2
    assert not any(path.endswith("jpg") for path in Server.reads)

    anywhere = tmp_path / "anywhere"
    (tmp_path / "two.csv").write_text(f"url\n{server}/secret.jpg\nhttp://localhost:1/a.jpg\n")
    ended = jobs.compress("http://", anywhere, "--json", "--lossless", f"source.manifest={tmp_path}/two.csv")
    assert (ended.code, ended.outcomes) == (0, {"store": 1, "failed": 1})
    assert [f["error"] for f in ended.report["failures"]] == ["unreachable"]
    assert list(cnnbatch.open(str(anywhere))) == [f"{server.removeprefix('http://')}/secret.jpg"]


def test_side_files_go_with_their_picture_and_come_back_byte_for_byte(jobs: Jobs, source: Path, tmp_path: Path) -> None:
    archive, back = tmp_path / "archive", tmp_path / "back"
    (source / "link.jpg").unlink()
    sides = {"0.txt": b"a cat\r\n", "0.jpg.xmp": b"<x/>", "1.json": b'{"a":  1}', "1.cls": b"dog", "sub/x.txt": b"\xff\0"}
    others = {"alone.txt": b"alone\n" * 90, "README": b"read me\n" * 90, "noise.bin": bytes(range(256))}
    for name, data in {**sides, **others}.items():
        (source / name).write_bytes(data)
    words = ("--json", "source.sidecars=true")
    ended = jobs.compress(source, archive, *words)
    assert (ended.code, ended.outcomes) == (0, {"cnn": 4, "store": 3})
    assert fields_of(archive, "1.jpg") == {"cls": b"dog", "json": b'{"a":  1}'}
    opened = cnnbatch.open(str(archive))
    assert opened["1.jpg"].row.label == "dog"
    rows = {key: opened[key].row for key in others}
    assert {row.reason for row in rows.values()} == {"not an image"}
    assert {key: row.payload_coding for key, row in rows.items()} == {
        "alone.txt": "zstd", "README": "zstd", "noise.bin": "verbatim"
    }  # fmt: skip
    assert jobs.compress(source, archive, *words).report["unchanged"] == 7

    sides["1.cls"] = b"cat"
    (source / "1.cls").write_bytes(b"cat")
    (source / "0.txt").unlink()
    del sides["0.txt"]
    changed = jobs.compress(source, archive, *words)
    assert [changed.report[name] for name in ("unchanged", "changed", "new", "vanished")] == [5, 2, 0, 0]
    assert cnnbatch.open(str(archive))["1.jpg"].row.label == "cat"
    assert jobs.verify(archive, "--source", source, "--json", words[1]).report["findings"] == []
    for layout in ("original", "folder"):
        assert jobs.reconstruct(archive, back / layout, "--layout", layout).code == 0
        files = files_below(back / layout)
        assert {name: data for name, data in files.items() if not name.endswith("jpg")} == {**sides, **others}
        assert set(files) == set(files_below(source))
