"""Options of the jobs: ``cnnbatch compress …`` and ``python -m jobs.compress …`` are the same command.

Nothing here imports what a job needs, so that its help and its usage errors come at once.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cnnbatch.choices import FORMATS, LAYOUTS, LEVELS

SOURCE_SETTING: Final = re.compile(r"source\.\w+=")


@dataclass(frozen=True, slots=True)
class JobCommand:
    """One command: ``add`` gives a parser its arguments."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    examples: tuple[str, ...]

    def fill(self, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """The same parser with description, arguments and examples."""
        parser.description = f"{self.help}."
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.allow_abbrev = False
        parser._positionals.title = "required"
        self.add(parser)
        parser.epilog = "\n  ".join(("examples:", *self.examples))
        return parser


def job_parser(name: str) -> argparse.ArgumentParser:
    """The parser of ``cnnbatch NAME``, a key of `JOBS`; its words are read with ``parse_intermixed_args``."""
    return JOBS[name].fill(argparse.ArgumentParser(prog=f"cnnbatch {name}"))


def classify_parser() -> argparse.ArgumentParser:
    """The parser of the one word behind ``cnnbatch classify``; each of both commands has its own."""
    parser = argparse.ArgumentParser(
        prog="cnnbatch classify",
        description="Recognise what an archive's pictures show, without decoding them.",
        usage="cnnbatch classify train ARCHIVE LABELS HEAD_FILE [--head linear|mlp] [--codec ID] [options]\n"
        "       cnnbatch classify predict ARCHIVE HEAD_FILE OUT [--keys GLOB] [options]",
    )
    parser.add_argument("command", choices=("train", "predict"), help="each has its own --help")
    return parser


def add_coding(parser: argparse.ArgumentParser) -> None:
    """Adds what says how images are coded: `CompressionSettings`, and the codec file."""
    quality = parser.add_argument_group("quality")
    goal = quality.add_mutually_exclusive_group()
    goal.add_argument(
        "--quality",
        type=float,
        metavar="Q",
        help="0 to 63, in quarters (default: 40, and more for an image that would score below SSIMULACRA2 75)",
    )
    goal.add_argument("--target-psnr", type=float, metavar="DB", help="search each image's quality for this PSNR")
    goal.add_argument("--target-bpp", type=float, metavar="BPP", help="search each image's quality for these bits per pixel")
    goal.add_argument("--target-ssimulacra2", type=float, metavar="S", help="search each image's quality for this SSIMULACRA2")
    goal.add_argument("--lossless", action="store_true", default=None, help="give every file back byte for byte")
    quality.add_argument("--min-psnr", type=float, metavar="DB", help="raise the quality until this is met, else keep the file")
    quality.add_argument("--min-ssimulacra2", type=float, metavar="S", help="the same for SSIMULACRA2")
    quality.add_argument("--measure", choices=["ssimulacra2"], help="record SSIMULACRA2 as well as PSNR")
    effort = "search for better bitstreams: 1 takes some thirty times as long (default: 0)"
    quality.add_argument("--effort", type=int, metavar="N", help=effort)
    shipped = "codec file, or the name of one that comes with cnnbatch (default: eye)"
    quality.add_argument("--codec", metavar="FILE", help=shipped)
    quality.add_argument(
        "--decode",
        action="store_true",
        default=None,
        help="also encode HEIC, JPEG 2000 and JPEG XL, which come back as AVIF, and 16-bit PNG and TIFF that hold 8-bit "
        "samples; HEIC needs cnnbatch[heif]",
    )


def add_source_settings(parser: argparse.ArgumentParser) -> None:
    """Adds to the help the settings that say how a source is read; they are words that match `SOURCE_SETTING`."""
    parser.add_argument_group(
        "settings of SOURCE (docs/datasets.md)",
        "  source.kind=auto|folder|webdataset|parquet|zip|manifest   what SOURCE holds\n"
        "  source.manifest=LIST       the keys or URLs below SOURCE that a CSV, JSON Lines\n"
        "                             or Parquet file names (source.key_column=NAME)\n"
        "  source.sidecars=true       a.txt, a.json, a.xmp … go with a.jpg\n"
        "  source.image_column=NAME   of tables; source.label=NAME: what says the class",
    )


def _add_compress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder or URL with images, tars, Parquet tables or zip files, such as photos/ or s3://bucket/photos",
    )
    parser.add_argument("archive", metavar="ARCHIVE", help="folder or URL of the archive; created if missing")
    add_source_settings(parser)
    add_coding(parser)
    which = parser.add_argument_group("which images")
    which.add_argument("--exclude", action="append", metavar="GLOB", help="leave out keys; * crosses /; repeatable")
    which.add_argument("--recompress", action="store_true", default=None, help="also re-encode images of other settings")
    which.add_argument("--retry-failed", metavar="RUN", help="process only the keys that failed in that run")
    which.add_argument("--mirror-deletes", action="store_true", default=None, help="remove images that vanished from SOURCE")
    which.add_argument(
        "--delete-limit",
        type=float,
        metavar="SHARE",
        help="largest share of the archive's images to remove at once (default: 0.1)",
    )
    run = _add_common(parser)
    compact = "merge small shards at the end of a run that replaced or removed rows"
    run.add_argument("--compact", action="store_true", default=None, help=compact)
    run.add_argument("--dry-run", action="store_true", help="report what would be done, without writing anything")


def _add_reconstruct(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="ARCHIVE", help="folder or URL of the archive")
    parser.add_argument("destination", metavar="DESTINATION", help="folder or URL to write the images to")
    what = parser.add_argument_group("what comes back")
    what.add_argument("--keys", metavar="GLOB", help="only these keys; * crosses /")
    what.add_argument("--format", choices=FORMATS, help="default: original")
    what.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="original (default): tars as tars, files as files; folder: files alone; webdataset, parquet: one file per shard",
    )
    what.add_argument("--draft", action="store_const", const="draft", help="decode without the network, in a third of the time")
    what.add_argument("--force", action="store_true", default=None, help="replace existing files, also inside or around SOURCE")
    _add_report_file(_add_common(parser))


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="ARCHIVE", help="folder or URL of the archive; only the run report is added to it")
    what = parser.add_argument_group("what is verified")
    what.add_argument(
        "--level",
        choices=LEVELS,
        help="log: every shard exists; checksums: every byte is as written; decode: every image decodes; source: every "
        "image matches SOURCE. Each level includes those before it. Default: checksums, with --source: source",
    )
    what.add_argument("--source", metavar="SOURCE", help="the originals; with --level decode only their PSNR is compared")
    what.add_argument("--exclude", action="append", metavar="GLOB", help="keys of SOURCE to ignore; * crosses /; repeatable")
    add_source_settings(parser)
    _add_report_file(_add_common(parser))


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder or URL with images; nothing below it is changed")
    add_source_settings(parser)
    codecs = parser.add_argument_group("codecs")
    codecs.add_argument("--codecs", metavar="A,B", help="which to compare, such as cnn,jpeg444,webp,avif,jxl; default: all")
    codecs.add_argument(
        "--codec",
        action="append",
        metavar="FILE",
        help="codec file, or the name of a shipped one; repeatable (default: eye)",
    )
    codecs.add_argument("--published", metavar="FOLDER", help="folder of JSON files with other curves to draw beside ours")
    which = parser.add_argument_group("which images")
    which.add_argument("--sample", type=int, metavar="N", help="files to measure, by format and size; default 100, 0: all")
    which.add_argument("--exclude", action="append", metavar="GLOB", help="leave out keys; * crosses /; repeatable")
    quality = parser.add_argument_group("quality")
    quality.add_argument("--target-psnr", type=float, metavar="DB", help="recommend the quality with this mean PSNR")
    quality.add_argument("--target-ms-ssim", type=float, metavar="X", help="recommend the quality with this mean MS-SSIM")
    quality.add_argument("--target-ssimulacra2", type=float, metavar="S", help="find each picture's quality for this score")
    quality.add_argument(
        "--measures",
        metavar="A,B",
        help="which of psnr, msssim, ssimulacra2, butteraugli; default: all but the last, which takes longest",
    )
    result = parser.add_argument_group("result")
    result.add_argument("--out", metavar="FOLDER", help="folder or URL for the page, plots, Parquet and JSON")
    result.add_argument("--examples", type=int, metavar="N", help="pictures on the page; default 6, small ones 24")
    _add_common(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder or URL with images, or an archive")
    parser.add_argument("codec_file", metavar="CODEC_FILE", help="file or URL to write, such as mine.safetensors")
    codec = parser.add_argument_group("codec")
    codec.add_argument("--architecture", choices=("hyperprior", "dense"), help="dense: small pictures of one size")
    codec.add_argument("--labels", metavar="FILE", help="CSV or Parquet with key and label: dense also learns to recognise")
    codec.add_argument(
        "--start",
        metavar="FILE",
        help="codec file, or the name of one that comes with cnnbatch, to start from; grown to the sizes in model.…",
    )
    run = _add_common(parser)
    run.add_argument("--minutes", type=float, metavar="M", help="wall-clock time, resumed runs included; default 60")
    run.add_argument("--processes", type=int, metavar="N", help="workers.most: processes that share the work; default 1")
    run.add_argument("--resume", action="store_true", default=None, help="continue from the checkpoint, or from CODEC_FILE")


def _add_classify_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="ARCHIVE", help="folder or URL of the archive")
    parser.add_argument("labels", metavar="LABELS", help="CSV or Parquet file with the columns key and label")
    parser.add_argument("head", metavar="HEAD_FILE", help="file to write, such as head.safetensors")
    head = parser.add_argument_group("head")
    head.add_argument("--head", dest="kind", choices=("linear", "mlp"), help="default: mlp, with one hidden layer")
    head.add_argument("--codec", metavar="ID", help="first digits of the codec to take, if the archive has several")
    _add_common(parser)


def _add_classify_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="ARCHIVE", help="folder or URL of the archive")
    parser.add_argument("head", metavar="HEAD_FILE", help="what train wrote; or codec: the head inside the codec file")
    parser.add_argument("out", metavar="OUT", help="folder or URL for Parquet files of key, label, probability, outcome")
    which = parser.add_argument_group("which images")
    which.add_argument("--keys", metavar="GLOB", help="only these keys; * crosses /")
    _add_common(parser)


def _add_nightly(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml", help="see jobs/configs/nightly.yaml; only `archives` is required")
    run = _add_words(parser, "workers.most=4")
    run.add_argument("--json", action="store_true", help="print the report as JSON on stdout, not as Markdown")
    run.add_argument(
        "--dry-run", action="store_true", help="report what would be done and its cost; write nothing, read no image"
    )


def _add_words(parser: argparse.ArgumentParser, example: str) -> argparse._ArgumentGroup:
    run = parser.add_argument_group("the run")
    run.add_argument("settings", nargs="*", default=[], metavar="name=value", help=f"any setting, such as {example}")
    return run


def _add_common(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the options every job has that prints a run report."""
    run = _add_words(parser, "workers.cpus=4")
    run.add_argument("--config", metavar="F.yaml", help="read settings from this file; flags and name=value win over it")
    run.add_argument("--json", action="store_true", help="print the run report as JSON on stdout")
    return run


def _add_report_file(run: argparse._ArgumentGroup) -> None:
    """Adds the option of jobs that only read the archive, which need not be able to keep their report."""
    run.add_argument("--report", metavar="FILE", type=Path, help="also write the run report to this file, as JSON")


JOBS: Final[Mapping[str, JobCommand]] = {
    "compress": JobCommand(
        "Compress a folder or bucket of images",
        _add_compress,
        (
            "cnnbatch compress photos/ archive/ --dry-run",
            "cnnbatch compress s3://bucket/photos s3://bucket/archive --target-ssimulacra2 80 --min-psnr 34",
            "cnnbatch compress photos/ archive/ --exclude '*.tmp' workers.cpus=4 shards.images=500",
            "cnnbatch compress photos/ archive/ source.manifest=labels.csv",
        ),
    ),
    "reconstruct": JobCommand(
        "Give the images of an archive back",
        _add_reconstruct,
        ("cnnbatch reconstruct archive/ back/", "cnnbatch reconstruct archive/ back/ --keys '2024/*' --format png"),
    ),
    "verify": JobCommand(
        "Verify that an archive is what it says",
        _add_verify,
        ("cnnbatch verify archive/", "cnnbatch verify archive/ --source photos/ --report verified.json"),
    ),
    "evaluate": JobCommand(
        "Compare codecs on a folder or bucket of images",
        _add_evaluate,
        (
            "cnnbatch evaluate photos/ --sample 30 --out evaluation/",
            "cnnbatch evaluate photos/ --codecs cnn,webp,avif --target-ssimulacra2 80",
        ),
    ),
    "train": JobCommand(
        "Train a codec on a folder or bucket of images",
        _add_train,
        ("cnnbatch train photos/ mine.safetensors --start eye --minutes 120",),
    ),
    "classify train": JobCommand(
        "Learn a head from labelled pictures",
        _add_classify_train,
        ("cnnbatch classify train archive/ labels.csv head.safetensors",),
    ),
    "classify predict": JobCommand(
        "Predict the label of every picture",
        _add_classify_predict,
        ("cnnbatch classify predict archive/ head.safetensors predictions/ --keys '2024/*'",),
    ),
    "nightly": JobCommand(
        "Bring archives up to date, verify, merge and clean them, and report",
        _add_nightly,
        ("cnnbatch nightly nightly.yaml --dry-run",),
    ),
}
"""Jobs by the words that follow ``cnnbatch``."""

MODULES: Final = {name.partition(" ")[0]: f"jobs.{name.partition(' ')[0]}" for name in JOBS}
"""Modules whose ``main`` does them, by the first word."""
