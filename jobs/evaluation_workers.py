"""The parts of `jobs.evaluate` that run on the cluster: actors that hold our codec, tasks for the classical codecs."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray

from cnnbatch.codec import Codec, shipped_codec
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.evaluation import pca, vq
from cnnbatch.evaluation.codecs import CodecSpec, ImageCodec, library_codec
from cnnbatch.evaluation.examples import ExampleMaker, ExampleTask
from cnnbatch.evaluation.measurement import Limits, Measured, Measurer, MeasureTask
from cnnbatch.evaluation.ours import CnnCodec
from cnnbatch.evaluation.selection import Selection
from cnnbatch.evaluation.summary import Example, Measure
from cnnbatch.storage import ObjectInfo, Source
from jobs import engine, ray_tasks

logger = logging.getLogger(__name__)

MakeWorker = Callable[[Source, Mapping[str, ImageCodec], Limits], engine.Worker[Any, Any]]
"""`Measurer` or `ExampleMaker`."""

Plan = Mapping[str, Sequence[float]]
"""Codec word → qualities."""

Planned = Iterable[tuple[ObjectInfo, Plan]]
"""Files, each with what to measure it by."""


@dataclass(frozen=True, slots=True)
class CnnFile:
    """A codec file of ours; ``path`` and ``data`` are None for the shipped one, which every worker has."""

    path: str | None = None
    data: bytes | None = None

    def fetch(self) -> Callable[[], bytes]:
        """Gets the bytes on a worker. A user's file goes through the object store: an argument as large would keep Ray from
        restarting an actor."""
        return shipped_codec if self.data is None else partial(ray.get, ray.put(self.data))


@dataclass(frozen=True, slots=True)
class BuildCnn:
    """Makes a worker with our codecs, on its actor."""

    worker: MakeWorker
    source: Source
    limits: Limits
    files: tuple[tuple[str | None, Callable[[], bytes]], ...]
    """Path, and what gets the bytes."""

    def __call__(self) -> engine.Worker[Any, Any]:
        dedicate_process()
        codecs = [CnnCodec(Codec(fetch()), path) for path, fetch in self.files]
        return self.worker(self.source, {codec.spec.name: codec for codec in codecs}, self.limits)


@dataclass(frozen=True, slots=True)
class BuildClassical:
    """Makes a worker with the classical codecs, in the process of a task."""

    worker: MakeWorker
    source: Source
    limits: Limits
    names: tuple[str, ...]
    books: tuple[vq.Codebook, ...]
    components: pca.Components | None

    def __call__(self) -> engine.Worker[Any, Any]:
        dedicate_process()
        return self.worker(self.source, {name: self._codec(name) for name in self.names}, self.limits)

    def _codec(self, name: str) -> ImageCodec:
        if name == vq.NAME:
            return vq.VectorQuantiser(self.books)
        if name == pca.NAME and self.components is not None:
            return pca.PrincipalComponents(self.components)
        return library_codec(name)


@dataclass(slots=True)
class Cluster:
    """Measures pictures of one source with the selected codecs."""

    source: Source
    selection: Selection
    files: tuple[CnnFile, ...]
    limits: Limits
    workers: engine.Workers
    run_id: str
    measures: tuple[Measure, ...]
    books: tuple[vq.Codebook, ...] = ()
    components: pca.Components | None = None
    _pool: engine.Pool | None = None
    _calls: Iterator[int] = field(default_factory=itertools.count)
    _fetches: tuple[tuple[str | None, Callable[[], bytes]], ...] | None = None

    @property
    def pool(self) -> engine.Pool:
        """Joins or starts the cluster the first time."""
        if self._pool is None:
            engine.connect()
            self._pool = engine.size_pool(self.workers)
        return self._pool

    def learn_books(self, infos: Sequence[ObjectInfo]) -> str | None:
        """Codebooks for vector quantisation, from some of the files; a string says why there are none."""
        build = partial(vq.CodebookLearner, self.source, self.limits)
        [found] = self._tasks([tuple(infos)], build)
        if isinstance(found, ray_tasks.Lost):
            return found.error
        self.books = found
        return None if found else "no picture to learn a codebook from"

    def learn_components(self, infos: Sequence[ObjectInfo]) -> str | None:
        """Principal components, from some of the files; a string says why there are none."""
        [found] = self._tasks([tuple(infos)], partial(pca.ComponentLearner, self.source, self.limits))
        if isinstance(found, pca.Components):
            self.components = found
            return None
        return found.error if isinstance(found, ray_tasks.Lost) else str(found)

    def measure_classical(self, planned: Planned, *, baseline: bool) -> Iterator[Measured]:
        """Each file by the classical codecs of its plan; ``baseline``: first what each file is and weighs."""
        wanted = self._measure_tasks(planned, self.selection.classical, baseline=baseline)
        if not wanted:
            return
        names = tuple(dict.fromkeys(name for task in wanted for name, _ in task.plan))
        for found in self._tasks(wanted, self._build_classical(Measurer, names)):
            yield Measured.lost(found.task.info, "worker", found.error) if isinstance(found, ray_tasks.Lost) else found

    def measure_cnn(self, planned: Planned) -> Iterator[Measured]:
        """Each file by our codecs of its plan."""
        wanted = self._measure_tasks(planned, self.selection.cnn, baseline=False)
        if wanted:
            yield from self._actors(wanted, Measurer)

    def _measure_tasks(self, planned: Planned, specs: Sequence[CodecSpec], *, baseline: bool) -> list[MeasureTask]:
        """The work for these codecs; without ``baseline``, nothing for a file whose plan names none of them."""
        every = (
            (info, tuple((spec.name, tuple(plan[spec.name])) for spec in specs if spec.name in plan)) for info, plan in planned
        )
        return [MeasureTask(info, plan, baseline, self.measures) for info, plan in every if plan or baseline]

    def examples(self, wanted: Sequence[ExampleTask]) -> Iterator[Example]:
        """Each task by the side that has its codecs; a task names codecs of one side only."""
        ours = {spec.name for spec in self.selection.cnn}
        on_actors = [task for task in wanted if ours.issuperset(task.codecs)]
        others = [task for task in wanted if not ours.issuperset(task.codecs)]
        names = tuple(sorted({name for task in others for name in task.codecs}))
        build = self._build_classical(ExampleMaker, names)
        made = itertools.chain(
            self._actors(on_actors, ExampleMaker) if on_actors else (),
            self._tasks(others, build) if others else (),
        )
        yield from (example for example in made if isinstance(example, Example))

    def _build_classical(self, worker: MakeWorker, names: tuple[str, ...]) -> BuildClassical:
        return BuildClassical(worker, self.source, self.limits, names, self.books, self.components)

    def _actors(self, wanted: Sequence[Any], worker: MakeWorker) -> Iterator[Any]:
        pool = self.pool
        if self._fetches is None:
            self._fetches = tuple((file.path, file.fetch()) for file in self.files)
        return engine.run(wanted, BuildCnn(worker, self.source, self.limits, self._fetches), pool)

    def _tasks(self, wanted: Iterable[Any], build: Callable[[], engine.Worker[Any, Any]]) -> Iterator[Any]:
        pauses = self.pool.pauses_seconds
        return ray_tasks.run(wanted, build, run_id=f"{self.run_id}-{next(self._calls)}", pauses_seconds=pauses)
