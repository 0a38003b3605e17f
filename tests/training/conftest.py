"""What every test of training needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from cnnbatch.training.run import STATE, LocalRun
from jobs import engine, train_ray
from jobs.training import TrainTask, work


@pytest.fixture(autouse=True)
def settings_of_the_process() -> Iterator[None]:
    """A trainer sets threads and denormals for its whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@dataclass(frozen=True, slots=True)
class HeardRun(LocalRun):
    """A run in this process whose driver hears what it tells."""

    hear: train_ray.Hear = field(kw_only=True)

    def tell(self, figures: Mapping[str, float]) -> None:
        self.hear(train_ray.TOLD, dict(figures))

    def say(self, text: str) -> None:
        self.hear(train_ray.SAID, text)


def fit_here(task: TrainTask, place: str, workers: engine.Workers, hear: train_ray.Hear) -> None:
    """The first process of a run in this one, its checkpoint in the folder of the run."""
    state = Path(place) / STATE
    with task.start() as start:
        if start is not None and not state.exists():
            state.write_bytes(start.read_bytes())
    work(task, HeardRun(state, hear=hear))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`jobs.train` in this process."""
    monkeypatch.setattr(train_ray, "fit", fit_here)
