"""One run after another: many scenes into folders of outputs."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import cast

from tilesegment.errors import OutputError, SettingsError, without_secrets
from tilesegment.model.store import find_models
from tilesegment.raster.sink import is_raster
from tilesegment.run.many.ahead import Progress, side_by_side
from tilesegment.run.many.inputs import Entry
from tilesegment.run.many.known import FolderLedger
from tilesegment.run.many.one import DONE_BEFORE, THERE, Outcome, SceneResult, SceneTask, result_of, said_of
from tilesegment.run.many.spread import is_spread, on_workers
from tilesegment.run.scene.executor import Executor
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.prepare import check_settings
from tilesegment.settings import PredictSettings

_log = logging.getLogger("tilesegment")


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
    """Predict scenes with one model that is loaded once; what became of each, in their order.

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
    tasks = [SceneTask(entry, folders.outputs(entry), settings, skip_existing) for entry in entries]
    ledger = FolderLedger(folders.main, settings)
    known = [ledger.knows(task) for task in tasks]
    new = [number for number in range(total) if not known[number]]

    def told(done: int, of: int, words: str) -> None:
        progress(new[done], total, words)

    with closing(_predicted([tasks[number] for number in new], settings, told)) as results:
        for number, task in enumerate(tasks):
            if known[number]:
                reason = THERE if skip_existing else DONE_BEFORE
                yield SceneResult(task.entry.source, Outcome.SKIPPED, task.outputs, reason=reason)
                continue
            result = next(results)
            ledger.note(task, result)
            yield result
    progress(total, total, "")


def _predicted(
    tasks: Sequence[SceneTask], settings: PredictSettings, progress: Progress
) -> Generator[SceneResult]:
    """Results in the order of the tasks."""
    with Executor(settings.workers, settings.scheduler) as executor:
        if len(tasks) > 1 and settings.workers is None and settings.scheduler is None:
            yield from side_by_side(tasks, executor, progress)
        else:
            yield from _in_turn(tasks, executor, is_spread(settings, len(tasks)), progress)


def _in_turn(
    tasks: Sequence[SceneTask], executor: Executor, spread: bool, progress: Progress
) -> Iterator[SceneResult]:
    done = on_workers(tasks, executor) if spread else repeat(None)
    for number, (task, made) in enumerate(zip(tasks, done, strict=False)):
        shown = without_secrets(task.entry.source)
        progress(number, len(tasks), shown)

        def tiles(done: int, of: int, number: int = number, shown: str = shown) -> None:
            progress(number, len(tasks), f"{shown}, {done} of {of} tiles")

        with said_of(shown):
            result = None if made is None else made.told()
            # Without a bound on its tiles there is a result.
            result = result or cast(SceneResult, result_of(task, executor, tiles))
        yield result
