"""`jobs.classify`: a head learns from an archive's latents, labels every picture, and never guesses what it cannot know."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cnnbatch.classification import PREDICTIONS, parse_head
from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.container.sealed import unseal
from tests.archive.rows import sha256, stored
from tests.classification.archives import CLASSES, labelled, rows_of, write_archive, write_labels
from tests.codec.dense_models import GRAY, dense_codec, dense_model
from tests.codec.models import tiny_codec
from tests.conftest import Bucket
from tests.jobs.conftest import Ended, Jobs, files_below
from tests.jobs.test_job_bad_input import check_refused

inline = pytest.mark.usefixtures("inline")
QUICK = ("training.epochs=15", "training.batch=32", "training.learning_rate=0.01", "training.hidden=16")
LABELS = labelled(90)


def other_codec() -> Codec:
    """Of the same sizes, without a head."""
    return Codec(dump_codec(dense_model(GRAY.model_copy(update={"classes": ()}), seed=1), training={}), device="cpu")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """90 labelled pictures in two shards, and a stored file."""
    rows = rows_of(LABELS)
    write_archive(tmp_path / "archive", rows[:50], [*rows[50:], stored("z.txt")])
    return tmp_path / "archive"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels.csv", LABELS)


@pytest.fixture
def head(jobs: Jobs, inline: None, archive: Path, labels: Path, tmp_path: Path) -> Path:
    assert jobs.classify("train", archive, labels, tmp_path / "head", *QUICK).code == 0
    return tmp_path / "head"


def predictions(out: Path) -> dict[str, dict[str, Any]]:
    table = pq.read_table(out)
    assert table.schema.equals(PREDICTIONS)
    rows = table.to_pylist()
    assert len(rows) == len({row["key"] for row in rows})
    return {row["key"]: row for row in rows}


def notes(head: Path) -> dict[str, Any]:
    """What a head file says of its training."""
    found: dict[str, Any] = json.loads(unseal(head.read_bytes())[0]["training"])
    return found


def check_learned(ended: Ended) -> None:
    assert ended.code == 0, ended.stderr
    assert ended.report["complete"]
    assert ended.report["classification"]["accuracy"] >= 0.9


@inline
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_learns_and_labels_every_picture(jobs: Jobs, archive: Path, labels: Path, tmp_path: Path, kind: str) -> None:
    before = files_below(archive)
    ended = jobs.classify("train", archive, labels, tmp_path / "head", "--head", kind, "--json", *QUICK)
    check_learned(ended)
    assert ended.outcomes == {"training": 72, "stopping": 9, "held-out": 9, "unlabelled": 1}
    assert sorted(ended.report["classification"]["classes"]) == sorted(CLASSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "head", "labels.csv"]
    settings = parse_head((tmp_path / "head").read_bytes(), "head").settings
    assert (settings.kind, settings.codec_ids) == (kind, (dense_codec().id,))
    ended = jobs.classify("predict", archive, tmp_path / "head", tmp_path / "out", "--json")
    assert (ended.code, ended.outcomes, ended.report["complete"]) == (0, {"predicted": 90, "stored": 1}, True)
    found = predictions(tmp_path / "out")
    assert found.pop("z.txt") == {"key": "z.txt", "label": None, "probability": None, "outcome": "stored"}
    assert found.keys() == LABELS.keys()
    assert sum(found[key]["label"] == label for key, label in LABELS.items()) >= 81
    assert all(1 / 3 <= row["probability"] <= 1 for row in found.values())
    assert json.loads((tmp_path / "out/_run.json").read_text())["tally"] == ended.report["tally"]
    assert (tmp_path / "out/_head.safetensors").read_bytes() == (tmp_path / "head").read_bytes()
    assert files_below(archive) == before


@inline
def test_train_tells_its_accuracy_and_what_guessing_would_reach(
    jobs: Jobs, archive: Path, labels: Path, tmp_path: Path
) -> None:
    ended = jobs.classify("train", archive, labels, tmp_path / "head", *QUICK)
    assert "on 9 held-out pictures of 3 classes (always the commonest class: 33.3 %)" in ended.stdout


@inline
def test_an_accuracy_on_latents_that_were_taught_labels_is_marked(
    jobs: Jobs, archive: Path, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "learned from labels itself"
    ended = jobs.classify("train", archive, labels, tmp_path / "head", "--json", *QUICK)
    assert ended.report["classification"]["codec_saw_labels"] is True
    assert said in caplog.text
    assert notes(tmp_path / "head")["codec_saw_labels"] is True
    caplog.clear()
    codec = other_codec()
    write_archive(tmp_path / "unsupervised", rows_of(LABELS, codec), codecs=[codec])
    ended = jobs.classify("train", tmp_path / "unsupervised", labels, tmp_path / "head2", *QUICK)
    assert ended.code == 0
    assert notes(tmp_path / "head2")["codec_saw_labels"] is False
    assert said not in caplog.text + ended.stdout


@inline
def test_an_archive_of_the_large_codec_is_recognised_by_its_pooled_latents(jobs: Jobs, labels: Path, tmp_path: Path) -> None:
    codec = tiny_codec()
    write_archive(tmp_path / "large", rows_of(LABELS, codec), codecs=[codec])
    ended = jobs.classify("train", tmp_path / "large", labels, tmp_path / "head", "--json", *QUICK)
    check_learned(ended)
    assert ended.report["classification"]["features"] == 3 * codec.file.settings.latent_channels
    assert ended.report["classification"]["codec_saw_labels"] is False
    ended = jobs.classify("predict", tmp_path / "large", tmp_path / "head", tmp_path / "out", "--json")
    assert (ended.code, ended.outcomes) == (0, {"predicted": 90})
    found = predictions(tmp_path / "out")
    assert sum(found[key]["label"] == label for key, label in LABELS.items()) >= 81


@inline
def test_the_head_that_the_codec_file_carries_predicts_as_well(jobs: Jobs, archive: Path, tmp_path: Path) -> None:
    ended = jobs.classify("predict", archive, "codec", tmp_path / "out", "--json", "--keys", "p/000*")
    assert (ended.code, ended.outcomes) == (0, {"predicted": 10})
    found = predictions(tmp_path / "out")
    assert {row["label"] for row in found.values()} <= set(GRAY.classes)
    assert sorted(found) == list(LABELS)[:10]


@inline
def test_a_codec_file_without_a_head_is_a_sentence(jobs: Jobs, tmp_path: Path) -> None:
    codec = other_codec()
    write_archive(tmp_path / "archive", rows_of(labelled(6), codec), codecs=[codec])
    ended = jobs.classify("predict", tmp_path / "archive", "codec", tmp_path / "out")
    check_refused(ended, 2, codec.id[:12], "carries a head", "--labels")
    assert not (tmp_path / "out").exists()


@inline
def test_labels_without_a_picture_and_pictures_without_a_label_are_counted(
    jobs: Jobs, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = dict(list(LABELS.items())[:60])
    labels = write_labels(tmp_path / "some.csv", {"gone/1.png": "dark", **known, "z/2.png": "bright"})
    ended = jobs.classify("train", archive, labels, tmp_path / "head", "--json", *QUICK)
    check_learned(ended)
    assert ended.outcomes["unlabelled"] == 31
    assert sum(ended.outcomes.values()) == 91
    assert ended.report["classification"]["labels_without_picture"] == 2
    assert "2 labels name no picture of the archive" in caplog.text
    assert "31 pictures of the archive have no label" in caplog.text


@inline
def test_labels_of_other_keys_altogether_are_a_sentence(jobs: Jobs, archive: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", {f"train/{key}": label for key, label in LABELS.items()})
    ended = jobs.classify("train", archive, labels, tmp_path / "head")
    assert ended.code == 2
    assert "none of the 90 labels" in ended.stderr
    assert "train/p/0000.png" in ended.stderr
    assert "'p/0000.png'" in ended.stderr
    assert not (tmp_path / "head").exists()


@inline
@pytest.mark.parametrize("case", ["in the file", "among the archive's keys"])
def test_one_class_only_is_a_sentence(jobs: Jobs, archive: Path, tmp_path: Path, case: str) -> None:
    one = dict.fromkeys(LABELS, "dark") | ({} if case == "in the file" else {"elsewhere.png": "bright"})
    ended = jobs.classify("train", archive, write_labels(tmp_path / "one.csv", one), tmp_path / "head")
    assert ended.code == 2
    assert "class" in ended.stderr
    assert not (tmp_path / "head").exists()


@inline
def test_a_head_of_another_codec_file_is_refused_before_anything_is_written(jobs: Jobs, head: Path, tmp_path: Path) -> None:
    codec = other_codec()
    write_archive(tmp_path / "foreign", rows_of(labelled(6), codec), codecs=[codec])
    ended = jobs.classify("predict", tmp_path / "foreign", head, tmp_path / "out")
    check_refused(ended, 2, dense_codec().id[:12], codec.id[:12], "train a head on this archive")
    assert not (tmp_path / "out").exists()


@inline
def test_an_archive_of_mixed_codecs_trains_on_one_that_is_named_and_predicts_only_that(jobs: Jobs, tmp_path: Path) -> None:
    one, other = dense_codec(), other_codec()
    rows, foreign = rows_of(LABELS, one), rows_of({f"q/{key}": label for key, label in LABELS.items()}, other)
    write_archive(tmp_path / "mixed", [*rows, *foreign[:40]], foreign[40:], codecs=[one, other])
    labels = write_labels(tmp_path / "l.csv", LABELS | {row.key: CLASSES[n % 3] for n, row in enumerate(foreign)})
    train = ("train", tmp_path / "mixed", labels, tmp_path / "head", *QUICK)
    check_refused(jobs.classify(*train), 2, "mixes codecs", f"{one.id[:12]} (90 pictures)", f"{other.id[:12]} (90 pictures)")
    check_refused(jobs.classify(*train, "--codec", "xyz"), 2, "--codec xyz names 0")
    ended = jobs.classify(*train, "--codec", one.id[:10], "--json")
    check_learned(ended)
    assert ended.outcomes == {"training": 72, "stopping": 9, "held-out": 9, "other-codec": 90}
    ended = jobs.classify("predict", tmp_path / "mixed", tmp_path / "head", tmp_path / "out", "--json")
    assert (ended.code, ended.outcomes) == (0, {"predicted": 90, "other-codec": 90})
    found = predictions(tmp_path / "out")
    assert {row["label"] for key, row in found.items() if key.startswith("q/")} == {None}
    ended = jobs.classify("predict", tmp_path / "mixed", "codec", tmp_path / "out2", "--json")
    assert (ended.code, ended.outcomes) == (0, {"predicted": 90, "other-codec": 90})


@inline
def test_damaged_pictures_are_outcomes_and_the_others_are_predicted(
    jobs: Jobs, archive: Path, labels: Path, head: Path, tmp_path: Path
) -> None:
    [shard] = [path for path in (archive / "data").iterdir() if b"p/0000.png" in path.read_bytes()]
    data = bytearray(shard.read_bytes())
    data[data.index(rows_of(LABELS)[3].payload) + 2] ^= 1
    shard.write_bytes(bytes(data))
    ended = jobs.classify("predict", archive, head, tmp_path / "out", "--json")
    assert (ended.code, ended.outcomes) == (1, {"predicted": 89, "stored": 1, "failed": 1})
    assert "p/0003.png" in ended.stderr
    assert predictions(tmp_path / "out")["p/0003.png"]["outcome"] == "failed"
    again = jobs.classify("train", archive, labels, tmp_path / "head2", "--json", *QUICK)
    assert again.code == 1
    assert again.outcomes["failed"] == 1
    assert (tmp_path / "head2").exists()
    strict = ("thresholds.failed=0", "thresholds.grace=0")
    assert jobs.classify("predict", archive, head, tmp_path / "out2", *strict).code == 3
    assert not (tmp_path / "out2/_run.json").exists()


@inline
def test_an_archive_without_a_coded_picture_is_a_sentence(jobs: Jobs, labels: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "archive", [stored("p/0000.png"), stored("p/0001.png")])
    ended = jobs.classify("train", tmp_path / "archive", labels, tmp_path / "head")
    check_refused(ended, 2, "no coded picture", "stored originals have no latents")


@inline
def test_labels_of_stored_pictures_only_are_a_sentence(jobs: Jobs, archive: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", {"z.txt": "a", "y.txt": "b"})
    ended = jobs.classify("train", archive, labels, tmp_path / "head")
    assert ended.code == 2
    assert "no labelled picture has features of the codec" in ended.stderr
    assert "1 stored" in ended.stderr


@inline
def test_nothing_that_is_there_is_overwritten(jobs: Jobs, archive: Path, labels: Path, head: Path, tmp_path: Path) -> None:
    check_refused(jobs.classify("train", archive, labels, head), 2, "exists")
    check_refused(jobs.classify("predict", archive, head, tmp_path), 2, "must not lie inside one another")
    check_refused(jobs.classify("train", archive, labels, archive / "head"), 2, "must not lie inside ARCHIVE")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_bytes(b"x")
    check_refused(jobs.classify("predict", archive, head, tmp_path / "full"), 2, "holds files already")


@inline
@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("train ARCHIVE nowhere.csv h", "no such file: nowhere.csv"),
        ("train ARCHIVE LABELS folder/", "'folder/' is a folder"),
        ("train ARCHIVE LABELS codec", "choose another name"),
        ("train ARCHIVE LABELS h most_labels=10", "90 labels, at most 10"),
        ("train ARCHIVE LABELS h --head forest", "--head"),
        ("train ARCHIVE LABELS", "HEAD_FILE"),
        ("predict ARCHIVE LABELS out", "is not an intact head file"),
        ("predict ARCHIVE nowhere out", "no such file: nowhere"),
        ("predict ARCHIVE codec out --keys none/*", "no key of the archive matches"),
        ("guess ARCHIVE", "guess"),
        ("train ARCHIVE LABELS h training.colour=red", "training.colour"),
    ],
)
def test_bad_input_is_one_clear_sentence(
    jobs: Jobs, archive: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = jobs.classify(*line.replace("ARCHIVE", str(archive)).replace("LABELS", str(labels)).split())
    assert ended.code == 2
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("local_ray")
def test_the_workers_of_a_ray_train_and_predict(jobs: Jobs, archive: Path, labels: Path, tmp_path: Path) -> None:
    ended = jobs.classify("train", archive, labels, tmp_path / "head", "--json", "workers.cpus=2", *QUICK)
    check_learned(ended)
    assert ended.outcomes == {"training": 72, "stopping": 9, "held-out": 9, "unlabelled": 1}
    ended = jobs.classify("predict", archive, tmp_path / "head", tmp_path / "out", "--json", "workers.cpus=2")
    assert (ended.code, ended.outcomes) == (0, {"predicted": 90, "stored": 1})
    assert len(predictions(tmp_path / "out")) == 91


@inline
def test_archive_head_and_predictions_may_lie_in_a_bucket(
    jobs: Jobs, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    rows = rows_of(LABELS)
    write_archive(f"{bucket.url}/archive", rows[:50], rows[50:])
    text = write_labels(tmp_path / "labels.csv", LABELS).read_bytes()
    bucket.server.client.put_object(Bucket=bucket.name, Key="labels.csv", Body=text)
    where = (f"{bucket.url}/archive", f"{bucket.url}/labels.csv", f"{bucket.url}/heads/one")
    check_learned(jobs.classify("train", *where, "--json", *QUICK))
    ended = jobs.classify("predict", where[0], where[2], f"{bucket.url}/out", "--json")
    assert (ended.code, ended.outcomes) == (0, {"predicted": 90})
    listed = bucket.server.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    names = Counter(item["Key"].split("/")[0] for item in listed)
    assert names["heads"] == 1
    assert names["out"] == 4


def test_a_row_with_a_right_checksum_and_no_bitstream_is_a_failure_not_a_guess(
    jobs: Jobs, inline: None, head: Path, tmp_path: Path
) -> None:
    rows = rows_of(LABELS)
    bad = replace(rows[1], payload=b"nothing", payload_sha256=sha256(b"nothing"))
    write_archive(tmp_path / "second", [rows[0], bad, *rows[2:]])
    ended = jobs.classify("predict", tmp_path / "second", head, tmp_path / "out", "--json")
    assert (ended.code, ended.outcomes) == (1, {"predicted": 89, "failed": 1})
    assert predictions(tmp_path / "out")[bad.key]["label"] is None
