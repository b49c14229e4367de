"""One run after another: many scenes into folders of outputs."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilesegment.errors import (
    BusyError,
    ExistsError,
    InputError,
    OutputError,
    SettingsError,
    TilesegmentError,
    without_secrets,
)
from tilesegment.model.store import find_models
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.opening import Additions, opened
from tilesegment.raster.sink import is_raster
from tilesegment.run.many.inputs import Entry
from tilesegment.run.scene.executor import Executor
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.pipeline import run_predict
from tilesegment.run.scene.prepare import check_settings, prepare
from tilesegment.run.scene.summary import made_by
from tilesegment.settings import PredictSettings
from tilesegment.vector.files import is_vector
from tilesegment.vector.read import check_opens, read_polygons

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

# Is told how many scenes are done, of how many, and what is under way.
Progress = Callable[[int, int, str], None]
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
class Folders:
    """Where the outputs of scenes go. main: folder of polygons or masks, with that ending (`.gpkg`); mask,
    probability, overlay: folders as well, None where they are not wanted."""

    main: Path
    ending: str = ".gpkg"
    mask: Path | None = None
    probability: Path | None = None
    overlay: Path | None = None

    @property
    def others(self) -> tuple[Path | None, Path | None, Path | None]:
        """All but the main one."""
        return self.mask, self.probability, self.overlay

    def outputs(self, entry: Entry) -> Outputs:
        """The files of one scene."""

        def file(folder: Path | None, ending: str) -> Path | None:
            return None if folder is None else folder / f"{entry.name}{ending}"

        return Outputs(
            self.main / f"{entry.name}{self.ending}",
            file(self.mask, ".tif"),
            file(self.probability, ".tif"),
            file(self.overlay, ".png"),
        )

    def check(self, entries: Sequence[Entry]) -> None:
        """Raises OutputError for folders that cannot be, SettingsError where later runs would take outputs
        for scenes."""
        raster = [self.main] if is_raster(f"a{self.ending}") else []
        for folder in (self.main, self.mask, self.probability, self.overlay):
            if folder is None:
                continue
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{folder}: is a file; several scenes are written to a folder")
            if not folder.exists() and not folder.absolute().parent.is_dir():
                raise OutputError(f"{folder.absolute().parent}: no such folder")
            if folder is not self.main:
                raster.append(folder)
        read = {Path(entry.source).resolve().parent for entry in entries if Path(entry.source).exists()}
        for folder in raster:
            if folder.resolve() in read:
                raise SettingsError(
                    f"{folder}: scenes are read from there; write pictures to another folder"
                )

    def without_outputs(self, entries: Sequence[Entry]) -> list[Entry]:
        """The scenes but for pictures in folders of outputs, which a pattern finds the next time."""
        raster = [self.main] if is_raster(f"a{self.ending}") else []
        raster += [folder for folder in (self.mask, self.probability, self.overlay) if folder is not None]
        places = [folder.resolve() for folder in raster]

        def is_output(entry: Entry) -> bool:
            above = Path(entry.source).resolve().parents
            return os.path.exists(entry.source) and any(place in above for place in places)

        kept = [entry for entry in entries if not is_output(entry)]
        left_out = len(entries) - len(kept)
        if kept and left_out:
            _log.warning("%d files are left out: they lie in folders of outputs", left_out)
        return kept if kept else list(entries)


def run_many(
    entries: Sequence[Entry],
    folders: Folders,
    settings: PredictSettings,
    *,
    skip_existing: bool = False,
    progress: Progress = lambda done, total, words: None,
) -> Iterator[SceneResult]:
    """Predict scenes one after the other, with one model that is loaded once; what became of each.

    A scene that cannot be predicted does not keep the others. One whose outputs were made by the same
    settings from the scene as it is now is skipped, so that a command that was stopped goes on when it is
    given again, and one that comes every hour does only what is new; with skip_existing whatever outputs
    are there. progress: is told how many scenes are done, how many there are, and what is under way.

    Raises SettingsError, ModelError and OutputError before anything is predicted.
    """
    check_settings(settings)
    find_models(settings.model)
    entries = folders.without_outputs(entries)
    folders.check(entries)
    return _results(entries, folders, settings, skip_existing, progress)


def _results(
    entries: Sequence[Entry],
    folders: Folders,
    settings: PredictSettings,
    skip_existing: bool,
    progress: Progress,
) -> Iterator[SceneResult]:
    total = len(entries)
    with Executor(settings.workers, settings.scheduler) as executor:
        for number, entry in enumerate(entries):
            shown = without_secrets(entry.source)
            progress(number, total, shown)

            def tiles(done: int, of: int, number: int = number, shown: str = shown) -> None:
                progress(number, total, f"{shown}, {done} of {of} tiles")

            with _said_of(shown):
                result = _result(entry, folders.outputs(entry), settings, skip_existing, executor, tiles)
            yield result
    progress(total, total, "")


def _result(
    entry: Entry,
    outputs: Outputs,
    settings: PredictSettings,
    skip_existing: bool,
    executor: Executor,
    tiles: Callable[[int, int], None],
) -> SceneResult:
    try:
        for path in outputs.all:
            _make_folder(path.parent)
        reason = _why_skipped(entry, outputs, settings, skip_existing)
        if reason is None:
            run = run_predict(entry.source, outputs, settings, progress=tiles, executor=executor)
            return SceneResult(entry.source, Outcome.PREDICTED, outputs, run.record)
        return SceneResult(entry.source, Outcome.SKIPPED, outputs, reason=reason)
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


@contextmanager
def _said_of(shown: str) -> Iterator[None]:
    """What is logged inside names its scene."""

    def named(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        record.msg, record.args = message if shown in message else f"{shown}: {message}", ()
        return True

    _log.addFilter(named)
    try:
        yield
    finally:
        _log.removeFilter(named)


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
