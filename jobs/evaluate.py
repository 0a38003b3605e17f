"""Evaluates codecs on the images below SOURCE: rate, distortion and speed side by side, and what SOURCE would shrink to.

list → sample → every file as it is and by the classical codecs (tasks) → by ours (actors) → means, BD-rates
→ the quality that reaches the target → examples → table, page, plots, Parquet
"""

import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa

from cnnbatch.codec import Codec, shipped_codec
from cnnbatch.containers import open_source
from cnnbatch.errors import CnnbatchError, StorageError, UsageError
from cnnbatch.evaluation import check_libraries, ours, output, pca, vq
from cnnbatch.evaluation.bd_rate import bd_rates
from cnnbatch.evaluation.codecs import CodecSpec
from cnnbatch.evaluation.examples import MOST_EXAMPLES, USUAL_EXAMPLES, ExampleTask, joined, panel_codecs, picture_bytes, spread
from cnnbatch.evaluation.measurement import TIMING, Limits, Measured
from cnnbatch.evaluation.measurement_table import Means, Measurements, means
from cnnbatch.evaluation.published import read_published
from cnnbatch.evaluation.recommendation import GoalSearch, Qualities, recommendation
from cnnbatch.evaluation.sampling import Stratum, learning_order, stratify
from cnnbatch.evaluation.selection import select
from cnnbatch.evaluation.summary import EvaluationSummary, Example, LeftOut, Recommendation
from cnnbatch.job_options import job_parser
from cnnbatch.stages.listing import list_source
from cnnbatch.stages.records import Failure, Tally
from cnnbatch.storage import ObjectInfo, StorageConfig, open_store, overlaps
from cnnbatch.storage.urls import plain_url
from jobs.command import run_as_module, run_job
from jobs.configuration import read_codec, resolve
from jobs.evaluation_report import FAILED_STAGES, EvaluationReport, describe, tally_of
from jobs.evaluation_workers import Cluster, CnnFile
from jobs.progress import Progress
from jobs.report import RunReport, new_run_id, shown
from jobs.settings import EvaluateConfig

logger = logging.getLogger(__name__)

MOST_ROUNDS = 5
"""Rounds of measuring the sample, each at one more quality; a few find it, and any round's answer already reaches the goal."""


class EvaluateJob:
    """One evaluation; it changes nothing below SOURCE."""

    def __init__(self, config: EvaluateConfig) -> None:
        """Checks all that can be wrong before anything is measured. Raises UsageError, StorageError, CodecFileError."""
        check_libraries()
        if config.out is not None and overlaps(config.source, config.out):
            places = f"{plain_url(config.source)}, {plain_url(config.out)}"
            raise UsageError(f"SOURCE and --out must not lie inside one another: {places}")
        self.config = config
        self.storage = StorageConfig.from_environment(**config.storage)
        files, specs = _codec_files(config.codec) if ours.NAME in config.codecs else ((), ())
        self.selection = select(config.codecs, specs, config.qualities)
        self.published = () if config.published is None else read_published(config.published)
        self.source = open_source(open_store(config.source, self.storage), config.source_settings, config=self.storage)
        self.source.check()
        self.out = None if config.out is None else open_store(config.out, self.storage)
        if self.out is not None:
            self.out.check_writable()
            output.check_place(self.out)
        self.found = EvaluationReport(output.JOB, new_run_id(), shown(config, self.storage))
        self.report: RunReport = self.found
        limits = Limits(config.max_source_bytes, config.max_pixels)
        workers, run_id = config.workers, self.report.run_id
        self.cluster = Cluster(self.source, self.selection, files, limits, workers, run_id, config.measured)
        self.measurements, self.files = Measurements(), dict[str, Measured]()
        self.left_out = list(self.selection.left_out)

    def execute(self) -> None:
        """Raises UsageError where nothing can be measured, TooManyFailures, and CnnbatchError where a store is in trouble."""
        try:
            self._run()
            self.report.finish(0)
        except (CnnbatchError, KeyboardInterrupt) as error:
            self.report.fail(error)
            with suppress(StorageError):  # it would hide why the run failed
                self._put_report()
            raise
        self._put_report()

    def _put_report(self) -> None:
        if self.out is not None:
            self.out.put(output.RUN, self.report.to_json().encode())

    def _run(self) -> None:
        listing = self._list()
        strata = stratify(listing, sample=self.config.sample, seed=self.config.seed)
        sample = [info for stratum in strata for info in stratum.sample]
        self._learn(learning_order(listing, strata, seed=self.config.seed), {info.key for info in sample})
        pictures = self._measure_all(sample)
        found = means(self.measurements.table(), self.specs, pictures=len(pictures))
        self.left_out += found.left_out
        if not found.curves:
            raise UsageError("no picture was coded by all codecs at all their qualities: choose others with --codecs")
        advice = self._recommend(strata, pictures, found)
        summary = self._summarise(found, advice)
        self.found.evaluation = summary.model_dump(mode="json")
        if self.out is not None:
            number = self.config.examples
            if number is None:
                number = MOST_EXAMPLES if summary.small else USUAL_EXAMPLES
            keys = spread((info.key for info in pictures if info.key in found.keys), number)
            examples = self._examples([info for info in pictures if info.key in keys], found, advice)
            self._put_report()
            output.write(self.out, summary.model_copy(update={"examples": examples}), self.measurements.table())

    @property
    def specs(self) -> list[CodecSpec]:
        """Specifications of the codecs that are measured."""
        lost = {item.codec for item in self.left_out}
        return [spec for spec in self.selection.specs if spec.name not in lost]

    def _list(self) -> pa.Table:
        listing = list_source(self.source, exclude=self.config.exclude)
        self.report.inputs = len(listing.unreadable)
        for failure in listing.unreadable:
            lost = ObjectInfo(failure.key, 0)
            self.measurements.add(Measured.lost(lost, failure.stage, f"{failure.error}: {failure.message}"))
        self._count_failures(listing.unreadable)
        if not listing.table.num_rows:
            raise UsageError(f"no files below {self.source.url}")
        if listing.table.column("size").null_count:
            raise UsageError(f"{self.source.url} does not report the sizes of its files, from which totals are estimated")
        return listing.table

    def _learn(self, infos: Sequence[ObjectInfo], sample: Collection[str]) -> None:
        """For the codecs that learn from the pictures."""
        learners = {vq.NAME: self.cluster.learn_books, pca.NAME: self.cluster.learn_components}
        for spec in (spec for spec in self.selection.classical if spec.name in learners):
            if any(info.key in sample for info in infos):
                logger.warning(
                    "%s is trained on pictures that it is measured on, for lack of others: its results are too good", spec.label
                )
            reason = learners[spec.name](infos)
            if reason is not None:
                self.left_out.append(LeftOut(codec=spec.name, label=spec.label, reason=reason))

    def _measure_all(self, infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Every file by every codec, the classical ones first: a file that kills its process is known before ours. Returns the
        files that are pictures."""
        self.report.inputs += len(infos)
        plan = {spec.name: spec.qualities for spec in self.specs}
        logger.info("run %s: %d files by %s", self.report.run_id, len(infos), ", ".join(plan))
        planned = [(info, plan) for info in infos]
        for measured in self._shown(self.cluster.measure_classical(planned, baseline=True), infos):
            self.files[measured.key] = replace(measured, rows=())
            self.measurements.add(measured)
            self._count(measured)
        pictures = [info for info in infos if self.files[info.key].decoded]
        if not pictures:
            first = next(row for row in self.measurements.table().to_pylist() if row["stage"] != "list")
            where = f"{len(infos):,} files below {self.source.url}"
            raise UsageError(f"no picture among {where}; first {first['key']!r}: {first['error']}")
        if self.selection.cnn:
            logger.info("%d pictures by our codec", len(pictures))
            planned = [(info, plan) for info in pictures]
            for measured in self._shown(self.cluster.measure_cnn(planned), pictures):
                self.measurements.add(measured)
        return pictures

    def _shown(self, results: Iterable[Measured], infos: Sequence[ObjectInfo]) -> Iterator[Measured]:
        """The results, with the progress of one pass over the files."""
        progress = Progress(len(infos), sum(info.known_bytes for info in infos))
        try:
            for measured in results:
                progress.add(tally_of(measured))
                yield measured
        finally:
            progress.finish()

    def _count(self, measured: Measured) -> None:
        self.report.tally = Tally.sum((self.report.tally, tally_of(measured)))
        if not measured.decoded and measured.rows[0].stage in FAILED_STAGES:
            row = measured.rows[0]
            error, _, message = (row.error or "").partition(": ")
            self._count_failures([Failure(measured.key, row.stage or "", error, message)], counted=True)

    def _count_failures(self, failures: Sequence[Failure], *, counted: bool = False) -> None:
        report = self.report
        report.failures = [*report.failures, *failures]
        if not counted:
            report.tally = Tally.sum((report.tally, Tally.of_failures(failures)))
        self.config.thresholds.check(len(report.failures), report.tally.total, report.failures, what="files failed")

    def _recommend(self, strata: Sequence[Stratum], pictures: Sequence[ObjectInfo], found: Means) -> Recommendation:
        """Measures the sample at more qualities until each codec's answer stands."""
        kept = {curve.codec for curve in found.curves}
        specs = [spec for spec in self.specs if spec.name in kept]
        search = GoalSearch(self.config.goal, specs, self.measurements.table(), found.keys, found.psnr_keys)
        for _ in range(MOST_ROUNDS):
            wanted = search.wanted()
            if not wanted:
                break
            logger.info("looking for the target: %s", ", ".join(f"{name} {_asked(asked)}" for name, asked in wanted.items()))
            planned = [(info, _plan_of(info.key, wanted)) for info in pictures]
            for measured in self.cluster.measure_classical(planned, baseline=False):
                self.measurements.add(measured)
            for measured in self.cluster.measure_cnn(planned):
                self.measurements.add(measured)
            search.learn(self.measurements.table(), wanted)
        return recommendation(self.config.goal, strata, self.files, search.choices(strata, self.files))

    def _summarise(self, found: Means, advice: Recommendation) -> EvaluationSummary:
        compared = [self.files[key] for key in found.keys]
        return EvaluationSummary(
            source=self.source.url,
            images=len(compared),
            pixels=sum(file.pixels for file in compared),
            source_bytes=sum(file.source_bytes for file in compared),
            created_at=self.report.started_at,
            hardware="; ".join(sorted({file.machine for file in compared})),
            timing=TIMING,
            curves=found.curves,
            bd_rates=tuple(bd_rates(found.curves)),
            recommendation=advice,
            unmeasured=found.unmeasured,
            left_out=tuple(self.left_out),
            examples=(),
            published=self.published,
        )

    def _examples(self, pictures: Sequence[ObjectInfo], found: Means, advice: Recommendation) -> tuple[Example, ...]:
        """Pictures by the first codec at the recommended quality, and by others at the same number of bytes."""
        kept = {curve.codec for curve in found.curves}
        panels = panel_codecs([spec for spec in self.specs if spec.name in kept])
        if not panels or not pictures:
            return ()
        first, others = panels[0], panels[1:]
        budget = picture_bytes(len(pictures), len(panels))
        chosen = {c.codec: c.quality for c in advice.choices}.get(first.name)
        if chosen is None:
            chosen = first.qualities[len(first.qualities) // 2]
        infos = {info.key: info for info in pictures}
        leading = [ExampleTask(info, (first.name,), budget, quality=chosen) for info in pictures]
        parts = list(self.cluster.examples(leading))
        sides = (
            tuple(spec.name for spec in others if spec in self.selection.cnn),
            tuple(spec.name for spec in others if spec in self.selection.classical),
        )
        parts += self.cluster.examples(
            [
                ExampleTask(infos[part.key], names, budget, num_bytes=part.panels[0].bytes)
                for part in parts
                for names in sides
                if names and part.panels
            ]
        )
        return joined(parts, [spec.name for spec in panels])


def _plan_of(key: str, wanted: Mapping[str, float | Qualities]) -> dict[str, tuple[float]]:
    """The settings to measure one picture at."""
    of_key = {name: asked.get(key) if isinstance(asked, Mapping) else asked for name, asked in wanted.items()}
    return {name: (quality,) for name, quality in of_key.items() if quality is not None}


def _asked(asked: float | Qualities) -> str:
    return f"of {len(asked):,} pictures" if isinstance(asked, Mapping) else f"{asked:g}"


def _codec_files(paths: Sequence[str]) -> tuple[tuple[CnnFile, ...], tuple[CodecSpec, ...]]:
    """The codec files, the shipped one where there are none; raises CodecFileError where one is none, or damaged."""
    if not paths:
        return (CnnFile(),), (ours.cnn_spec(Codec(shipped_codec(), device="cpu"), None),)
    contents = [read_codec(path) for path in paths]
    specs = tuple(ours.cnn_spec(Codec(data, device="cpu"), path) for path, data in zip(paths, contents, strict=True))
    if len({spec.name for spec in specs}) < len(specs):
        raise UsageError(f"two codec files have the same name, which must tell them apart: {', '.join(paths)}")
    return tuple(CnnFile(path, data) for path, data in zip(paths, contents, strict=True)), specs


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    args = job_parser("evaluate").parse_intermixed_args(argv)
    names = ("source", "codec", "out", "sample", "examples", "published", "exclude")
    flags = {name: getattr(args, name) for name in (*names, "target_psnr", "target_ms_ssim", "target_ssimulacra2")}
    for name in ("codecs", "measures"):
        words = getattr(args, name)
        flags[name] = None if words is None else [word.strip() for word in words.split(",")]
    job = EvaluateJob(resolve(EvaluateConfig, file=args.config, flags=flags, words=args.settings))
    run_job(job, describe, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(run_as_module("jobs.evaluate"))
