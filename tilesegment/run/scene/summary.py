"""What is said of a run: its plan before, and its record after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np

from tilesegment.errors import without_secrets
from tilesegment.grid import Grid, Window
from tilesegment.raster.environment import gdal_environment
from tilesegment.run.block.file import BlockInfo
from tilesegment.run.record import now, plain_settings, software, stage_seconds, versions
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.pace import pace_or_none
from tilesegment.run.scene.prepare import Prepared, plan_memory, prepare
from tilesegment.settings import PredictSettings

# Settings that change no output.
NO_MATTER = ("workers", "scheduler", "max_memory", "batch", "overwrite", "resume")


def describe(source: str, settings: PredictSettings, outputs: Outputs | None = None) -> dict[str, Any]:
    """The plan of a run, without running it: blocks, tiles, recompute factor, memory, disk and time."""
    trace = outputs is None or outputs.vector is not None
    with gdal_environment(settings.gdal):
        consensus = outputs is not None and outputs.consensus is not None
        prepared = prepare(source, settings, trace, "", consensus).with_blocks({})
    regular = prepared.measures.regularize != "none"
    seconds = pace_or_none(prepared.job, settings.workers or 1, settings.scheduler, regular)
    return described(source, prepared) | {"seconds": seconds}


def made_by(prepared: Prepared, outputs: Outputs, settings: PredictSettings) -> str:
    """Equal for runs that write the same to outputs of the same names: of the scene as it is now, with the
    same model, version and settings."""
    told = {name: value for name, value in plain_settings(settings).items() if name not in NO_MATTER}
    names = [str(path.resolve()) for path in outputs.all]
    whole = json.dumps([prepared.key, told, names], default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def described(source: str, prepared: Prepared) -> dict[str, Any]:
    """The plan of a prepared run, in plain values."""
    plan, memory = prepared.job.plan, plan_memory(prepared)
    metres = prepared.grid.metres_per_pixel
    area = plan.region.area
    return {
        "input": without_secrets(source),
        "model": ", ".join(model.name for model in prepared.job.models),
        "grid": {
            "height": plan.height,
            "width": plan.width,
            "crs": prepared.grid.crs_name,
            "region": [plan.region.height, plan.region.width],
            "corners": _corners(prepared.grid, plan.region),
            "resampled": prepared.job.scene.shape is not None,
            "metres_per_pixel": None if metres is None else [round(m, 5) for m in metres],
        },
        "bands": list(prepared.job.scene.bands),
        "range": {
            "low": list(prepared.job.range.low),
            "high": list(prepared.job.range.high),
            "from": prepared.job.range.source,
        },
        "megapixels": round(area / 1e6, 3),
        "tile": list(plan.tile),
        "overlap": plan.overlap,
        "blocks": len(plan.blocks),
        "tiles": plan.predicted_tiles,
        "looks": prepared.job.looks,
        "recompute": round(plan.recompute, 4),
        "memory_bytes": memory,
        # Pixels compress to a third or better; polygons take about as much again.
        "disk_bytes": area
        * ((1 if prepared.load.channels == 1 else 2) + prepared.load.contact + prepared.load.consensus),
        "warnings": list(prepared.warnings),
    }


def _corners(grid: Grid, region: Window) -> list[list[float]]:
    """Of the region, in coordinates of the CRS; clockwise from its first pixel."""
    top, bottom, left, right = region.row, region.row_end, region.col, region.col_end
    points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
    found: list[list[float]] = grid.to_world(points).tolist()
    return found


def record_of(
    source: str,
    prepared: Prepared,
    outputs: Outputs,
    settings: PredictSettings,
    infos: list[BlockInfo],
    fresh: list[BlockInfo],
    warnings: list[str],
) -> dict[str, Any]:
    """What a run did, as it is written beside its main output; without what is only known at the end."""
    return {
        "made_by": made_by(prepared, outputs, settings),
        "software": software(),
        "finished": now(),
        "outputs": [str(path) for path in outputs.all],
        "plan": described(source, prepared) | {"warnings": warnings},
        "models": [
            {"name": model.name, "sha256": model.sha256, "credits": list(model.card.credits)}
            for model in prepared.job.models
        ],
        "engine": sorted({info.engine for info in infos}),
        "settings": plain_settings(replace(settings)),
        "versions": dict(versions()),
        "counts": {
            "blocks": len(infos),
            "blocks_predicted": len(fresh),
            "tiles_predicted": sum(info.tiles for info in fresh),
            "tiles_skipped": sum(info.skipped_tiles for info in fresh),
            "valid_pixels": sum(info.valid_pixels for info in infos),
        },
        "drift": prepared.drift,
        "seconds": stage_seconds(fresh),
        "warnings": warnings,
    }
