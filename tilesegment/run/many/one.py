"""What becomes of one scene of many."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from tilesegment.run.scene.pipeline import ManyTilesError, run_predict
from tilesegment.run.scene.prepare import prepare
from tilesegment.run.scene.summary import made_by
from tilesegment.settings import PredictSettings
from tilesegment.vector.files import is_vector
from tilesegment.vector.read import check_opens, read_polygons

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_log = logging.getLogger("tilesegment")


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
    task: SceneTask, executor: Executor, tiles: Callable[[int, int], None] = lambda done, total: None
) -> SceneResult | None:
    """Predict a scene, unless it was done before; None for one of too many tiles. tiles: is told how many
    are done, and of how many."""
    entry, outputs, settings, skip_existing = task.entry, task.outputs, task.settings, task.skip_existing
    try:
        for path in outputs.all:
            _make_folder(path.parent)
        reason = _why_skipped(entry, outputs, settings, skip_existing)
        if reason is None:
            run = run_predict(
                entry.source, outputs, settings, progress=tiles, executor=executor,
                most_tiles=task.most_tiles,
            )  # fmt: skip
            return SceneResult(entry.source, Outcome.PREDICTED, outputs, run.record)
        return SceneResult(entry.source, Outcome.SKIPPED, outputs, reason=reason)
    except ManyTilesError:
        return None
    except BusyError as error:
        return SceneResult(entry.source, Outcome.SKIPPED, outputs, reason=str(error), busy=True)
    except ExistsError as error:
        return _made_meanwhile(error, entry, outputs, settings, skip_existing)
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
        reason = "its outputs are there"
    elif settings.resume and is_up_to_date(entry, outputs, settings):
        reason = "done before"
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
