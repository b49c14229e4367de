"""From an input and settings to a job: everything is decided here, nothing is predicted yet."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import shapely

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid, Window
from tilesegment.model.card import Card
from tilesegment.model.engines.choose import EngineChoice, choose_engine, version_of
from tilesegment.model.engines.several import turns_of
from tilesegment.model.store import ModelFile, find_models
from tilesegment.raster.aoi import box_region, read_aoi, region_of
from tilesegment.raster.source import Scene, open_scene
from tilesegment.raster.values import blank_edge, value_range
from tilesegment.run.block.job import Drawing, Job, TraceSettings
from tilesegment.run.scene.drift import scene_drift
from tilesegment.run.scene.identity import scene_identity
from tilesegment.run.scene.measures import as_drawn, resolve_measures, shared_tolerance
from tilesegment.settings import SPLIT, TTA, PredictSettings, VectorSettings
from tilesegment.tiling.blend import BLEND_MODES, BlendMode
from tilesegment.tiling.memory import PROCESS_BYTES, Load, activation_bytes, fit_blocks, worst_memory
from tilesegment.tiling.plan import Plan, fitting_tile

DEFAULT_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Prepared:
    """A job before its blocks are chosen, and what the run must know besides.

    grid: the working grid; native: the input's own, which rasters are written on where they are `matched`.
    key: decides a pixel's value. files: all behind the
    input, its model's too. measures: the vector settings with every unit resolved. drift: see `model.look`.
    """

    job: Job
    grid: Grid
    native: Grid
    load: Load
    budget: int
    workers: int
    measures: VectorSettings
    key: dict[str, Any]
    files: tuple[str, ...]
    matched: bool
    warnings: tuple[str, ...]
    drift: dict[str, float]

    def with_blocks(self, fixed: dict[str, Any]) -> Prepared:
        """With the blocks of an earlier run, or the best that fit the memory."""
        if fixed:
            plan = replace(self.job.plan, block_rows=fixed["block_rows"], block_cols=fixed["block_cols"])
            return replace(self, job=replace(self.job, plan=plan, batch=fixed["batch"]))
        plan = self.job.plan
        if plan.block_rows * plan.block_cols == 1:
            plan = fit_blocks(plan, self.load, self.budget, self.workers)
        return replace(self, job=replace(self.job, plan=plan))

    @property
    def fixed(self) -> dict[str, Any]:
        """What every later run of the same ledger must use."""
        plan = self.job.plan
        return {"block_rows": plan.block_rows, "block_cols": plan.block_cols, "batch": self.job.batch}


def prepare(
    path: str, settings: PredictSettings, trace: bool, folder: str, consensus: bool = False
) -> Prepared:
    """Open the input and the model, and decide everything that a run needs.

    trace: whether polygons are wanted; folder: of the ledger; consensus: how far tiles disagree is wanted.
    Raises the errors of the parts: InputError, ModelError, SettingsError, MemoryBudgetError.
    """
    check_settings(settings)
    models = find_models(settings.model)
    model, card = models[0], models[0].card
    with open_scene(
        path,
        bands=_bands(settings, card),
        nodata=settings.nodata,
        gsd=settings.gsd or card.gsd,
        size=card.image_size,
        gdal=settings.gdal,
        crs=settings.src_crs,
    ) as scene:
        values = value_range(scene, settings.stretch, card.dtype, card.value_range)
        region, aoi = _region(scene, settings)
        plan = _plan(scene.grid, region, settings, card)
        measures, notes = resolve_measures(settings.vector, scene.grid, card.gsd)
        measures = as_drawn(measures, card)
        tracing = _tracing(card, settings, measures, scene.grid, trace)
        drift, unlike = scene_drift(scene, values, card)
        warnings = [*_scene_warnings(scene, settings, card), *(notes if trace else []), *unlike]
        budget = settings.max_memory or _default_budget(settings.workers or 1)
        contact = trace and _splits(settings, models, scene.grid.crs is not None)
        engine = choose_engine_of(settings, models)
        load, streams = _load(scene, models, plan, settings, budget, engine, contact)
        load = replace(load, consensus=consensus)
        job = Job(
            scene=scene.spec, model=model, plan=plan, dtype=str(scene.dtype), range=values,
            blend=cast(BlendMode, settings.blend), engine=engine, batch=settings.batch,
            streams=streams, aoi=aoi, tracing=tracing, folder=folder,
            drawing=Drawing(scene.grid, measures, settings.split == "depth") if trace else None,
            contact=contact, others=models[1:], tta=settings.tta, consensus=consensus,
        )  # fmt: skip
        return Prepared(
            job,
            scene.grid,
            scene.native,
            load,
            budget,
            settings.workers or 1,
            measures,
            _prediction_key(job, scene),
            (*scene.files, *(found.path for found in models)),
            # A picture that is read at the size of training is still a picture of its own size.
            settings.match_input or card.image_size is not None,
            tuple(warnings),
            drift,
        )


def choose_engine_of(settings: PredictSettings, models: Sequence[ModelFile]) -> EngineChoice:
    """The engine that predicts with these settings. Raises SettingsError where it is not to be had."""
    return choose_engine(
        settings.engine,
        settings.device,
        settings.precision,
        all(found.quantized for found in models),
        any(found.graph is not None for found in models),
        settings.compile,
    )


def _bands(settings: PredictSettings, card: Card) -> int | tuple[int, ...]:
    """Those that are read, or how many to choose."""
    wanted = len(card.bands)
    if settings.bidx is None:
        return wanted
    if len(settings.bidx) != wanted:
        raise SettingsError(
            f"--bidx names {len(settings.bidx)} bands, the model {card.name!r} reads {wanted}"
        )
    return settings.bidx


def _plan(grid: Grid, region: Window, settings: PredictSettings, card: Card) -> Plan:
    tile, overlap = settings.tile or card.tile, settings.overlap
    if overlap is None:
        overlap = card.overlap
    if settings.tile is None:
        tile, fitted = fitting_tile(tile, grid.height, grid.width, overlap)
        # An overlap that was asked for and does not fit is an error, not another one.
        overlap = fitted if settings.overlap is None else overlap
        if settings.tta == "d4":
            tile = max(tile), max(tile)
    if settings.tta == "d4" and tile[0] != tile[1]:
        raise SettingsError(f"--tta d4 turns tiles, which are {tile[0]} x {tile[1]}; give a square --tile")
    return Plan(grid.height, grid.width, region, tile, overlap)


def _splits(settings: PredictSettings, models: tuple[ModelFile, ...], has_metres: bool) -> bool:
    """Whether buildings are told apart by where the model says that they touch. With connectivity 8 regions
    are to be joined instead."""
    card = models[0].card
    if settings.split == "depth" and not (card.is_binary and card.foreground == (1,)):
        raise SettingsError("--split depth is for models of one class besides the background")
    if settings.split == "depth" and not has_metres and card.gsd is None:
        raise SettingsError("--split depth needs metres, which neither the scene nor the model has")
    wanted = settings.split == "auto" and settings.vector.connectivity == 4
    return wanted and all(model.card.contact for model in models) and card.is_binary


def plan_memory(prepared: Prepared) -> dict[str, int]:
    """Bytes a process, by part, of the prepared plan."""
    memory = worst_memory(prepared.job.plan, prepared.load)
    return {**vars(memory), "total": memory.total}


def check_settings(settings: PredictSettings) -> None:
    """Raises SettingsError for what is wrong whatever the scene."""
    if settings.blend not in BLEND_MODES:
        raise SettingsError(f"--blend {settings.blend!r}: use one of {', '.join(BLEND_MODES)}")
    if settings.split not in SPLIT:
        raise SettingsError(f"--split {settings.split!r}: use one of {', '.join(SPLIT)}")
    if settings.tta not in TTA:
        raise SettingsError(f"--tta {settings.tta!r}: use one of {', '.join(TTA)}")
    if settings.split == "depth" and settings.vector.connectivity == 8:
        raise SettingsError("--split depth and --connectivity 8 exclude each other")
    for name, least in (("batch", 1), ("workers", 1), ("max_memory", 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise SettingsError(f"--{name.replace('_', '-')} {value} is less than {least}")
    if settings.gsd is not None and not 0 < settings.gsd < math.inf:
        raise SettingsError(f"--gsd {settings.gsd:g} is no pixel size in metres")
    if settings.workers is not None and settings.scheduler is not None:
        raise SettingsError("--workers starts a cluster and --scheduler joins one; give one of them")
    if settings.threshold is not None and not 0 < settings.threshold < 1:
        raise SettingsError(f"--threshold {settings.threshold:g} is not between 0 and 1")


def _region(scene: Scene, settings: PredictSettings) -> tuple[Window, bytes | None]:
    grid = scene.grid
    region, aoi = grid.window, None
    if settings.bbox is not None:
        region = box_region(settings.bbox, grid)
    if settings.aoi is not None:
        area = read_aoi(settings.aoi, grid)
        part = region_of(area, grid).intersection(region)
        if part is None:
            raise SettingsError("--bbox and --aoi have no pixel in common")
        region, aoi = part, shapely.to_wkb(area)
    return region, aoi


def _tracing(
    card: Card, settings: PredictSettings, measures: VectorSettings, grid: Grid, trace: bool
) -> TraceSettings:
    if settings.threshold is not None and not card.is_binary:
        raise SettingsError(
            f"--threshold is for two classes; the model {card.name!r} has {len(card.classes)} and takes "
            "the most probable"
        )
    threshold = card.threshold if settings.threshold is None else settings.threshold
    shared = len(card.foreground) > 1
    tolerance = shared_tolerance(measures.simplify, grid) if shared else None
    return TraceSettings(threshold, card.foreground, tolerance, trace)


def _scene_warnings(scene: Scene, settings: PredictSettings, card: Card) -> list[str]:
    warnings = scene.notes(card.gsd is not None)
    if settings.nodata is None:
        value = blank_edge(scene)
        if value is not None:
            warnings.append(blank_warning(value))
    if card.gsd is None and settings.gsd is None and scene.native.crs is not None:
        warnings.append(f"the model {card.name!r} names no pixel size: the scene is read as it is")
    return warnings


def blank_warning(value: int) -> str:
    """The warning about an undeclared blank area."""
    return (
        f"a blank area of value {value} is not declared as nodata and is predicted like ground; "
        f"leave it out with --nodata {value}"
    )


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _default_budget(workers: int) -> int:
    import psutil

    return int(psutil.virtual_memory().total * DEFAULT_MEMORY_SHARE / workers)


def _load(
    scene: Scene,
    models: tuple[ModelFile, ...],
    plan: Plan,
    settings: PredictSettings,
    budget: int,
    engine: EngineChoice,
    contact: bool,
) -> tuple[Load, int]:
    """What a process will hold, and its streams: as many as cores, and no more than a third of the budget's
    memory for forward passes."""
    card = models[0].card
    activation = plan.tile[0] * plan.tile[1]
    stated = sum(model.card.activation_bytes for model in models)
    activation *= activation_bytes(stated, engine.engine, engine.precision)
    batch = settings.batch or 1
    streams = max(1, cores() // (settings.workers or 1))
    streams = max(1, min(streams, int(budget / 3 / (activation * batch))))
    return (
        Load(
            scene.bands,
            scene.dtype.itemsize,
            card.channels,
            # Weights are held in float32, and once more while they are loaded.
            2 * sum(model.bytes for model in models),
            activation,
            streams,
            batch,
            PROCESS_BYTES[engine.engine],
            contact,
            scene.native.height * scene.native.width * scene.bands * scene.dtype.itemsize,
            contact or settings.split == "depth",
            len(models) * len(turns_of(settings.tta)),
        ),
        streams,
    )


def _prediction_key(job: Job, scene: Scene) -> dict[str, Any]:
    """Everything that decides the value of a pixel, in words that can be shown."""
    region = job.plan.region
    return {
        "version": version_of("tilesegment"),
        "input": scene_identity(scene),
        "bands": list(job.scene.bands),
        "nodata": job.scene.nodata,
        "crs": scene.grid.crs,
        "grid": [scene.grid.height, scene.grid.width],
        "region": [region.row, region.col, region.height, region.width],
        "aoi": None if job.aoi is None else hashlib.sha256(job.aoi).hexdigest(),
        "range": [list(job.range.low), list(job.range.high)],
        "models": [model.sha256 for model in job.models],
        "tta": job.tta,
        "tile": list(job.plan.tile),
        "overlap": job.plan.overlap,
        "blend": job.blend,
        "contact": job.contact,
        "consensus": job.consensus,
        "engine": job.engine.version,
        "device": job.engine.device,
        "precision": job.engine.precision,
    }
