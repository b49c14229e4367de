"""The outputs of a run: written under temporary names, then given their own all together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image

from tilesegment.grid import Grid
from tilesegment.interop.web import Page, write_no_tiles, write_page, write_tiles
from tilesegment.raster.display import mercator_bounds
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.sink import Band, write_band
from tilesegment.raster.source import Scene
from tilesegment.report.overlay import View, drawn, write_overlay
from tilesegment.report.run import write_report
from tilesegment.run.files import discard, publish, temporary_for, writing
from tilesegment.run.polygons.making import Making
from tilesegment.run.polygons.regular import rules_of
from tilesegment.run.polygons.saved import SavedPixels
from tilesegment.run.polygons.whole import made_features, whole_features
from tilesegment.run.record import name_of
from tilesegment.run.scene.ledger import Ledger
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.prepare import Prepared
from tilesegment.run.scene.publish import Mosaic, on_output_grid, output_window
from tilesegment.settings import PredictSettings
from tilesegment.tiling.plan import Plan
from tilesegment.vector.seams import Features
from tilesegment.vector.write import Layer, write_layer

# Pixels a side of a report's picture.
_OVERVIEW = 1400


@dataclass(frozen=True)
class Work:
    """What is written, and from what. marks: provenance."""

    prepared: Prepared
    ledger: Ledger
    outputs: Outputs
    settings: PredictSettings
    marks: dict[str, str]

    @property
    def mosaic(self) -> Mosaic:
        """The saved blocks as one raster."""
        job = self.prepared.job
        return Mosaic(job.plan, job.tracing, self.ledger.path)


@dataclass
class Written:
    """What was written, for the record: counts, and more under names of their own."""

    counts: dict[str, int] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


def write_outputs(work: Work, told: Callable[[Written], dict[str, Any]]) -> dict[str, Any]:
    """Write every output under a temporary name, then give all of them their names. told: makes the run's
    record, which is returned, of what was written."""
    outputs = work.outputs
    try:
        for path in outputs.all:
            discard(path)
        record = told(_write_all(work))
        if outputs.report is not None:
            with writing(outputs.report) as temporary:
                write_report(temporary, record, _overview(work))
        work.ledger.begin_publishing()
        publish(*outputs.all)
    except BaseException:
        for path in outputs.all:
            discard(path)
        raise
    return record


def _write_all(work: Work) -> Written:
    """Write every output but the report to its temporary name, polygons and rasters at the same time."""
    with ThreadPoolExecutor(1) as beside:
        rasters = beside.submit(_write_rasters, work)
        written = Written() if work.outputs.vector is None else _write_polygons(work, work.outputs.vector)
        rasters.result()
    if work.outputs.tiles is not None:
        _write_web(work, work.outputs.tiles, written.counts["polygons"])
    return written


def _write_polygons(work: Work, path: Path) -> Written:
    prepared, job = work.prepared, work.prepared.job
    making = Making.of(job, SavedPixels(job.plan, work.ledger.path))
    if job.polygons_key is not None:
        features = made_features(job.plan, work.ledger.polygons, making)
    else:
        connectivity = work.settings.vector.connectivity
        features = whole_features(job.plan, work.ledger.path, making, connectivity)
    across = _Across(job.plan)
    with writing(path) as temporary:
        layer = layer_for(prepared, work.settings, path, work.marks)
        tally = write_layer(temporary, layer, across.counted(features))
    counts = {"polygons": tally.rows, "polygons_across_blocks": across.count}
    return Written(counts, {"polygons": tally.plain()})


class _Across:
    """Counts features that reach across the edges of blocks: what was joined again."""

    def __init__(self, plan: Plan) -> None:
        windows = [block.window for block in plan.blocks]
        region = plan.region
        self._rows = sorted({window.row for window in windows} - {region.row})
        self._cols = sorted({window.col for window in windows} - {region.col})
        self.count = 0

    def counted(self, batches: Iterator[Features]) -> Iterator[Features]:
        for features in batches:
            left, top, right, bottom = shapely.bounds(features.geometry).T
            across = np.zeros(len(features), np.bool_)
            for edge in self._rows:
                across |= (top < edge) & (bottom > edge)
            for edge in self._cols:
                across |= (left < edge) & (right > edge)
            self.count += int(across.sum())
            yield features


def _write_rasters(work: Work) -> None:
    prepared, outputs, settings = work.prepared, work.outputs, work.settings
    mosaic, grid = work.mosaic, _output_grid(prepared)
    labels = prepared.job.model.card.labels
    with gdal_environment(settings.gdal):
        for path in outputs.masks:
            band = Band(grid, labels, settings.cog, settings.co, work.marks)
            with writing(path) as temporary:
                write_band(temporary, band, _reader(prepared, mosaic.classes))
        for share, read in ((outputs.probability, mosaic.probability), (outputs.consensus, mosaic.spread)):
            if share is not None:
                band = Band(grid, None, settings.cog, settings.co, work.marks)
                with writing(share) as temporary:
                    write_band(temporary, band, _reader(prepared, read))
        if outputs.overlay is not None:
            with Scene(prepared.job.scene) as scene, writing(outputs.overlay) as temporary:
                write_overlay(temporary, _view(work, scene), mosaic.classes, labels, work.marks)


def _view(work: Work, scene: Scene) -> View:
    grid = _output_grid(work.prepared)
    return View(scene, work.prepared.job.range, work.prepared.job.plan.region, (grid.height, grid.width))


def _overview(work: Work) -> Image.Image:
    with gdal_environment(work.settings.gdal), Scene(work.prepared.job.scene) as scene:
        labels = work.prepared.job.model.card.labels
        return Image.fromarray(drawn(_view(work, scene), work.mosaic.classes, labels, _OVERVIEW))


def _write_web(work: Work, tiles: Path, polygons: int) -> None:
    """Vector tiles of the polygons that were just written, and the page that shows them."""
    outputs, settings, job = work.outputs, work.settings, work.prepared.job
    with writing(tiles) as temporary, gdal_environment(settings.gdal), Scene(job.scene) as scene:
        if polygons:
            write_tiles(temporary, temporary_for(outputs.main), settings.vector.layer or outputs.main.stem)
        else:
            write_no_tiles(temporary, mercator_bounds(scene.grid[job.plan.region])[1])
        page = Page(
            scene, work.prepared.job.range, job.plan.region, job.model.card.labels, outputs.main.stem,
            f"{work.marks['model']}, {work.marks['software']}",
        )  # fmt: skip
        write_page(temporary.with_suffix(".html"), page, tiles.name)


def _output_grid(prepared: Prepared) -> Grid:
    grid = prepared.native if prepared.matched else prepared.grid
    region = prepared.job.plan.region
    return grid[output_window(prepared.grid, region, prepared.native, prepared.matched)]


def _reader(prepared: Prepared, read: Any) -> Any:
    region = prepared.job.plan.region
    return on_output_grid(read, prepared.grid, region, prepared.native, prepared.matched)


def check_rules(prepared: Prepared) -> None:
    """Raises SettingsError where outlines cannot be made regular as they are to be."""
    tracing = prepared.job.tracing
    rules_of(prepared.measures, prepared.grid, len(tracing.values), None, tracing.least)


def layer_for(prepared: Prepared, settings: PredictSettings, path: Path, marks: dict[str, str]) -> Layer:
    """The layer that a run writes."""
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
        size=(prepared.native.height, prepared.native.width),
        source=name_of(prepared.job.scene.path),
    )
