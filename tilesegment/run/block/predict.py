"""Predicting one block, which needs no other block and no shared state; see `rows` for the way through."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilesegment.errors import BlockFailedError
from tilesegment.model.engines import Predictor, Setup, load_engine
from tilesegment.model.engines.several import SeveralPredictor, turns_of
from tilesegment.model.engines.shared import SharedPredictor
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.source import Scene
from tilesegment.run.block.file import BlockInfo, new_block
from tilesegment.run.block.job import BlockTask, Job
from tilesegment.run.block.rows import Counts, predict_rows
from tilesegment.run.block.stopwatch import Stopwatch
from tilesegment.tiling.memory import give_back_memory

_LOADING = threading.Lock()
# Tile shapes (and value ranges) that a model is kept loaded for; the oldest goes.
_FORMS = 4
_loaded: dict[Any, Predictor] = {}


def predict_block(
    task: BlockTask, device_index: int = 0, tick: Callable[[], None] = lambda: None
) -> BlockInfo:
    """Predict a block and save it at `task.path`; what happened. `tick` is called for every tile."""
    job, block = task.job, task.block
    watch = Stopwatch()
    with gdal_environment(job.scene.gdal), Scene(job.scene) as scene:
        if (scene.grid.height, scene.grid.width) != (job.plan.height, job.plan.width):
            raise BlockFailedError(f"{job.scene.path}: changed while it was predicted")
        with watch.stage("load"):
            predictor = predictor_of(job, device_index)
        with new_block(Path(task.path)) as file:
            counts = predict_rows(scene, predictor, job, block, watch, file, tick)
            file.info(info := _info(task, predictor, counts, watch))
    give_back_memory(block.window.area)
    return info


def forget_model() -> None:
    """Drop the model that this process keeps for its next block."""
    with _LOADING:
        _loaded.clear()
    give_back_memory()


def _info(task: BlockTask, predictor: Predictor, counts: Counts, watch: Stopwatch) -> BlockInfo:
    block = task.block
    return BlockInfo(
        name=block.name,
        height=block.window.height,
        width=block.window.width,
        engine=predictor.name,
        trace_key=task.job.tracing.key,
        tiles=block.tiles - counts.skipped,
        skipped_tiles=counts.skipped,
        valid_pixels=counts.valid,
        blank_value=counts.blank,
        seconds=watch.seconds,
    )


def predictor_of(job: Job, device_index: int) -> Predictor:
    """The model of a job, loaded once a process, and shared by the blocks that are predicted at a time."""
    setup = Setup(
        tile=job.plan.tile,
        dtype=job.dtype,
        range=job.range,
        device=job.engine.device,
        device_index=device_index,
        precision=job.engine.precision,
        batch=job.batch,
        streams=job.streams,
        contact=job.contact,
        compiled=job.engine.compiled,
    )
    network = job.engine.engine, tuple(found.sha256 for found in job.models), job.tta
    key = network, setup
    with _LOADING:
        if key not in _loaded:
            # Pictures of a folder are upright and lying: each shape has a form of the same model.
            kept = [other for other in _loaded if other[0] == network][1 - _FORMS :]
            for other in set(_loaded).difference(kept):
                del _loaded[other]
            members = [load_engine(job.engine.engine, model, setup) for model in job.models]
            alone = len(members) == 1 and job.tta == "none"
            found = members[0] if alone else SeveralPredictor(members, turns_of(job.tta))
            _loaded[key] = SharedPredictor(found, fills=job.engine.device != "cpu")
        # The last one used is the last one to go.
        predictor = _loaded[key] = _loaded.pop(key)
        return predictor
