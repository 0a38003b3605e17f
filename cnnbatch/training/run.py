"""The surroundings of a training process: its place among the others, the state it goes on from, where states are kept."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import torch

STATE: Final = "state.safetensors"
"""The file of a checkpoint."""

Write = Callable[[Path], None]
"""Writes a state to a local file."""

logger = logging.getLogger(__name__)


class Run(Protocol):
    """The interface of a run for a trainer: its own surroundings, or those that a cluster gives it."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def state(self) -> AbstractContextManager[Path | None]:
        """The last checkpoint as a local file, None where there is none yet."""

    def keep(self, write: Write) -> None:
        """Keeps a checkpoint. Every process calls it at the same step; that of the first one is kept."""

    def keep_beside(self, write: Write) -> None:
        """Keeps the state before the learning rate falls, for another run to start from; of the first process alone."""

    def tell(self, figures: Mapping[str, float]) -> None:
        """Tells how far the first process is, for progress and the loss curve."""

    def say(self, text: str) -> None:
        """A line of the first process for the log of whoever started the run."""


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A run whose states lie beside each other on this machine."""

    checkpoint: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def before_cooldown(self) -> Path:
        """The place of the state before the learning rate falls."""
        return self.checkpoint.with_suffix(".before-cooldown")

    @contextmanager
    def state(self) -> Iterator[Path | None]:
        yield self.checkpoint if self.checkpoint.exists() else None

    def keep(self, write: Write) -> None:
        if not self.rank:
            write(self.checkpoint)

    def keep_beside(self, write: Write) -> None:
        if not self.rank:
            write(self.before_cooldown)

    def tell(self, figures: Mapping[str, float]) -> None:
        logger.debug("%s", figures)

    def say(self, text: str) -> None:
        logger.info("%s", text)
