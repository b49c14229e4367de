"""Many scenes in this process: while one is written the next ones are predicted, and small ones several at
a time, since a picture of one tile fills neither the cores nor a batch.

One thread begins and writes the scenes, one after the other and in their order: only predicting is done
beside it.
"""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from typing import cast

from tilesegment.errors import without_secrets
from tilesegment.model.engines import GPU_BATCH
from tilesegment.run.many.one import SceneResult, SceneTask, attempt, begun, predicted, said_of
from tilesegment.run.scene.executor import Executor
from tilesegment.run.scene.pipeline import SceneRun
from tilesegment.run.scene.prepare import cores, plan_memory

# Is told how many scenes are done, of how many, and what is under way.
Progress = Callable[[int, int, str], None]
# A scene of more tiles keeps the engine busy by itself.
_FEW_TILES = 100
# Scenes that are begun, at most.
_BEGUN = 2 * GPU_BATCH
# Seconds after which it is said again how far a scene is.
_TOLD = 0.2


class _StoppedError(BaseException):
    """The run is over; this scene is not wanted any more."""


@dataclass
class _Scene:
    """A scene that is begun. run: None for one of which is known already what became of it."""

    task: SceneTask
    run: SceneRun | None = None
    result: SceneResult | None = None
    future: Future[None] | None = None
    done: tuple[int, int] = (0, 0)

    @property
    def is_under_way(self) -> bool:
        return self.future is not None and not self.future.done()

    @property
    def shown(self) -> str:
        return without_secrets(self.task.entry.source)


def side_by_side(
    tasks: Sequence[SceneTask], executor: Executor, progress: Progress
) -> Iterator[SceneResult]:
    """What became of each scene, in their order. progress: is told how many are done, and how far the
    oldest one is."""
    # GDAL's errors are heard of in the thread that loads it.
    importlib.import_module("pyogrio")
    with closing(_Line(executor)) as line:
        waiting = deque(tasks)
        for number in range(len(tasks)):
            line.fill(waiting)
            scene = line.scenes[0]
            progress(number, len(tasks), scene.shown)
            while scene.future is not None:
                over = wait([scene.future], _TOLD).done
                done, total = scene.done
                progress(number, len(tasks), f"{scene.shown}, {done} of {total} tiles")
                if over:
                    break
            # So that there is work while this one is written.
            line.fill(waiting)
            yield line.finish()


@dataclass
class _Line:
    """The scenes that are begun and not finished, the oldest first."""

    executor: Executor
    scenes: deque[_Scene] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(_BEGUN)
        self._stopped = threading.Event()

    def fill(self, waiting: deque[SceneTask]) -> None:
        """Begin scenes, and predict those for which there is room."""
        while True:
            if self.scenes and self.scenes[-1].run is not None and self.scenes[-1].future is None:
                if not self._has_room(self.scenes[-1].run):
                    return
                self._predict(self.scenes[-1], self.scenes[-1].run)
            elif waiting and len(self.scenes) < _BEGUN:
                self.scenes.append(self._begun(waiting.popleft()))
            else:
                return

    def finish(self) -> SceneResult:
        """Write the oldest scene, which is predicted."""
        scene = self.scenes[0]
        run, future = scene.run, scene.future
        if run is not None and future is not None:

            def end() -> SceneResult:
                with run:
                    future.result()
                    return predicted(scene.task, run)

            with said_of(scene.shown):
                scene.result = attempt(scene.task, end)
        self.scenes.popleft()
        return cast(SceneResult, scene.result)

    def close(self) -> None:
        """End what is under way; the blocks that are finished stay in their ledgers."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        for scene in self.scenes:
            if scene.run is not None:
                scene.run.__exit__(None, None, None)

    def _begun(self, task: SceneTask) -> _Scene:
        scene = _Scene(task)
        with said_of(scene.shown):
            found = attempt(task, lambda: begun(task))
        if isinstance(found, SceneRun):
            scene.run = found
        else:
            scene.result = found
        return scene

    def _predict(self, scene: _Scene, run: SceneRun) -> None:
        def tiles(done: int, total: int) -> None:
            if self._stopped.is_set():
                raise _StoppedError
            scene.done = done, total

        scene.future = self._pool.submit(run.predict, self.executor, tiles)

    def _has_room(self, run: SceneRun) -> bool:
        """Whether a scene can be predicted beside those that are: few tiles, within the memory."""
        others = [scene.run for scene in self.scenes if scene.run is not None and scene.run is not run]
        under_way = [scene.run for scene in self.scenes if scene.run is not None and scene.is_under_way]
        if under_way:
            tiles = sum(other.prepared.job.plan.predicted_tiles for other in [*under_way, run])
            if len(under_way) >= _most_at_once(run) or tiles > _FEW_TILES:
                return False
        return not others or _memory([*others, run]) <= run.prepared.budget


def _most_at_once(run: SceneRun) -> int:
    """Scenes that are predicted at a time: one a core, or the pictures of two batches of a GPU."""
    job = run.prepared.job
    return cores() if job.engine.device == "cpu" else 2 * (job.batch or GPU_BATCH)


def _memory(runs: Sequence[SceneRun]) -> int:
    """Bytes that scenes take together: they share the process and the model."""
    parts = [plan_memory(run.prepared) for run in runs]
    shared = [part["process"] + part["model"] for part in parts]
    return max(shared) + sum(part["total"] - own for part, own in zip(parts, shared, strict=True))
