"""A job as seen from outside: Prometheus metrics (through Ray) and one log line a shard.

Ray exports the metrics on each node's metrics port under ``ray_`` + their name; `METRICS` is all of them. A job that has not
started Ray has none. The log lines come from the logger `SHARDS`, which `jobs.command` turns on.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Final

import ray
from ray.util.metrics import Counter, Gauge

from cnnbatch.stages.records import Tally

SHARDS: Final = "cnnbatch.shards"
logger = logging.getLogger(SHARDS)

METRICS: Final[dict[str, tuple[Callable[..., Any], str, tuple[str, ...]]]] = {
    "cnnbatch_images_total": (Counter, "Inputs by what became of them", ("job", "archive", "outcome")),
    "cnnbatch_failures_total": (Counter, "Inputs that failed or were stored, by reason", ("job", "archive", "reason")),
    "cnnbatch_pixels_total": (Counter, "Pixels of the images", ("job", "archive")),
    "cnnbatch_source_bytes_total": (Counter, "Bytes of the originals", ("job", "archive")),
    "cnnbatch_payload_bytes_total": (Counter, "Bytes that the archive holds of them", ("job", "archive")),
    "cnnbatch_stage_seconds_total": (Counter, "Seconds of workers, by stage", ("job", "archive", "stage")),
    "cnnbatch_ratio": (Gauge, "Bytes of the originals by bytes in the archive, of the last shard", ("job", "archive")),
    "cnnbatch_newest_shard_timestamp_seconds": (Gauge, "Unix time at which the newest shard was committed", ("archive",)),
    "cnnbatch_step_outcome": (Gauge, "Exit code of a night's step", ("archive", "step")),
    "cnnbatch_spot_drought": (Gauge, "On-demand workers asked for because spot is dry", ()),
}
"""Kind, description and tags by name. Counters end in ``_total``, which Ray adds to no name that has it."""


@functools.cache
def _metric(name: str) -> Any:
    kind, description, tags = METRICS[name]
    return kind(name, description=description, tag_keys=tags)


def count(name: str, amount: float, **tags: str) -> None:
    """Adds to a counter; nothing where Ray has not been started."""
    if amount and ray.is_initialized():
        _metric(name).inc(amount, tags=tags)


def show(name: str, value: float, **tags: str) -> None:
    """Sets a gauge; nothing where Ray has not been started."""
    if ray.is_initialized():
        _metric(name).set(value, tags=tags)


def record_shard(job: str, archive: str, number: int, tally: Tally) -> None:
    """One finished shard: into the metrics, and as a line of the log. ``archive``: its URL without credentials."""
    for outcome, images in tally.images.items():
        count("cnnbatch_images_total", images, job=job, archive=archive, outcome=outcome)
    for reason, images in tally.reasons.items():
        count("cnnbatch_failures_total", images, job=job, archive=archive, reason=reason)
    for stage, seconds in tally.seconds.items():
        count("cnnbatch_stage_seconds_total", seconds, job=job, archive=archive, stage=stage)
    count("cnnbatch_pixels_total", tally.pixels, job=job, archive=archive)
    count("cnnbatch_source_bytes_total", tally.source_bytes, job=job, archive=archive)
    count("cnnbatch_payload_bytes_total", tally.payload_bytes, job=job, archive=archive)
    if tally.payload_bytes:
        show("cnnbatch_ratio", tally.source_bytes / tally.payload_bytes, job=job, archive=archive)
    _log_shard(job, archive, number, tally)


def _log_shard(job: str, archive: str, number: int, tally: Tally) -> None:
    images = ", ".join(f"{images:,} {outcome}" for outcome, images in sorted(tally.images.items())) or "no images"
    seconds = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in tally.seconds.items())
    fields = {
        "job": job,
        "archive": archive,
        "shard": number,
        "images": dict(tally.images),
        "reasons": dict(tally.reasons),
        "pixels": tally.pixels,
        "source_bytes": tally.source_bytes,
        "payload_bytes": tally.payload_bytes,
        "seconds": {stage: round(seconds, 3) for stage, seconds in tally.seconds.items()},
    }
    megabytes = f"{tally.source_bytes / 1e6:.1f} MB → {tally.payload_bytes / 1e6:.1f} MB"
    logger.info("%s shard %d: %s; %s; %s", job, number, images, megabytes, seconds or "-", extra={"fields": fields})
