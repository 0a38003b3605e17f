"""Recognises what is on an archive's pictures from their latents, which are entropy-decoded and never made pixels.

    train     labels ∩ keys → one task a shard → features → head, its accuracy on held-out pictures → HEAD_FILE
    predict   one task a shard → features → head → a Parquet file of key, label, probability, outcome below OUT

A head knows the features of the codec file that it was trained on and of no other: pictures of other codecs, stored originals
and damaged rows are counted, and are rows without a label in OUT. HEAD_FILE is ``codec`` for the head that a codec file of
`jobs.train --architecture dense --labels` carries itself.
"""

import sys
from collections.abc import Sequence

from cnnbatch.job_options import classify_parser, job_parser
from jobs.classify_job import ClassifyJob, ClassifyReport
from jobs.classify_predict import PredictJob
from jobs.classify_train import SAW_LABELS, TrainJob
from jobs.command import run_as_module, run_job
from jobs.configuration import resolve
from jobs.report import RunReport
from jobs.settings import ClassifyConfig


def describe(report: RunReport) -> list[str]:
    """The report in a few lines for people."""
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(report.tally.images.items())) or "none"
    lines = [f"run {report.run_id}: {report.inputs:,} pictures: {outcomes}"]
    if isinstance(report, ClassifyReport) and (found := report.classification) is not None:
        lines.append(
            f"accuracy {100 * found['accuracy']:.1f} % on {found['held-out']:,} held-out pictures of {len(found['classes'])} "
            f"classes (always the commonest class: {100 * found['commonest']:.1f} %)"
        )
        if found["codec_saw_labels"]:
            lines.append(SAW_LABELS)
        if found["labels_without_picture"]:
            lines.append(f"{found['labels_without_picture']:,} of {found['labels']:,} labels name no picture of the archive")
    lines += [f"failed: {f.key}: {f.message}" for f in report.failures[:10]]
    return lines


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    command = classify_parser().parse_args(argv[:1]).command
    args = job_parser(f"classify {command}").parse_intermixed_args(argv[1:])
    job: ClassifyJob
    if command == "train":
        flags = {"archive": args.archive, "labels": args.labels, "head": args.head, "codec": args.codec}
        flags["training.kind"] = args.kind
        job = TrainJob(resolve(ClassifyConfig, file=args.config, flags=flags, words=args.settings))
    else:
        flags = {"archive": args.archive, "head": args.head, "out": args.out, "keys": args.keys}
        job = PredictJob(resolve(ClassifyConfig, file=args.config, flags=flags, words=args.settings))
    run_job(job, describe, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.classify"))
