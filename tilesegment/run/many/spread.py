"""Many scenes on the workers of one machine, each of them whole on one: a scene of a few tiles keeps no
two busy."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tilesegment.errors import BlockFailedError
from tilesegment.run.many.one import Outcome, SceneResult, SceneTask, result_of
from tilesegment.run.scene.executor import Executor, on_this_worker
from tilesegment.settings import PredictSettings

# A scene of more tiles is divided into blocks, which the workers share.
_MOST_TILES = 100
_log = logging.getLogger("tilesegment")


@dataclass(frozen=True)
class Made:
    """What a worker made of a scene. result: None where it has too many tiles; said: level and text of what
    was logged."""

    result: SceneResult | None
    said: tuple[tuple[int, str], ...] = ()

    def told(self) -> SceneResult | None:
        """The result, after what was logged is logged here."""
        if self.result is not None:
            for level, text in self.said:
                _log.log(level, "%s", text)
        return self.result


@dataclass(frozen=True)
class _Task:
    """folder: that relative paths are meant from."""

    scene: SceneTask
    folder: str


def is_spread(settings: PredictSettings, scenes: int) -> bool:
    """Whether workers take whole scenes: on this machine, where there are enough to keep them busy."""
    return settings.workers is not None and settings.workers > 1 and scenes >= 2 * settings.workers


def on_workers(tasks: Sequence[SceneTask], executor: Executor) -> Iterator[Made]:
    """What was made of each scene, in their order."""
    bounded = [_Task(replace(task, most_tiles=_MOST_TILES), os.getcwd()) for task in tasks]
    for task, found in zip(tasks, executor.each(_on_worker, bounded), strict=True):
        if isinstance(found, BlockFailedError):
            reason = str(found)
            yield Made(SceneResult(task.entry.source, Outcome.FAILED, task.outputs, reason=reason))
        else:
            yield found


def _on_worker(task: _Task) -> Made:
    os.chdir(task.folder)
    with _logged() as said:
        result = result_of(task.scene, on_this_worker())
    return Made(result, tuple(said))


@contextmanager
def _logged() -> Iterator[list[tuple[int, str]]]:
    """What is logged inside."""
    said: list[tuple[int, str]] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.levelno, record.getMessage()))

    keeper, level = Keeper(), _log.level
    _log.addHandler(keeper)
    _log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        _log.removeHandler(keeper)
        _log.setLevel(level)
