"""Where blocks run: in this process, or on Dask workers. The only file that imports Dask.

Both are the same loop over the same function; serial is the reference. An executor serves one scene or
many: its model is loaded once, and its workers are started once, when there is something to do.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilesegment.errors import BlockFailedError, SettingsError, TilesegmentError
from tilesegment.raster.opening import gdal_path, is_local_file
from tilesegment.run.block.file import BlockInfo, check_block
from tilesegment.run.block.job import BlockTask, Job
from tilesegment.run.block.predict import forget_model, predict_block
from tilesegment.run.polygons.areas import Area, Waiting, areas_of, make_polygons

# A worker process predicts one block at a time, however many threads its scheduler gives it.
_ONE_BLOCK = threading.Lock()


class Executor:
    """Predicts blocks: in this process, on a local cluster of `workers` processes, or on those of a running
    scheduler, which need the package and the paths. Closing it gives up the model, whose memory is what
    joining and writing need next, and ends what was started. device_index: of several GPUs that which this
    process takes.

    Raises SettingsError for what is no address of a scheduler: Dask would wait for it for long.
    """

    def __init__(
        self, workers: int | None = None, scheduler: str | None = None, device_index: int = 0
    ) -> None:
        if scheduler is not None:
            _check_scheduler(scheduler)
        self._workers, self._scheduler, self._device_index = workers, scheduler, device_index
        self._started = ExitStack()
        self._client: Any = None
        self._threads: int | None = None
        self._unusable: SettingsError | None = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *error: object) -> None:
        self._client = None
        self._started.close()
        forget_model()

    def predict(
        self, tasks: Sequence[BlockTask], tick: Callable[[], None], finished: Sequence[str] = ()
    ) -> Iterator[BlockInfo]:
        """What was made of the blocks, in the order in which they are predicted. At the end the polygons of
        all areas are made as well. tick: is called for every tile that is predicted in this process;
        finished: names of blocks that need no work, nor their own polygons.

        Raises SettingsError where the scheduler has no workers, BlockFailedError where a block's worker
        dies again and again.
        """
        if self._workers is None and self._scheduler is None:
            yield from self._here(tasks, tick, finished)
        elif tasks:
            try:
                yield from self._blocks(tasks, finished)
            except BaseException:
                # Blocks that are under way would go on, into a ledger that nobody locks any more.
                self._client = None
                self._started.close()
                raise

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """A function's results, in the order of the items; a BlockFailedError in place of one whose worker
        dies again and again."""
        ready: dict[int, Any] = {}
        try:
            done = self._on_cluster(function, lambda threads: items)
            for wanted in range(len(items)):
                while wanted not in ready:
                    number, found = next(done)
                    ready[number] = found
                yield ready.pop(wanted)
        except BaseException:
            self._client = None
            self._started.close()
            raise

    def _here(
        self, tasks: Sequence[BlockTask], tick: Callable[[], None], finished: Sequence[str]
    ) -> Iterator[BlockInfo]:
        """One block after the other; polygons are made while the next one is predicted."""
        if not tasks:
            return
        waiting = _Areas(tasks[0], finished)

        def make(ready: Sequence[AreaTask]) -> None:
            for task in ready:
                make_polygons(task.job, task.area, task.folder, lambda: not ended.is_set())
                make(waiting.after(task.area.name))

        ended = threading.Event()
        beside = ThreadPoolExecutor(1)
        try:
            making = [beside.submit(make, waiting.ready)]
            for task in tasks:
                info = predict_block(task, self._device_index, tick)
                making.append(beside.submit(make, [AreaTask.of(task)]))
                yield info
            for each in making:
                each.result()
        finally:
            # Whoever interrupts a run does not wait for polygons of minutes.
            ended.set()
            beside.shutdown(cancel_futures=True)

    def _blocks(self, tasks: Sequence[BlockTask], finished: Sequence[str]) -> Iterator[BlockInfo]:
        tasks = [_absolute(task) for task in tasks]
        waiting = _Areas(tasks[0], finished)

        def prepared(threads: int | None) -> Sequence[Any]:
            return [*waiting.ready, *(_with_streams(task, threads) for task in tasks)]

        def more(found: Any) -> Sequence[AreaTask]:
            return () if isinstance(found, BlockFailedError) else waiting.after(found.name)

        for _, found in self._on_cluster(_on_worker, prepared, more):
            if isinstance(found, BlockFailedError):
                raise found
            if isinstance(found, BlockInfo):
                yield found

    def _on_cluster(
        self,
        function: Callable[[Any], Any],
        prepared: Callable[[int | None], Sequence[Any]],
        more: Callable[[Any], Sequence[Any]] = lambda found: (),
    ) -> Iterator[tuple[int, Any]]:
        """A function's results with the numbers of their items, as they come. At most two items a worker
        are under way; those of a worker that is lost are run again. prepared: makes them from the threads
        that each worker has; more: what a result makes possible, which is run next."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        if self._unusable is not None:
            raise SettingsError(str(self._unusable))
        if self._client is None:
            try:
                cluster = _client(self._workers, self._scheduler)
                self._client, self._threads = self._started.enter_context(cluster)
            except SettingsError as error:
                # Whoever asks again would wait as long for the same answer.
                self._unusable = error
                raise
        client = self._client
        waiting = deque(enumerate(prepared(self._threads)))
        pool = as_completed(loop=client.loop)
        numbers: dict[str, int] = {}

        def start(count: int) -> None:
            for _ in range(min(count, len(waiting))):
                number, item = waiting.popleft()
                future = client.submit(function, item, pure=False)
                numbers[future.key] = number
                pool.add(future)

        start(2 * max(1, len(client.scheduler_info(n_workers=-1)["workers"])))
        for future in pool:
            found: Any
            try:
                found = future.result()
            except KilledWorker as error:
                found = BlockFailedError(
                    f"a block's worker died {error.allowed_failures + 1} times, perhaps for want of "
                    "memory; lower --max-memory or --workers, then run the same command again"
                )
            new = more(found)
            waiting.extendleft((-1, item) for item in new)
            start(1 + len(new))
            yield numbers.pop(future.key), found
            future.release()


def on_this_worker() -> Executor:
    """The executor of whole scenes on a worker, which loads a model for all of them. On several GPUs each
    worker takes the one of its own number."""
    from distributed import get_worker

    return Executor(device_index=_number(get_worker()))


def _number(worker: Any) -> int:
    return worker.name if isinstance(worker.name, int) else 0


@dataclass(frozen=True)
class AreaTask:
    """The polygons of an area of a job, whose files are in a folder."""

    job: Job
    area: Area
    folder: Path

    @classmethod
    def of(cls, task: BlockTask) -> AreaTask:
        """A block's own."""
        return cls(task.job, Area(task.block.name, task.block.window), Path(task.path).parent)


class _Areas:
    """The areas of a job that can be made once others are. ready: those that can be at once."""

    def __init__(self, task: BlockTask, finished: Sequence[str]) -> None:
        self._like = AreaTask.of(task)
        job = task.job
        self._waiting = Waiting(areas_of(job.plan) if job.polygons_key is not None else [])
        self.ready = [found for name in finished for found in self.after(name)]

    def after(self, name: str) -> list[AreaTask]:
        """Now that one is made."""
        return [replace(self._like, area=area) for area in self._waiting.done(name)]


def _on_worker(task: BlockTask | AreaTask) -> BlockInfo | Area:
    from distributed import get_worker

    worker = get_worker()
    try:
        if isinstance(task, AreaTask):
            make_polygons(task.job, task.area, task.folder)
            return task.area
        with _ONE_BLOCK:
            # A worker that died may have been at the polygons already.
            info = check_block(Path(task.path)) or predict_block(task, _number(worker))
            own = AreaTask.of(task)
            make_polygons(own.job, own.area, own.folder)
        return info
    except TilesegmentError as error:
        failed = type(error)(f"{error} (worker {worker.address})")
    # Outside of the handler: what caused it need not be able to travel, and would keep it from doing so.
    raise failed


def _with_streams(task: BlockTask, threads: int | None) -> BlockTask:
    if threads is None:
        return task
    return replace(task, job=replace(task.job, streams=min(task.job.streams, threads)))


def _absolute(task: BlockTask) -> BlockTask:
    """With paths that are right in whatever folder a worker was started."""
    scene = task.job.scene
    if is_local_file(scene.path):
        scene = replace(scene, path=os.path.abspath(gdal_path(scene.path)))
    return replace(task, job=replace(task.job, scene=scene), path=os.path.abspath(task.path))


def _check_scheduler(address: str) -> None:
    if not re.fullmatch(r"((tcp|tls|ws|wss|ucx|ucxx)://)?([^\s/:]+|\[[0-9a-fA-F:.]+\]):\d{1,5}", address):
        raise SettingsError(f"--scheduler {address!r} is no address; write tcp://HOST:8786")


@contextmanager
def _client(workers: int | None, scheduler: str | None) -> Iterator[tuple[Any, int | None]]:
    """A client, and the threads a worker may use where the cluster is not ours."""
    import dask
    from distributed import Client, LocalCluster

    # What goes wrong on a worker comes back as an exception; its own log would say it a second time.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s", set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise SettingsError(f"--scheduler {scheduler}: no scheduler answers ({error})") from error
        with client:
            found = client.scheduler_info(n_workers=-1)["workers"]
            if not found:
                raise SettingsError(f"--scheduler {scheduler}: it has no workers; start some first")
            yield client, min(worker["nthreads"] for worker in found.values())
        return
    # Our own budget decides about memory; the nanny would kill a worker for what GDAL caches, and by its
    # default every freed tile goes back to the system, to be mapped again (measured: half the speed).
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1}}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            # Nobody looks at it, and two runs at once would ask for the same port.
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, None
