"""The story of one scene: prepare, predict what is missing, publish, record."""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from tilesegment.atomic import write_text
from tilesegment.errors import InputError, SettingsError
from tilesegment.interop.web import check_tiles
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.sink import check_options
from tilesegment.run.block.file import BlockInfo
from tilesegment.run.block.job import BlockTask, Job
from tilesegment.run.polygons.areas import areas_of, make_polygons, seconds_of
from tilesegment.run.record import plain_settings, provenance
from tilesegment.run.scene.executor import Executor
from tilesegment.run.scene.ledger import Ledger, ledger_folder, open_ledger
from tilesegment.run.scene.outputs import Outputs, refuse_existing, refuse_foreign
from tilesegment.run.scene.prepare import Prepared, blank_warning, prepare
from tilesegment.run.scene.publish import retrace
from tilesegment.run.scene.summary import record_of
from tilesegment.run.scene.writing import Work, Written, check_rules, layer_for, write_outputs
from tilesegment.settings import PredictSettings
from tilesegment.vector.parallel import in_threads
from tilesegment.vector.write import check_layer

# Is told how many tiles are done, and of how many.
Progress = Callable[[int, int], None]
# Blocks traced again at a time, each holding a band.
_TRACERS = 4
_log = logging.getLogger("tilesegment")


class ManyTilesError(Exception):
    """A scene has more tiles than its caller wants to predict."""


@dataclass
class Run:
    """What a run did; `record` is also written beside the main output."""

    outputs: Outputs
    record: dict[str, Any] = field(default_factory=dict)


def run_predict(
    source: str,
    outputs: Outputs,
    settings: PredictSettings,
    *,
    progress: Progress = lambda done, total: None,
    executor: Executor | None = None,
    most_tiles: int | None = None,
) -> Run:
    """Predict a scene and write everything asked for; see `tilesegment.predict`. executor: of several
    scenes, the caller's; by default one of this scene's own.

    Warnings and notes go to the logger `tilesegment`, a line each. Raises ManyTilesError for a scene of
    more than most_tiles, and the errors of the parts.
    """
    place = executor if executor is not None else Executor(settings.workers, settings.scheduler)
    with SceneRun(source, outputs, settings, most_tiles) as scene:
        with nullcontext() if place is executor else place:
            scene.predict(place, progress)
        return scene.publish()


class SceneRun:
    """The steps of a scene's run, of which several scenes can be at different ones: made and published by
    one thread, one after the other, predicted in whatever thread. Its ledger is open, and locked, until it
    is left.

    What is made here raises the errors of the parts, before anything is predicted, and ManyTilesError for a
    scene of more than most_tiles.
    """

    def __init__(
        self, source: str, outputs: Outputs, settings: PredictSettings, most_tiles: int | None = None
    ) -> None:
        self._begin = time.perf_counter()
        self._source, self._outputs, self._settings = source, outputs, settings
        self._infos: list[BlockInfo] = []
        self._fresh: list[BlockInfo] = []
        outputs.check(source, settings.aoi)
        refuse_existing(outputs, settings.overwrite)
        outputs.settle()
        with ExitStack() as stack, gdal_environment(settings.gdal):
            self.prepared = self._prepared(most_tiles)
            ledger = open_ledger(outputs.main, self.prepared.key, settings.resume)
            self._ledger = stack.enter_context(ledger)
            refuse_foreign(outputs, settings.overwrite, self._ledger)
            self.prepared = self.prepared.with_blocks(self._ledger.fixed)
            self._ledger.fix(self.prepared.fixed)
            self._found = self._ledger.finished(self.prepared.job.plan.blocks)
            for note in self._ledger.notes:
                _log.warning(note)
            self._open = stack.pop_all()

    def _prepared(self, most_tiles: int | None) -> Prepared:
        outputs, settings = self._outputs, self._settings
        folder, consensus = ledger_folder(outputs.main), outputs.consensus is not None
        prepared = prepare(self._source, settings, outputs.vector is not None, str(folder), consensus)
        if most_tiles is not None:
            if prepared.job.plan.predicted_tiles > most_tiles:
                raise ManyTilesError(self._source)
            # It is this process's alone, and need not be divided for others.
            prepared = replace(prepared, workers=1)
        outputs.spare(prepared.files)
        self._warnings = list(prepared.warnings)
        for line in self._warnings:
            _log.warning(line)
        _check_options(prepared, outputs, settings)
        return prepared

    def __enter__(self) -> SceneRun:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def predict(self, executor: Executor, progress: Progress) -> None:
        """Predict the blocks that are not in the ledger."""
        with ThreadPoolExecutor(1) as beside, gdal_environment(self._settings.gdal):
            if self._outputs.vector is not None:
                # What takes longest of the writer's imports; the cores are busy with forward passes, which
                # hold no lock. Not pyogrio: it hears of GDAL's errors in the thread that loads it.
                beside.submit(importlib.import_module, "geopandas")
            self._fresh = _predict_missing(self.prepared, self._ledger, self._found, executor, progress)
        self._infos = [info for _, info in sorted(self._found.items())]

    def publish(self) -> Run:
        """Write the outputs of what was predicted."""
        with gdal_environment(self._settings.gdal):
            return self._publish()

    def _publish(self) -> Run:
        source, outputs, settings = self._source, self._outputs, self._settings
        prepared, ledger, infos = self.prepared, self._ledger, self._infos
        warnings = [*self._warnings, *_late_warnings(infos, settings, self._warnings)]
        if not any(info.valid_pixels for info in infos):
            # That is an answer: there is nothing to go on with.
            ledger.remove()
            raise InputError(f"{source}: no valid pixel (all nodata, transparent or NaN)")
        marks = provenance(source, prepared.job.models, plain_settings(settings))
        publishing = time.perf_counter()

        def told(written: Written) -> dict[str, Any]:
            record = record_of(source, prepared, outputs, settings, infos, self._fresh, warnings)
            record["counts"] |= written.counts
            record |= written.told
            if prepared.job.polygons_key is not None:
                seconds = seconds_of(prepared.job.plan, ledger.polygons)
                record["seconds"]["polygons"] = round(seconds, 3)
            record["seconds"]["write"] = round(time.perf_counter() - publishing, 3)
            record["seconds"]["wall"] = round(time.perf_counter() - self._begin, 3)
            return record

        record = write_outputs(Work(prepared, ledger, outputs, settings, marks), told)
        write_text(outputs.record, json.dumps(record, indent=1, default=str) + "\n")
        ledger.remove()
        return Run(outputs, record)


def _check_options(prepared: Prepared, outputs: Outputs, settings: PredictSettings) -> None:
    """What the drivers make of creation options, before anything is predicted."""
    rasters = [path for path in (*outputs.masks, *outputs.shares) if path is not None]
    if any(path.suffix.lower() == ".png" for path in rasters) and (settings.co or settings.cog):
        raise SettingsError("--co and --cog are for GeoTIFFs, and a mask is to be a PNG")
    if rasters:
        check_options(settings.co, settings.cog)
    if outputs.tiles is not None:
        check_tiles(outputs.tiles, prepared.grid)
    if outputs.vector is not None:
        check_rules(prepared)
        check_layer(outputs.vector, layer_for(prepared, settings, outputs.vector, {}))


def _predict_missing(
    prepared: Prepared,
    ledger: Ledger,
    found: dict[int, BlockInfo],
    executor: Executor,
    progress: Progress,
) -> list[BlockInfo]:
    """Bring all blocks into the ledger: those found there are traced again where need be, and the rest is
    predicted, and returned."""
    job = prepared.job
    blocks = job.plan.blocks
    stale = [block for block in blocks if _is_stale(found.get(block.index), job)]
    again = in_threads(lambda b: retrace(job, b, ledger.path(b), found[b.index]), stale, _TRACERS)
    found.update(zip((block.index for block in stale), again, strict=True))
    tasks = [BlockTask(job, block, str(ledger.path(block))) for block in blocks if block.index not in found]
    by_name = {task.block.name: task.block for task in tasks}
    fresh: list[BlockInfo] = []
    total = job.plan.predicted_tiles
    tiles = _Tally(total - sum(task.block.tiles for task in tasks), total, progress)
    areas = areas_of(job.plan)
    # Of blocks of an earlier run those that were not made, or otherwise.
    for area in [area for area in areas if not area.parts and area.name not in by_name]:
        make_polygons(job, area, ledger.folder)
    for info in executor.predict(tasks, tiles.add, [b.name for b in blocks if b.name not in by_name]):
        fresh.append(info)
        block = by_name[info.name]
        found[block.index] = info
        tiles.finish(block.tiles)
    if not tasks:
        for area in areas:
            make_polygons(job, area, ledger.folder)
    return fresh


def _is_stale(info: BlockInfo | None, job: Job) -> bool:
    """Whether a block was traced with other settings."""
    return info is not None and info.trace_key != job.tracing.key


@dataclass
class _Tally:
    """Tiles done: counted one by one where they are seen, else when their block is."""

    done: int
    total: int
    progress: Progress
    seen: int = 0

    def __post_init__(self) -> None:
        self.progress(self.done, self.total)

    def add(self) -> None:
        self.seen += 1
        self.progress(self.done + self.seen, self.total)

    def finish(self, tiles: int) -> None:
        self.done += tiles
        self.seen = 0
        self.progress(self.done, self.total)


def _late_warnings(infos: list[BlockInfo], settings: PredictSettings, said: list[str]) -> list[str]:
    """Blank tiles that only the prediction met."""
    values = {info.blank_value for info in infos if info.blank_value is not None}
    if settings.nodata is not None:
        return []
    late = [line for line in map(blank_warning, sorted(values)) if line not in said]
    for line in late:
        _log.warning(line)
    return late
