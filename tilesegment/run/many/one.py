"""What becomes of one scene of many."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tilesegment.errors import (
    BusyError,
    ExistsError,
    InputError,
    OutputError,
    TilesegmentError,
    without_secrets,
)
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.opening import Additions, opened
from tilesegment.run.many.inputs import Entry
from tilesegment.run.scene.executor import Executor
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.pipeline import ManyTilesError, Progress, SceneRun
from tilesegment.run.scene.prepare import prepare
from tilesegment.run.scene.summary import made_by
from tilesegment.settings import PredictSettings
from tilesegment.vector.files import is_vector
from tilesegment.vector.read import check_opens, read_polygons

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

# Why a scene is skipped whose outputs are what a run would write.
DONE_BEFORE = "done before"
THERE = "its outputs are there"
_log = logging.getLogger("tilesegment")
_T = TypeVar("_T")


class Outcome(StrEnum):
    """What became of a scene. SKIPPED: its outputs are there already, or another run is making them."""

    PREDICTED = "predicted"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class SceneResult:
    """What became of one scene. record: what its run did; reason: why it failed or was skipped;
    busy: it was, since another run is making it."""

    source: str
    outcome: Outcome
    outputs: Outputs
    record: dict[str, Any] | None = None
    reason: str = ""
    busy: bool = False

    def polygons(self) -> GeoDataFrame:
        """Those that were written, or were there already. Raises InputError where there are none."""
        if self.outputs.vector is None or self.outcome is Outcome.FAILED:
            raise InputError(f"{self.source}: has no polygons{self.reason and f' ({self.reason})'}")
        return read_polygons(self.outputs.vector)

    def plain(self) -> dict[str, Any]:
        """In values that JSON can hold."""
        found: dict[str, Any] = {"input": without_secrets(self.source), "outcome": str(self.outcome)}
        if self.reason:
            found["reason"] = self.reason
        return found | ({} if self.record is None else {"record": self.record})


@dataclass(frozen=True)
class SceneTask:
    """One scene of many, in values that travel to workers. most_tiles: one of more is left to somebody
    else."""

    entry: Entry
    outputs: Outputs
    settings: PredictSettings
    skip_existing: bool
    most_tiles: int | None = None


def result_of(
    task: SceneTask, executor: Executor, tiles: Progress = lambda done, total: None
) -> SceneResult | None:
    """Predict a scene, unless it was done before; None for one of too many tiles. tiles: is told how many
    are done, and of how many."""

    def whole() -> SceneResult:
        run = begun(task)
        if isinstance(run, SceneResult):
            return run
        with run:
            run.predict(executor, tiles)
            return predicted(task, run)

    try:
        return attempt(task, whole)
    except ManyTilesError:
        return None


def begun(task: SceneTask) -> SceneRun | SceneResult:
    """A scene's run before it predicts; what became of it where there is nothing to predict. Raises the
    errors of the parts."""
    entry, outputs, settings = task.entry, task.outputs, task.settings
    for path in outputs.all:
        _make_folder(path.parent)
    reason = _why_skipped(entry, outputs, settings, task.skip_existing)
    if reason is not None:
        return SceneResult(entry.source, Outcome.SKIPPED, outputs, reason=reason)
    return SceneRun(entry.source, outputs, settings, task.most_tiles)


def predicted(task: SceneTask, run: SceneRun) -> SceneResult:
    """A scene that is predicted, published. Raises the errors of the parts."""
    return SceneResult(task.entry.source, Outcome.PREDICTED, task.outputs, run.publish().record)


def attempt(task: SceneTask, work: Callable[[], _T]) -> _T | SceneResult:
    """What work on a scene brings, or what became of the scene where it fails: nothing that is wrong with
    one scene must keep the others."""
    entry, outputs, settings = task.entry, task.outputs, task.settings
    try:
        return work()
    except ManyTilesError:
        raise
    except BusyError as error:
        return SceneResult(entry.source, Outcome.SKIPPED, outputs, reason=str(error), busy=True)
    except ExistsError as error:
        return _made_meanwhile(error, entry, outputs, settings, task.skip_existing)
    except TilesegmentError as error:
        return SceneResult(entry.source, Outcome.FAILED, outputs, reason=str(error))
    except Exception as error:  # noqa: BLE001 - a fault of ours in one scene must not keep the others
        _log.debug("".join(traceback.format_exception(error)))
        words = without_secrets(" ".join(str(error).split()))
        reason = f"internal error: {type(error).__name__}: {words}"
        return SceneResult(entry.source, Outcome.FAILED, outputs, reason=reason)


def _made_meanwhile(
    error: ExistsError, entry: Entry, outputs: Outputs, settings: PredictSettings, skip_existing: bool
) -> SceneResult:
    """What is there may have been made by another run just now."""
    try:
        reason = _why_skipped(entry, outputs, settings, skip_existing)
    except TilesegmentError as other:
        return SceneResult(entry.source, Outcome.FAILED, outputs, reason=str(other))
    if reason is None:
        return SceneResult(entry.source, Outcome.FAILED, outputs, reason=str(error))
    return SceneResult(entry.source, Outcome.SKIPPED, outputs, reason=reason)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error


def _why_skipped(
    entry: Entry, outputs: Outputs, settings: PredictSettings, skip_existing: bool
) -> str | None:
    """Why a scene needs no run; None where it needs one. Raises OutputError for outputs that are there and
    cannot be opened."""
    if not all(path.exists() for path in outputs.all):
        return None
    if skip_existing:
        reason = THERE
    elif settings.resume and is_up_to_date(entry, outputs, settings):
        reason = DONE_BEFORE
    else:
        return None
    for path in outputs.all:
        try:
            _check_opens(path)
        except TilesegmentError as error:
            raise OutputError(f"{path}: is there and cannot be read ({error}); remove it") from error
    return reason


def _check_opens(path: Path) -> None:
    if is_vector(path):
        # No features are an empty file of GeoJSON lines.
        if path.suffix.lower() != ".geojsonl" or path.stat().st_size:
            check_opens(str(path))
        return
    with opened(str(path), Additions(colours=False)):
        pass


def is_up_to_date(entry: Entry, outputs: Outputs, settings: PredictSettings) -> bool:
    """Whether the outputs are what a run would write now. Those that were changed since they were written
    are not, where they may be replaced."""
    record = outputs.read_record()
    if not record or (settings.overwrite and not outputs.is_untouched()):
        return False
    with gdal_environment(settings.gdal):
        prepared = prepare(entry.source, settings, outputs.vector is not None, "")
    return record.get("made_by") == made_by(prepared, outputs, settings)


@contextmanager
def said_of(shown: str) -> Iterator[None]:
    """What this thread logs inside names its scene."""
    thread = threading.get_ident()

    def named(record: logging.LogRecord) -> bool:
        if record.thread != thread:
            return True
        message = record.getMessage()
        record.msg, record.args = message if shown in message else f"{shown}: {message}", ()
        return True

    _log.addFilter(named)
    try:
        yield
    finally:
        _log.removeFilter(named)
