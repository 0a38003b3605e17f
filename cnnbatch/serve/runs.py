"""The last runs, by the reports that they left in the archive."""

import re
from collections.abc import Mapping
from typing import Any, Final

from cnnbatch.archive.leftovers import RUNS
from cnnbatch.errors import CnnbatchError
from cnnbatch.storage import Store, parse_json

SHOWN: Final = 40
MAX_BYTES: Final = 64 << 20
AT_ONCE: Final = 8

_REPORT: Final = re.compile(rf"{RUNS}/((?:[a-z]+-)?(\d{{8}}T\d{{6}}Z)-[0-9a-f]+)\.json")


def last_runs(store: Store) -> list[dict[str, Any]]:
    """The newest reports, the oldest of them first; what is none is left out. Raises StorageError."""
    found = [(match[2], info) for info in store.list(RUNS) if (match := _REPORT.fullmatch(info.key))]
    newest = [info for _, info in sorted(found, key=lambda one: one[0])[-SHOWN:]]
    order = {info.key: number for number, info in enumerate(newest)}
    shown: list[tuple[int, dict[str, Any]]] = []
    for info, body in store.get_many(newest, max_bytes=MAX_BYTES, concurrency=AT_ONCE):
        if isinstance(body, bytes) and (run := _shown(body)) is not None:
            shown.append((order[info.key], run))
    return [run for _, run in sorted(shown, key=lambda one: one[0])]


def _shown(body: bytes) -> dict[str, Any] | None:
    """Figures and words of one report: nothing of its configuration, which names places."""
    try:
        report = parse_json(body)
        parts = [part for part in report.get("archives", ()) if isinstance(part, Mapping)]
        tally = report.get("tally") or {}
        images = tally.get("images") or {}
        steps = [step for part in parts for step in part.get("steps", ())]
        return {
            "run": _text(report["run_id"]),
            "job": _text(report.get("job", "compress")),
            "started_at": _text(report.get("started_at")),
            "finished_at": _text(report.get("finished_at")),
            "exit_code": _number(report.get("exit_code")),
            "images": sum(_number(part.get("images")) for part in parts) or sum(_number(count) for count in images.values()),
            "outcomes": {_text(name): _number(count) for name, count in images.items()},
            "source_bytes": _number(tally.get("source_bytes")) or sum(_number(part.get("source_bytes")) for part in parts),
            "payload_bytes": _number(tally.get("payload_bytes")),
            "failures": len(report.get("failures") or ()),
            "findings": len(report.get("findings") or ()) + sum(len(part.get("findings") or ()) for part in parts),
            "steps": [
                {
                    "name": _text(step.get("name")),
                    "outcome": _text(step.get("outcome")),
                    "seconds": _number(step.get("seconds")),
                }
                for step in steps
            ],
        }
    except (ValueError, LookupError, TypeError, AttributeError, CnnbatchError):
        return None


def _text(value: object) -> str:
    return str(value)[:200] if value is not None else ""


def _number(value: object) -> float | int:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 else 0
