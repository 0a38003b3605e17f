"""One line of progress: redrawn on a terminal, logged every ten seconds elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cnnbatch.stages.records import Tally

LOG_SECONDS = 10.0
DRAW_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """Shows how far a job is: ``total`` inputs of ``total_bytes``."""

    total: int
    total_bytes: int
    tally: Tally = field(default_factory=Tally)
    _started: float = field(default_factory=time.monotonic)
    _shown: float = 0.0
    _complete_shown: bool = False

    def add(self, tally: Tally) -> None:
        """Counts one shard's result."""
        self.tally = Tally.sum((self.tally, tally))
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self._shown >= (DRAW_SECONDS if terminal else LOG_SECONDS):
            self._shown = now
            self._show(terminal)

    def finish(self) -> None:
        """Shows the last state and ends the line; nothing where there was nothing to do."""
        if not self.total:
            return
        terminal = sys.stderr.isatty()
        if terminal or not self._complete_shown:
            self._show(terminal)
        if terminal:
            sys.stderr.write("\n")

    def _show(self, terminal: bool) -> None:
        self._complete_shown = self.tally.total >= self.total
        if terminal:
            sys.stderr.write(f"\r\x1b[K{self.line()}")
            sys.stderr.flush()
        else:
            logger.info(self.line())

    def line(self) -> str:
        """For people: inputs done, speed, ratio, time left."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        done, t = self.tally.total, self.tally
        left = seconds * (self.total - done) / done if done else 0.0
        parts = [
            f"{done:,}/{self.total:,} images",
            f"{done / seconds:.1f} images/s",
            f"{t.pixels / 1e6 / seconds:.2f} MP/s",
        ]
        if t.payload_bytes:
            parts.append(f"ratio {t.source_bytes / t.payload_bytes:.2f}")
        if t.images.get("failed"):
            parts.append(f"{t.images['failed']} failed")
        parts.append(f"ETA {_duration(left)}" if done < self.total else f"in {_duration(seconds)}")
        return " · ".join(parts)


@dataclass(slots=True)
class TrainingProgress:
    """Shows how far a training run is, by what its first process tells."""

    _first: Mapping[str, float] = field(default_factory=dict)
    _shown: float = -math.inf
    _on_terminal: bool = False

    def add(self, figures: Mapping[str, float]) -> None:
        """Takes new ``step``, ``seconds``, ``pixels``, ``loss`` and ``of_seconds``."""
        if not self._first or figures["step"] < self._first["step"]:  # gone on from a checkpoint
            self._first = figures
        now = time.monotonic()
        self._on_terminal = sys.stderr.isatty()
        if now - self._shown < (DRAW_SECONDS if self._on_terminal else LOG_SECONDS):
            return
        self._shown = now
        if self._on_terminal:
            sys.stderr.write(f"\r\x1b[K{self.line(figures)}")
            sys.stderr.flush()
        else:
            logger.info(self.line(figures))

    def finish(self) -> None:
        """Ends the line."""
        if self._on_terminal:
            sys.stderr.write("\n")

    def line(self, figures: Mapping[str, float]) -> str:
        """For people: steps done, loss, speed, time left."""
        seconds, steps, pixels = (figures[name] - self._first[name] for name in ("seconds", "step", "pixels"))
        parts = [f"step {figures['step']:,.0f}", f"loss {figures['loss']:.4f}"]
        if seconds > 0:
            parts += [f"{steps / seconds:.2f} steps/s", f"{pixels / 1e6 / seconds:.2f} MP/s"]
        return " · ".join([*parts, f"ETA {_duration(max(0.0, figures['of_seconds'] - figures['seconds']))}"])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
