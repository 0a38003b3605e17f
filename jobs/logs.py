"""The log on stderr: one line a record, or one JSON object, and no character of others' text that steers a terminal."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

from cnnbatch.text import visible, visible_lines
from jobs.metrics import SHARDS

LOG_VARIABLE: Final = "CNNBATCH_LOG"
"""An environment variable: ``json`` makes every job log JSON, with a line a shard."""


class Lines(logging.Formatter):
    """The time and the message on one line; a traceback keeps its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in the standard library
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return visible_lines(super().formatException(ei).split("\n"))


class JsonLines(logging.Formatter):
    """One JSON object a line; what a record brings as ``fields`` lies beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        content = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(content | getattr(record, "fields", {}), ensure_ascii=False)
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def begin_log(level: int = logging.INFO) -> None:
    """Sends the log of this process to stderr, unless somebody has done so already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[handler])
    if logging.getLogger(SHARDS).level == logging.NOTSET:
        logging.getLogger(SHARDS).setLevel(logging.WARNING)
    if os.environ.get(LOG_VARIABLE) == "json":
        log_shards(as_json=True)


def log_shards(*, as_json: bool) -> None:
    """Turns on the line that each finished shard leaves in the log; ``as_json``: every line becomes a JSON object."""
    logging.getLogger(SHARDS).setLevel(logging.INFO)
    if as_json:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
