"""`jobs.evaluate`: what it leaves behind, what it says of bad input, and the same on Ray and from a bucket."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cnnbatch.archive import open_archive
from cnnbatch.codec import shipped_codec
from cnnbatch.containers import SourceSettings
from cnnbatch.errors import StorageError
from cnnbatch.evaluation.summary import Choice, Estimate, EvaluationSummary, Recommendation
from cnnbatch.evaluation.text_report import describe
from cnnbatch.job_options import job_parser
from cnnbatch.storage import open_store
from jobs import engine, evaluate, ray_tasks
from jobs.configuration import resolve
from jobs.evaluation_report import command_of
from jobs.evaluation_workers import CnnFile
from jobs.settings import CompressConfig
from tests.codec.dense_models import GRAY, dense_codec_file, pictures
from tests.conftest import Bucket
from tests.containers.datasets import write_tar
from tests.jobs.conftest import Ended, Jobs, files_below, run_inline
from tests.jobs.fragile_task import Fragile
from tests.stages.pictures import as_file, cmyk_jpeg, waves, with_alpha, write_files

LARGE, SMALL = waves(176, 200), waves(40, 60, 1)
FILES = {
    "a/photo.jpg": as_file(LARGE, "jpeg", quality=92),
    "a/drawing.png": as_file(waves(170, 180, 2)),
    "b/gray.png": as_file(waves(165, 190, 3, gray=True)),
    "b/alpha.png": as_file(with_alpha(waves(180, 164, 4))),
}
FEW = (
    "--codecs",
    "cnn,jpeg420,webp,png",
    "qualities.cnn=[8,32,56]",
    "qualities.jpeg420=[20,60,90]",
    "qualities.webp=[10,60,90]",
)


@pytest.fixture
def one_by_one(inline: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No Ray for the classical codecs either."""

    def run(wanted: Iterable[Any], build: Callable[[], Any], *, run_id: str, pauses_seconds: Sequence[float]) -> Iterator[Any]:
        return run_inline(wanted, build, engine.Pool(2, 2, 2, 0, 0, tuple(pauses_seconds)))

    monkeypatch.setattr(ray_tasks, "run", run)
    monkeypatch.setattr(CnnFile, "fetch", lambda file: shipped_codec if file.data is None else partial(bytes, file.data))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Evaluations(Jobs):
    def evaluate(self, *argv: object) -> Ended:
        return self._call(evaluate.main, argv)


@pytest.fixture
def jobs(capfd: pytest.CaptureFixture[str]) -> Evaluations:
    return Evaluations(capfd)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source", FILES)


@pytest.mark.usefixtures("one_by_one")
def test_an_evaluation_leaves_page_figures_and_plots(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    before, out = files_below(source), tmp_path / "out"
    words = ("--codecs", "cnn,jpeg420,webp,png,vq", "qualities.vq=[1]", *FEW[2:])
    ended = jobs.evaluate(source, "--out", out, "--target-psnr", 34, *words)
    assert ended.code == 0, ended.stderr
    assert files_below(source) == before
    assert sorted(files_below(out)) == [
        "measurements.parquet", "rate_distortion.svg", "rate_distortion_ms_ssim.svg", "rate_distortion_ssimulacra2.svg",
        "report.html", "run.json", "summary.json",
    ]  # fmt: skip
    summary = EvaluationSummary.model_validate_json((out / "summary.json").read_text())
    assert (summary.images, summary.unmeasured, summary.left_out) == (4, (), ())
    assert [(curve.codec, len(curve.points), curve.lossless) for curve in summary.curves] == [
        ("cnn", 3, False), ("jpeg420", 3, False), ("webp", 3, False), ("png", 1, True), ("vq", 1, False),
    ]  # fmt: skip
    assert all(p.ms_ssim is not None and p.encode_mps and p.decode_mps for curve in summary.curves for p in curve.points)
    assert {p.ssimulacra2 is not None for curve in summary.curves for p in curve.points} == {True}
    compared = Counter(rate.measure for rate in summary.bd_rates if rate.percent is not None)
    assert compared == {"psnr_db": 3 * 2, "ms_ssim": 3 * 2, "ssimulacra2": 3 * 2}
    assert "image/webp" in (out / "report.html").read_text()
    assert (out / "rate_distortion.svg").read_text().count("<path") > 20
    rows = pq.read_table(out / "measurements.parquet").to_pylist()
    assert {(row["key"], row["codec"]) for row in rows} == {(key, codec.codec) for key in FILES for codec in summary.curves}
    assert all(row["outcome"] == "measured" and row["bytes"] * 8 / (row["width"] * row["height"]) == row["bpp"] for row in rows)
    for said in ("cnnbatch", "JPEG 4:2:0", "BD-rate by PSNR", "BD-rate by SSIMULACRA2", "SOURCE weighs", "cnnbatch at quality"):
        assert said in ended.stdout
    assert summary.recommendation is not None
    [best] = [choice for choice in summary.recommendation.choices if choice.codec == "cnn"]
    assert ended.stdout.endswith(f"\nto compress so: cnnbatch compress {source} ARCHIVE --quality={best.quality:g}\n")
    for choice in summary.recommendation.choices:
        assert choice.psnr_db is None or choice.psnr_db >= 34


@pytest.mark.usefixtures("one_by_one")
def test_members_of_tars_are_evaluated_as_files_are(jobs: Evaluations, tmp_path: Path) -> None:
    files = write_files(tmp_path / "files", FILES)
    write_tar(tmp_path / "source/all.tar", sorted(files_below(files).items()))
    ended = jobs.evaluate(tmp_path / "source", "source.kind=webdataset", "--out", tmp_path / "out", "--codecs", "webp", FEW[4])
    assert ended.code == 0, ended.stderr
    rows = pq.read_table(tmp_path / "out/measurements.parquet").to_pylist()
    assert {(row["key"], row["outcome"]) for row in rows} == {(f"all.tar/{key}", "measured") for key in FILES}


@pytest.mark.usefixtures("one_by_one")
def test_the_recommended_total_is_what_compress_writes(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    write_files(source, {"notes.txt": b"no picture" * 50, "c/cmyk.jpg": cmyk_jpeg(), "c/tiny.png": as_file(waves(9, 9))})
    ended = jobs.evaluate(source, "--json", "--codecs", "cnn", "--target-psnr", 36)
    found = EvaluationSummary.model_validate(ended.report["evaluation"]).recommendation
    assert found is not None
    [choice] = found.choices
    assert choice.total is not None
    assert choice.total.bytes == choice.total.low_bytes == choice.total.high_bytes
    assert jobs.compress(source, tmp_path / "archive", "--quality", choice.quality).code == 0
    assert jobs.compress(source, tmp_path / "lossless", "--lossless").code == 0

    def weight(archive: str) -> int:
        rows = list(open_archive(str(tmp_path / archive)).rows())
        return sum(
            len(blob) for row in rows for blob in (row.payload, row.alpha, row.exif, row.icc, row.xmp, row.segments) if blob
        )

    assert weight("archive") == choice.total.bytes
    assert weight("lossless") == found.transcoded.bytes < found.source_bytes


@pytest.mark.usefixtures("one_by_one")
def test_each_picture_is_brought_to_a_score(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    words = ("--target-ssimulacra2", 75, "--codecs", "cnn,webp", "--measures", "psnr", *FEW[2::2])
    ended = jobs.evaluate(source, "--json", "--out", tmp_path / "out", *words)
    assert ended.code == 0, ended.stderr
    found = EvaluationSummary.model_validate(ended.report["evaluation"])
    assert found.recommendation is not None
    assert found.recommendation.each
    rows = pq.read_table(tmp_path / "out/measurements.parquet").to_pylist()
    assert {row["ms_ssim"] for row in rows} == {None}
    for choice in found.recommendation.choices:
        nearest = [
            min(abs(r["ssimulacra2"] - 75) for r in rows if (r["key"], r["codec"]) == (key, choice.codec)) for key in FILES
        ]
        assert max(nearest) < 1.5  # a step of a quality may be more than half a point
        assert choice.quality is None
        assert choice.qualities is not None
        assert choice.out_of_reach == 0
    assert "with SSIMULACRA2 of 75 for each picture" in describe(found)


@pytest.mark.usefixtures("one_by_one")
def test_one_broken_image_among_many_is_an_outcome_row(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    write_files(
        source, {"broken.png": FILES["a/drawing.png"][:700], "letter.txt": b"dear reader", "deep/cmyk.jpg": cmyk_jpeg()}
    )
    whole = jobs.evaluate(source, "--exclude", "broken*", "--exclude", "*.txt", "--exclude", "deep/*", "--json", *FEW)
    ended = jobs.evaluate(source, "--out", tmp_path / "out", "--json", *FEW)
    assert (ended.code, ended.outcomes, ended.report["complete"]) == (0, {"measured": 4, "unmeasured": 3}, True)
    found = ended.report["evaluation"]
    assert {item["key"]: (item["codec"], item["stage"]) for item in found["unmeasured"]} == {
        "broken.png": (None, "decode"), "letter.txt": (None, "decode"), "deep/cmyk.jpg": (None, "decode"),
    }  # fmt: skip
    points = [[(p["bpp"], p["psnr_db"]) for p in c["points"]] for c in found["curves"]]
    assert points == [[(p["bpp"], p["psnr_db"]) for p in c["points"]] for c in whole.report["evaluation"]["curves"]]
    rows = [r for r in pq.read_table(tmp_path / "out/measurements.parquet").to_pylist() if r["outcome"] == "failed"]
    assert sorted((row["key"], row["codec"], row["bytes"]) for row in rows) == [
        ("broken.png", None, None), ("deep/cmyk.jpg", None, None), ("letter.txt", None, None),
    ]  # fmt: skip
    assert "not measured: broken.png: decode: " in jobs.evaluate(source, "--codecs", "png").stdout


@pytest.mark.usefixtures("one_by_one")
def test_a_codec_of_small_pictures_is_measured_on_those_it_takes(jobs: Evaluations, tmp_path: Path) -> None:
    files = {f"{n}.png": as_file(picture) for n, picture in enumerate(pictures(GRAY, 6))}
    source = write_files(tmp_path / "tiny", {"0-odd.png": as_file(waves(90, 80, gray=True)), **files})
    (tmp_path / "small.safetensors").write_bytes(dense_codec_file())
    words = ("--codecs", "cnn,png", "--codec", tmp_path / "small.safetensors", "qualities.cnn:small=[16,40]")
    ended = jobs.evaluate(source, "--out", tmp_path / "out", "--json", *words)
    assert (ended.code, ended.outcomes) == (0, {"measured": 7}), ended.stderr
    found = ended.report["evaluation"]
    assert (found["images"], [curve["codec"] for curve in found["curves"]]) == (6, ["cnn:small", "png"])
    [missed] = found["unmeasured"]
    assert (missed["key"], missed["codec"], missed["stage"]) == ("0-odd.png", "cnn:small", "encode")
    assert "other-size: gray pictures of 14" in missed["error"]
    assert {item["codec"] for item in found["recommendation"]["choices"]} == {"cnn:small"}


@pytest.mark.usefixtures("one_by_one")
def test_small_pictures_have_bytes_beside_bits_components_and_a_contact_sheet(jobs: Evaluations, tmp_path: Path) -> None:
    source = write_files(tmp_path / "tiny", {f"{n}.png": as_file(p) for n, p in enumerate(pictures(GRAY, 40))})
    (tmp_path / "small.safetensors").write_bytes(dense_codec_file())
    words = ("--codecs", "cnn,pca,webp", "qualities.cnn:small=[16,40]", "qualities.webp=[10,60]", "qualities.pca=[8,16]")
    ended = jobs.evaluate(source, "--codec", tmp_path / "small.safetensors", "--out", tmp_path / "out", "--sample", 15, *words)
    assert ended.code == 0, ended.stderr
    summary = EvaluationSummary.model_validate_json((tmp_path / "out/summary.json").read_text())
    assert [curve.codec for curve in summary.curves] == ["cnn:small", "pca", "webp"]
    assert all(p.bytes == pytest.approx(p.bpp * 9 * 14 / 8) for curve in summary.curves for p in curve.points)
    assert "quality   bytes    bpp" in ended.stdout
    with Image.open(tmp_path / "out/contact_sheet.png") as sheet:
        assert sheet.width > 12 * 14 * 6
        assert sheet.height >= 2 * 4 * 9 * 6  # two groups of the original and three codecs
    report = (tmp_path / "out/report.html").read_text()
    assert report.count('id="pixels-') == 15 * 4
    assert '<th scope="col" class="n">Bytes</th>' in report


@pytest.mark.usefixtures("one_by_one")
def test_components_are_of_small_pictures_of_one_size_only(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    two = write_files(tmp_path / "two", {"a.png": as_file(waves(9, 9)), "b.png": as_file(waves(9, 8))})
    ended = jobs.evaluate(two, "--codecs", "png,pca")
    assert ended.code == 0
    assert "left out: PCA: it takes pictures of one size and mode, and these are of several: 8×9×3, 9×9×3" in ended.stdout
    ended = jobs.evaluate(source, "--codecs", "png,pca", "--exclude", "b/*", "--exclude", "*.jpg")
    assert "left out: PCA: it takes small pictures, up to 12,288 samples, and these have 91,800" in ended.stdout


@pytest.mark.usefixtures("one_by_one")
def test_pictures_below_the_window_of_ms_ssim_have_none_and_change_no_mean(jobs: Evaluations, source: Path) -> None:
    alone = jobs.evaluate(source, "--json", *FEW).report["evaluation"]
    write_files(source, {"small.png": as_file(SMALL)})
    both = jobs.evaluate(source, "--json", *FEW).report["evaluation"]
    for a, b in zip(alone["curves"], both["curves"], strict=True):
        for p, q in zip(a["points"], b["points"], strict=True):
            assert (p["ms_ssim"], p["ms_ssim_bpp"]) == (pytest.approx(q["ms_ssim"]), pytest.approx(q["ms_ssim_bpp"]))
            assert (q["ms_ssim_images"], q["images"]) == (4, 5)
    only_small = jobs.evaluate(source, "--exclude", "[ab]/*", *FEW)
    assert only_small.code == 0
    assert "MS-SSIM is over the pictures that are large enough for its window and not huge: 0 of 1" in only_small.stdout


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("empty", 2, "no files below"),
        ("letters", 2, "no picture among 2 files"),
        ("nowhere", 1, "no such folder"),
        ("source --codecs webp,heic", 2, "'heic': choose from cnn, jpeg444"),
        ("source --codecs webp qualities.webp=[50,101]", 2, "0…100 in steps of 1, not 101"),
        ("source --codecs png qualities.png=[1]", 2, "lossless"),
        ("source --codecs webp qualities.jxl=[50]", 2, "qualities.jxl"),
        ("source --codec nowhere.safetensors", 2, "nowhere.safetensors"),
        ("source --codec letters/a.txt", 1, "codec"),
        ("source --published nowhere", 2, "nowhere"),
        ("source --target-psnr 34 --target-ms-ssim 0.9", 2, "exclude each other"),
        ("source --target-ms-ssim 2", 2, "target_ms_ssim"),
        ("source --sample -1", 2, "sample"),
        ("source --examples 25", 2, "examples"),
        ("source --out source/report", 2, "inside"),
        ("source --out letters/a.txt", 1, "a.txt"),
        ("source colour=red", 2, "colour"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    jobs: Evaluations, source: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, said: str
) -> None:
    monkeypatch.chdir(source.parent)
    write_files(source.parent, {"letters/a.txt": b"dear", "letters/b.txt": b"reader"})
    (source.parent / "empty").mkdir()
    ended = jobs.evaluate(*line.split())
    errors = [text for text in ended.stderr.splitlines() if "error: " in text]
    assert (ended.code, len(errors)) == (code, 1), ended.stderr
    assert said in errors[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.usefixtures("one_by_one")
def test_a_codec_that_cannot_take_the_pictures_is_left_out_by_name(jobs: Evaluations, tmp_path: Path) -> None:
    wide = np.zeros((2, 16500, 3), np.uint8)
    source = write_files(tmp_path / "wide", {f"{n}.png": as_file(wide + n) for n in range(2)})
    ended = jobs.evaluate(source, "--codecs", "jpeg444,webp,png", "qualities.jpeg444=[50]", "qualities.webp=[50]")
    assert ended.code == 0, ended.stderr
    assert "left out: WebP: it coded 0 of 2 pictures at all its qualities" in ended.stdout
    assert "not measured by webp: 0.png: encode: " in ended.stdout


@pytest.mark.usefixtures("one_by_one")
def test_missing_libraries_are_said(jobs: Evaluations, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cnnbatch.evaluation.plots.find_spec", lambda name: None)
    ended = jobs.evaluate(source, "--out", tmp_path / "out", "--codecs", "png")
    assert ended.code == 0
    assert "no plots: matplotlib is not installed: pip install 'cnnbatch[evaluate]'" in ended.stdout
    assert not list((tmp_path / "out").glob("*.svg"))
    monkeypatch.setattr("cnnbatch.evaluation.find_spec", lambda name: None)
    assert "an evaluation needs scipy, pytorch-msssim" in jobs.evaluate(source).stderr


@pytest.mark.usefixtures("one_by_one")
def test_an_evaluation_replaces_another_one_and_nothing_else(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    out = write_files(tmp_path / "out", {"report.html": b"mine"})
    words = ("--codecs", "png", "--sample", 1, "--out", out)
    for others in (None, b"{}", b'{"job": "compress"}', b"\xff"):
        if others is not None:
            (out / "run.json").write_bytes(others)
        ended = jobs.evaluate(source, *words)
        assert (ended.code, "which was not written by an evaluation" in ended.stderr) == (2, True)
        assert (out / "report.html").read_bytes() == b"mine"
    (out / "report.html").unlink()
    (out / "run.json").unlink()
    for _ in range(2):
        assert jobs.evaluate(source, *words).code == 0
    assert b"<html" in (out / "report.html").read_bytes()


@pytest.mark.usefixtures("one_by_one")
def test_too_many_unreadable_files_end_the_job(jobs: Evaluations, source: Path) -> None:
    for number in range(12):
        (source / f"gone{number}").symlink_to("/nowhere")
    ended = jobs.evaluate(source, "--json", "--codecs", "png", "--out", source.parent / "out")
    assert (ended.code, ended.report["exit_code"], ended.outcomes["failed"]) == (3, 3, 12)
    assert "of 12 files failed" in ended.stderr
    left = json.loads((source.parent / "out/run.json").read_text())
    assert (left["exit_code"], len(left["failures"]), left["error"] in ended.stderr) == (3, 12, True)


@pytest.mark.usefixtures("one_by_one")
def test_a_file_that_could_not_be_listed_is_a_row(jobs: Evaluations, source: Path, tmp_path: Path) -> None:
    (source / "0-gone.png").symlink_to("/nowhere")
    ended = jobs.evaluate(source, "--json", "--codecs", "png", "--out", tmp_path / "out")
    assert (ended.code, ended.outcomes, ended.report["complete"]) == (0, {"measured": 4, "failed": 1}, True)
    [missed] = ended.report["evaluation"]["unmeasured"]
    assert (missed["key"], missed["codec"], missed["stage"]) == ("0-gone.png", None, "list")
    [row] = [r for r in pq.read_table(tmp_path / "out/measurements.parquet").to_pylist() if r["outcome"] == "failed"]
    assert (row["key"], row["stage"], row["error"]) == ("0-gone.png", "list", missed["error"])


@pytest.mark.usefixtures("one_by_one")
def test_a_part_is_sampled_and_the_whole_estimated(jobs: Evaluations, tmp_path: Path) -> None:
    files = {f"{n:02}.png": as_file(waves(20 + n, 30, n)) for n in range(40)}
    source = write_files(tmp_path / "many", files)
    ended = jobs.evaluate(source, "--json", "--codecs", "jpeg420", "--sample", 10, "--target-psnr", 32)
    found = EvaluationSummary.model_validate(ended.report["evaluation"])
    assert found.recommendation is not None
    assert (found.recommendation.files, found.recommendation.source_bytes) == (40, sum(len(data) for data in files.values()))
    assert 8 <= found.images == found.recommendation.sampled <= 12
    [choice] = found.recommendation.choices
    assert choice.total is not None
    assert choice.total.low_bytes < choice.total.bytes < choice.total.high_bytes < found.recommendation.source_bytes


@pytest.mark.usefixtures("local_ray")
def test_a_bucket_is_evaluated_on_ray(
    jobs: Evaluations, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in bucket.server.environment().items():
        monkeypatch.setenv(name, value)
    for key, data in FILES.items():
        bucket.server.client.put_object(Bucket=bucket.name, Key=f"in/{key}", Body=data)
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(evaluate.shipped_codec())
    words = ("--codec", copy, "--codecs", "cnn,webp", "qualities.cnn:mine=[8,32]", "qualities.webp=[10,60]", "workers.cpus=2")
    ended = jobs.evaluate(f"{bucket.url}/in", "--out", f"{bucket.url}/out", "--examples", 1, *words)
    assert ended.code == 0, ended.stderr
    out = open_store(f"{bucket.url}/out", bucket.config)
    summary = EvaluationSummary.model_validate_json(out.read("summary.json"))
    assert [(curve.codec, curve.label) for curve in summary.curves] == [("cnn:mine", "cnnbatch mine"), ("webp", "WebP")]
    assert summary.images == 4
    assert "report.html" in {info.key for info in out.list()}
    assert bucket.server.environment()["AWS_SECRET_ACCESS_KEY"] not in out.read("run.json").decode()


@pytest.mark.usefixtures("local_ray")
def test_a_task_that_kills_its_process_is_lost_alone() -> None:
    found = list(ray_tasks.run(["a", "poison", "b"], Fragile, run_id="poison", pauses_seconds=()))
    lost = [item for item in found if isinstance(item, ray_tasks.Lost)]
    assert {item for item in found if isinstance(item, str)} == {"A", "B"}
    assert [item.task for item in lost] == ["poison"]
    assert "died 3 times" in lost[0].error
    with pytest.raises(StorageError, match="away"):
        list(ray_tasks.run(["trouble"], Fragile, run_id="trouble", pauses_seconds=(0.01,)))


@pytest.mark.usefixtures("local_ray")
def test_tasks_are_taken_as_there_is_room() -> None:
    taken: list[str] = []

    def wanted() -> Iterator[str]:
        for number in range(50):
            taken.append(str(number))
            yield str(number)

    ahead = []
    for done, _ in enumerate(ray_tasks.run(wanted(), partial(Fragile), run_id="many", pauses_seconds=()), start=1):
        ahead.append(len(taken) - done)
    assert (len(taken), max(ahead) <= ray_tasks.IN_FLIGHT_A_CPU * 2) == (50, True)


def test_the_command_to_type_has_all_that_the_advice_is_of() -> None:
    def choice(codec: str, num_bytes: int | None, quality: float | None = None) -> Choice:
        total = None if num_bytes is None else Estimate(bytes=num_bytes, low_bytes=num_bytes, high_bytes=num_bytes)
        return Choice(codec=codec, label=codec, quality=quality, psnr_db=40.0, ms_ssim=None, total=total)

    def advice(*choices: Choice, **goal: object) -> Recommendation:
        total = Estimate(bytes=9, low_bytes=9, high_bytes=9)
        figures = {
            "strata": [],
            "files": 1,
            "source_bytes": 10,
            "sampled": 1,
            "transcoded": total,
            "confidence": 0.9,
            "method": "",
        }
        return Recommendation.model_validate({"measure": None, "target": None, "choices": choices, **figures, **goal})

    config = {"source": "s3://bucket/my photos", "codec": ["a/mine.safetensors", "psnr"], "exclude": ["*.tmp"]}
    settings = SourceSettings(kind="parquet", image_column=("photo", "thumbnail"))
    config["source_settings"] = settings.model_dump(mode="json")  # type: ignore[assignment]
    of_each = advice(
        choice("cnn:mine@2", 5), choice("cnn:psnr", 7), choice("webp", 1), measure="ssimulacra2", target=80, each=True
    )
    words = ["cnnbatch", "compress", "s3://bucket/my photos", "ARCHIVE", "--target-ssimulacra2=80", "--effort=2"]
    words += ["--codec=a/mine.safetensors", "--exclude=*.tmp", "source.kind=parquet"]
    words += ['source.image_column=["photo", "thumbnail"]']
    assert shlex.split(command_of(of_each, config) or "") == words
    asked = resolve(CompressConfig, file=None, flags={"source": "a", "archive": "b"}, words=words[-2:])
    assert asked.source_settings == settings
    job_parser("compress").parse_intermixed_args(words[2:])
    assert command_of(advice(choice("cnn", None), choice("webp", 1)), config) is None
