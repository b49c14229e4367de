"""The story of one scene: prepare, predict what is missing, publish, record."""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilesegment.atomic import write_text
from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid
from tilesegment.interop.web import Page, check_tiles, write_page, write_tiles
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.sink import Band, check_options, write_band
from tilesegment.raster.source import Scene
from tilesegment.report.overlay import View, write_overlay
from tilesegment.run.block.file import BlockInfo
from tilesegment.run.block.job import BlockTask, Job
from tilesegment.run.files import discard, publish, temporary_for, writing
from tilesegment.run.record import (
    plain_settings,
    provenance,
)
from tilesegment.run.scene.executor import Executor
from tilesegment.run.scene.ledger import Ledger, ledger_folder, open_ledger
from tilesegment.run.scene.outputs import Outputs, refuse_existing, refuse_foreign
from tilesegment.run.scene.prepare import Prepared, blank_warning, prepare
from tilesegment.run.scene.publish import (
    Mosaic,
    on_output_grid,
    output_window,
    retrace,
    whole_features,
)
from tilesegment.run.scene.regular import rules_of
from tilesegment.run.scene.saved import SavedPixels
from tilesegment.run.scene.split import Splitting
from tilesegment.run.scene.summary import record_of
from tilesegment.settings import PredictSettings
from tilesegment.vector.parallel import in_threads
from tilesegment.vector.regularize import Rules
from tilesegment.vector.write import Layer, check_layer, write_layer

# Is told how many tiles are done, and of how many.
Progress = Callable[[int, int], None]
# Blocks traced again at a time, each holding a band.
_TRACERS = 4
_log = logging.getLogger("tilesegment")


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
) -> Run:
    """Predict a scene and write everything asked for; see `tilesegment.predict`. executor: of several
    scenes, the caller's; by default one of this scene's own.

    Warnings and notes go to the logger `tilesegment`, a line each.
    """
    begin = time.perf_counter()
    place = executor if executor is not None else Executor(settings.workers, settings.scheduler)
    outputs.check(source, settings.aoi)
    refuse_existing(outputs, settings.overwrite)
    outputs.settle()
    with ExitStack() as stack:
        stack.enter_context(gdal_environment(settings.gdal))
        folder = ledger_folder(outputs.main)
        prepared = prepare(source, settings, outputs.vector is not None, str(folder))
        outputs.spare(prepared.files)
        warnings = list(prepared.warnings)
        for line in warnings:
            _log.warning(line)
        _check_options(prepared, outputs, settings)
        ledger = stack.enter_context(open_ledger(outputs.main, prepared.key, settings.resume))
        refuse_foreign(outputs, settings.overwrite, ledger)
        prepared = prepared.with_blocks(ledger.fixed)
        ledger.fix(prepared.fixed)
        with ThreadPoolExecutor(1) as beside, nullcontext() if place is executor else place:
            if outputs.vector is not None:
                # What takes longest of the writer's imports; the cores are busy with forward passes, which
                # hold no lock. Not pyogrio: it hears of GDAL's errors in the thread that loads it.
                beside.submit(importlib.import_module, "geopandas")
            found, fresh = _predict_missing(prepared, ledger, place, progress)
        infos = list(found.values())
        warnings += _late_warnings(infos, settings, warnings)
        if not any(info.valid_pixels for info in infos):
            # That is an answer: there is nothing to go on with.
            ledger.remove()
            raise InputError(f"{source}: no valid pixel (all nodata, transparent or NaN)")
        marks = provenance(source, prepared.job.models, plain_settings(settings))
        publishing = time.perf_counter()
        counts = _write_outputs(prepared, ledger, outputs, settings, marks)
        record = record_of(source, prepared, outputs, settings, infos, fresh, warnings)
        record["counts"] |= counts
        record["seconds"]["write"] = round(time.perf_counter() - publishing, 3)
        record["seconds"]["wall"] = round(time.perf_counter() - begin, 3)
        write_text(outputs.record, json.dumps(record, indent=1, default=str) + "\n")
        ledger.remove()
    return Run(outputs, record)


def _check_options(prepared: Prepared, outputs: Outputs, settings: PredictSettings) -> None:
    """What the drivers make of creation options, before anything is predicted."""
    rasters = [path for path in (*outputs.masks, outputs.probability) if path is not None]
    if any(path.suffix.lower() == ".png" for path in rasters) and (settings.co or settings.cog):
        raise SettingsError("--co and --cog are for GeoTIFFs, and a mask is to be a PNG")
    if rasters:
        check_options(settings.co, settings.cog)
    if outputs.tiles is not None:
        check_tiles(outputs.tiles, prepared.grid)
    if outputs.vector is not None:
        _rules(prepared, None)
        check_layer(outputs.vector, _layer(prepared, settings, outputs.vector, {}))


def _rules(prepared: Prepared, read: SavedPixels | None) -> Rules | None:
    tracing = prepared.job.tracing
    return rules_of(prepared.measures, prepared.grid, len(tracing.values), read, tracing.least)


def _splitting(
    prepared: Prepared, settings: PredictSettings, saved: SavedPixels, rules: Rules | None
) -> Splitting | None:
    job, by_depth = prepared.job, settings.split == "depth"
    if not (job.contact or by_depth):
        return None
    unit = 1.0 if prepared.grid.crs is not None else job.model.card.gsd or 1.0
    return Splitting(saved, prepared.grid, prepared.measures, job.tracing.least, rules, by_depth, unit)


def _layer(prepared: Prepared, settings: PredictSettings, path: Path, marks: dict[str, str]) -> Layer:
    job = prepared.job
    labels = job.model.card.labels
    return Layer(
        grid=prepared.grid,
        labels={value: labels[value] for value in job.tracing.values},
        name=settings.vector.layer or path.stem,
        multi=settings.vector.connectivity == 8,
        regularized=prepared.measures.regularize != "none",
        raw=settings.vector.keep_raw,
        dst_crs=settings.vector.dst_crs,
        options=settings.lco,
        metadata=marks,
    )


def _predict_missing(
    prepared: Prepared,
    ledger: Ledger,
    executor: Executor,
    progress: Progress,
) -> tuple[dict[int, BlockInfo], list[BlockInfo]]:
    """All blocks in the ledger: those found there, traced again where need be, and the rest predicted."""
    job = prepared.job
    blocks = job.plan.blocks
    found = ledger.finished(blocks)
    for note in ledger.notes:
        _log.warning(note)
    stale = [block for block in blocks if _is_stale(found.get(block.index), job)]
    again = in_threads(lambda b: retrace(job, b, ledger.path(b), found[b.index]), stale, _TRACERS)
    found.update(zip((block.index for block in stale), again, strict=True))
    tasks = [BlockTask(job, block, str(ledger.path(block))) for block in blocks if block.index not in found]
    by_name = {task.block.name: task.block for task in tasks}
    fresh: list[BlockInfo] = []
    total = job.plan.predicted_tiles
    tiles = _Tally(total - sum(task.block.tiles for task in tasks), total, progress)
    for info in executor.predict(tasks, tiles.add):
        fresh.append(info)
        block = by_name[info.name]
        found[block.index] = info
        tiles.finish(block.tiles)
    return dict(sorted(found.items())), fresh


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


def _write_outputs(
    prepared: Prepared,
    ledger: Ledger,
    outputs: Outputs,
    settings: PredictSettings,
    marks: dict[str, str],
) -> dict[str, int]:
    """Write every output under a temporary name, then give all of them their names."""
    try:
        for path in outputs.all:
            discard(path)
        counts = _write_all(prepared, ledger, outputs, settings, marks)
        ledger.begin_publishing()
        publish(*outputs.all)
    except BaseException:
        for path in outputs.all:
            discard(path)
        raise
    return counts


def _write_all(
    prepared: Prepared,
    ledger: Ledger,
    outputs: Outputs,
    settings: PredictSettings,
    marks: dict[str, str],
) -> dict[str, int]:
    """Write every output to its temporary name, polygons and rasters at the same time."""
    job = prepared.job
    mosaic = Mosaic(job.plan, job.tracing, ledger.path)
    labels = job.model.card.labels

    def polygons(path: Path) -> int:
        saved = SavedPixels(job.plan, ledger.path)
        rules = _rules(prepared, saved)
        features = whole_features(
            job.plan,
            ledger.path,
            prepared.grid,
            prepared.measures,
            job.tracing.tolerance is not None,
            len(job.tracing.values) > 1,
            rules,
            _splitting(prepared, settings, saved, rules),
        )
        with writing(path) as temporary:
            return write_layer(temporary, _layer(prepared, settings, path, marks), features)

    def rasters() -> None:
        grid = _output_grid(prepared, settings)
        with gdal_environment(settings.gdal):
            for path in outputs.masks:
                band = Band(grid, labels, settings.cog, settings.co, marks)
                with writing(path) as temporary:
                    write_band(temporary, band, _reader(prepared, settings, mosaic.classes))
            if outputs.probability is not None:
                band = Band(grid, None, settings.cog, settings.co, marks)
                with writing(outputs.probability) as temporary:
                    write_band(temporary, band, _reader(prepared, settings, mosaic.probability))
            if outputs.overlay is not None:
                with Scene(job.scene) as scene, writing(outputs.overlay) as temporary:
                    view = View(scene, prepared.range, job.plan.region, (grid.height, grid.width))
                    write_overlay(temporary, view, mosaic.classes, labels, marks)

    with ThreadPoolExecutor(1) as beside:
        written = beside.submit(rasters)
        counts = {} if outputs.vector is None else {"polygons": polygons(outputs.vector)}
        written.result()
    if outputs.tiles is not None:
        _write_web(prepared, outputs, settings, marks)
    return counts


def _write_web(
    prepared: Prepared, outputs: Outputs, settings: PredictSettings, marks: dict[str, str]
) -> None:
    """Vector tiles of the polygons that were just written, and the page that shows them."""
    tiles = outputs.tiles
    if tiles is None:
        return
    job = prepared.job
    with writing(tiles) as temporary, gdal_environment(settings.gdal), Scene(job.scene) as scene:
        write_tiles(temporary, temporary_for(outputs.main), settings.vector.layer or outputs.main.stem)
        page = Page(
            scene, prepared.range, job.plan.region, job.model.card.labels, outputs.main.stem,
            f"{marks['model']}, {marks['software']}",
        )  # fmt: skip
        write_page(temporary.with_suffix(".html"), page, tiles.name)


def _output_grid(prepared: Prepared, settings: PredictSettings) -> Grid:
    grid = prepared.native if prepared.matched else prepared.grid
    region = prepared.job.plan.region
    return grid[output_window(prepared.grid, region, prepared.native, prepared.matched)]


def _reader(prepared: Prepared, settings: PredictSettings, read: Any) -> Any:
    region = prepared.job.plan.region
    return on_output_grid(read, prepared.grid, region, prepared.native, prepared.matched)


def _late_warnings(infos: list[BlockInfo], settings: PredictSettings, said: list[str]) -> list[str]:
    """Blank tiles that only the prediction met."""
    values = {info.blank_value for info in infos if info.blank_value is not None}
    if settings.nodata is not None:
        return []
    late = [line for line in map(blank_warning, sorted(values)) if line not in said]
    for line in late:
        _log.warning(line)
    return late
