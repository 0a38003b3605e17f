"""Options of every command: those of the jobs come from `cnnbatch.job_options`, the others stand here.

Only what a parser needs is imported, as each new shell that completes words runs this.
"""

import argparse
from typing import TYPE_CHECKING, Final

from cnnbatch import job_options
from cnnbatch.choices import FORMATS
from cnnbatch.version import VERSION

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

SCALES: Final = ("1", "1/2", "1/4", "1/8", "1/16")

_DESCRIPTION: Final = """\
Compress folders and buckets of images, look into the archive, take pictures out of it, and keep it in order.
ARCHIVE is a folder or a URL (s3://bucket/prefix); endpoint and credentials come from the environment (AWS_...)."""

_EXAMPLES: Final = """\
examples:
  cnnbatch compress photos/ archive/             a folder into an archive, on a Ray of this machine or RAY_ADDRESS
  cnnbatch ls -l archive/ '2024/*'               what is in it
  cnnbatch get archive/ 2024/a.jpg -o a.jpg      one picture
  cnnbatch reconstruct archive/ back/            every picture
  eval "$(cnnbatch completion bash)"             completes commands and options in this shell

`cnnbatch COMMAND --help` has the options and examples of each."""

INFO_EXAMPLES: Final = ("cnnbatch info s3://bucket/archive", "cnnbatch info archive/ --sql | duckdb")
LS_EXAMPLES: Final = (
    "cnnbatch ls archive/ '2024/*'",
    """cnnbatch ls -l archive/ --where "width > 4000 and outcome = 'store'\"""",
)
GET_EXAMPLES: Final = (
    "cnnbatch get archive/ 2024/a.jpg -o a.png",
    "cnnbatch get archive/ '2024/*.jpg' -o back/",
    "cnnbatch get archive/ 2024/a.jpg -o - --scale 1/8 > preview.jpg",
)
DOCTOR_EXAMPLES: Final = ("cnnbatch doctor archive/", "cnnbatch doctor archive/ --mend --source photos/")
RESTORE_EXAMPLES: Final = ("cnnbatch restore-rows archive/ '2024/*' --dry-run",)

SHELLS: Final = ("bash", "zsh", "tcsh")


def command_parser() -> argparse.ArgumentParser:
    """The parser of a whole command line."""
    parser = argparse.ArgumentParser(
        prog="cnnbatch",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cnnbatch {VERSION}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_jobs(subparsers)
    for add in (
        _add_info,
        _add_ls,
        _add_get,
        _add_encode,
        _add_decode,
        _add_doctor,
        _add_erase,
        _add_compact,
        _add_restore,
        _add_serve,
        _add_completion,
    ):
        add(subparsers)
    return parser


def _add_jobs(subparsers: "Subparsers") -> None:
    """Lists the jobs in the help, and for completion; their words are read by parsers of their own."""
    classify: Subparsers | None = None
    for name, job in job_options.JOBS.items():
        first, _, second = name.partition(" ")
        if not second:
            job.fill(subparsers.add_parser(name, help=f"{job.help[0].lower()}{job.help[1:]}"))
            continue
        if classify is None:
            parser = subparsers.add_parser(first, help="recognise what an archive's pictures show, without decoding them")
            classify = parser.add_subparsers(dest="what", required=True)
        job.fill(classify.add_parser(second))


def _add(subparsers: "Subparsers", name: str, help: str, *examples: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog="\n  ".join(("examples:", *examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser._positionals.title = "required"
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    return parser


def _add_info(subparsers: "Subparsers") -> None:
    parser = _add(subparsers, "info", "show the figures of an archive or of a .cnb file", *INFO_EXAMPLES)
    parser.add_argument("what", metavar="ARCHIVE|FILE.cnb")
    parser.add_argument(
        "--sql", action="store_true", help="print how other tools read this archive: SQL, and Python in comments"
    )


def _add_ls(subparsers: "Subparsers") -> None:
    parser = _add(subparsers, "ls", "list the images of an archive by key", *LS_EXAMPLES)
    parser.add_argument("archive", metavar="ARCHIVE")
    which = parser.add_argument_group("which images")
    which.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="only keys that match; * crosses / (default: all)")
    which.add_argument(
        "--where", metavar="CONDITION", help="only images that meet it, such as \"label = 'cat' and width > 640\""
    )
    parser.add_argument("-l", "--long", action="store_true", help="show format, size, bytes of the original and quality, too")


def _add_get(subparsers: "Subparsers") -> None:
    parser = _add(subparsers, "get", "write images of an archive to files", *GET_EXAMPLES)
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("keys", metavar="KEY|GLOB", nargs="+", help="a key, or several, or globs in which * crosses /")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE|FOLDER/|-",
        help="where to write; - is stdout (default: the last part of the key, in this folder; several: their keys below it)",
    )
    _add_format(parser)
    _add_quick(parser)
    _add_force(parser)


def _add_serve(subparsers: "Subparsers") -> None:
    help = "show archives in a browser: gallery, IIIF and dashboard, read-only"
    parser = subparsers.add_parser("serve", help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser._positionals.title = "required"
    parser.add_argument("archives", metavar="ARCHIVE", nargs="+", help="folder or URL of an archive")
    parser.add_argument("--port", type=int, default=8765, help="port to listen on; 0 takes a free one (default: 8765)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any other than the default requires a token (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        action="append",
        default=[],
        help="originals to show beside the pictures; give one for each ARCHIVE, in the same order",
    )
    parser.add_argument(
        "--cors",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let pages of this origin read IIIF answers; * allows every origin; repeatable",
    )
    parser.add_argument("--public-url", metavar="URL", help="address under which a proxy publishes the server")
    job_options.add_source_settings(parser)
    limits = parser.add_argument_group("limits")
    for name, default, help in (
        ("workers", None, "decode at most N pictures at once (default: number of processors)"),
        ("queue", 256, "let at most N requests wait for a decoder; further ones get 503"),
        ("cache-mib", 512, "cache at most N MiB of decoded pictures"),
        ("decode-mib", 2048, "use at most N MiB for pictures while they are decoded"),
        ("max-megapixels", 400, "offer pictures above N megapixels as downloads only"),
    ):
        shown = help if default is None else f"{help} (default: {default})"
        limits.add_argument(f"--{name}", type=_positive, default=default, metavar="N", help=shown)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _add_encode(subparsers: "Subparsers") -> None:
    parser = _add(
        subparsers, "encode", "compress one image to a .cnb file", "cnnbatch encode a.jpg a.cnb --target-ssimulacra2 80"
    )
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("cnb", metavar="FILE.cnb")
    job_options.add_coding(parser)
    _add_force(parser)


def _add_decode(subparsers: "Subparsers") -> None:
    parser = _add(subparsers, "decode", "give the image of a .cnb file back", "cnnbatch decode a.cnb a.png")
    parser.add_argument("cnb", metavar="FILE.cnb")
    parser.add_argument("output", metavar="IMAGE", help="where to write; - is stdout")
    parser.add_argument("--codec", metavar="FILE", help="codec file, if not one that comes with cnnbatch")
    _add_format(parser)
    _add_quick(parser)
    _add_force(parser)


def _add_doctor(subparsers: "Subparsers") -> None:
    parser = _add(subparsers, "doctor", "find damage in an archive, and files that are no longer needed", *DOCTOR_EXAMPLES)
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument(
        "--mend", action="store_true", help="quarantine a torn last commit or a bad checkpoint, and repair what can be repaired"
    )
    originals = parser.add_mutually_exclusive_group()
    originals.add_argument(
        "--source",
        metavar="SOURCE",
        help="also read all shards and report which lost rows still have an original; with --mend, unreadable shards are "
        "removed from the log, and the next run archives their images again",
    )
    originals.add_argument("--no-source", action="store_true", help="the same when the originals no longer exist")
    job_options.add_source_settings(parser)
    parser.add_argument("--sweep", action="store_true", help="delete files that hold no live image, once their grace is over")
    _add_grace(parser)


def _add_erase(subparsers: "Subparsers") -> None:
    parser = _add(
        subparsers, "erase", "remove images for good: they are never ingested again", "cnnbatch erase archive/ a.jpg --verify"
    )
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("keys", metavar="KEY", nargs="+")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="search every file for the keys, replaced ones included; exit code 5 if any is found",
    )
    _add_grace(parser)


def _add_compact(subparsers: "Subparsers") -> None:
    parser = _add(subparsers, "compact", "merge small shards into fewer ones, sorted by key", "cnnbatch compact archive/")
    parser.add_argument("archive", metavar="ARCHIVE")


def _add_restore(subparsers: "Subparsers") -> None:
    parser = _add(
        subparsers,
        "restore-rows",
        "bring back images that --mirror-deletes removed, while their files still exist",
        *RESTORE_EXAMPLES,
    )
    parser.add_argument("archive", metavar="ARCHIVE")
    which = parser.add_argument_group("which images")
    which.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="only keys that match; * crosses / (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="list their keys, change nothing")


def _add_completion(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser("completion", help="print a script that completes commands and options in a shell")
    parser.add_argument("shell", choices=SHELLS)


def _add_grace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grace",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="how long to keep files that hold no live image (default: 24)",
    )
    parser.add_argument(
        "--force", action="store_true", help="allow a grace of less than an hour; no run may be writing meanwhile"
    )


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the file; a stored original always comes back as it was "
        "(default: by the ending of the file's name, else original)",
    )


def _add_quick(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draft", action="store_true", help="decode without the network, in a third of the time")
    parser.add_argument("--scale", choices=SCALES, default="1", help="a smaller picture; the smaller, the faster (default: 1)")


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace an existing file")
