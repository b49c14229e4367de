"""Predicting one block: read, forward, blend, trace, save.

Nothing waits for what it does not need: one thread reads ahead, the engine predicts several batches at a
time, this thread blends their results in the order of the tiles, another one traces the rows that are
finished, and one compresses and saves them. Only a few rows of tiles are in memory at any time, however
high the block is. A block needs no other block and no shared state.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import BlockFailedError
from tilesegment.grid import Window
from tilesegment.model.engines import Pending, Predictor, Setup, load_engine
from tilesegment.raster.source import Pixels, Scene, gdal_environment
from tilesegment.raster.values import blank_value
from tilesegment.run.blockfile import BlockInfo, BlockPixels, new_block
from tilesegment.run.finished import Finished
from tilesegment.run.job import BlockTask, Job, trace_block
from tilesegment.run.stopwatch import Stopwatch
from tilesegment.run.tilerows import PixelSource, cut_tile, tile_rows, wanted_part
from tilesegment.tiling.blend import NODATA, tile_weights
from tilesegment.tiling.memory import give_back_memory, rows_waiting
from tilesegment.tiling.plan import Block
from tilesegment.vector.trace import Fragments

# A worker process predicts one block at a time, however many threads its scheduler gives it.
_ONE_BLOCK = threading.Lock()
_loaded: dict[Any, Predictor] = {}


def predict_block(
    task: BlockTask, device_index: int = 0, tick: Callable[[], None] = lambda: None
) -> BlockInfo:
    """Predict a block and save it at `task.path`; what happened. `tick` is called for every tile."""
    job, block = task.job, task.block
    watch = Stopwatch()
    with _ONE_BLOCK, gdal_environment(job.scene.gdal), Scene(job.scene) as scene:
        with watch.stage("load"):
            predictor = _predictor(job, device_index)
        with new_block(Path(task.path)) as file:
            counts = predict_rows(scene, predictor, job, block, watch, file, tick)
            file.info(info := _info(task, predictor, counts, watch))
    give_back_memory()
    return info


def forget_model() -> None:
    """Drop the model that this process keeps for its next block."""
    with _ONE_BLOCK:
        _loaded.clear()
    give_back_memory()


@dataclass
class Counts:
    """What was met on the way through a block."""

    skipped: int = 0
    valid: int = 0
    blank: int | None = None


class Sink(Protocol):
    """Where a block's finished parts go, from several threads: a `BlockWriter`."""

    def rows(self, row: int, pixels: BlockPixels) -> None:
        """Pixels of whole rows, the first of them the block's row `row`; from top to bottom."""
        ...

    def fragments(self, band: int, fragments: Fragments) -> None:
        """The fragments of a band, counted from the block's first."""
        ...


def predict_rows(
    scene: PixelSource,
    predictor: Predictor,
    job: Job,
    block: Block,
    watch: Stopwatch,
    save: Sink,
    tick: Callable[[], None] = lambda: None,
) -> Counts:
    """Predict a block from top to bottom and save rows and fragments as they are finished."""
    plan, window = job.plan, block.window
    counts = Counts()
    weights = tile_weights(plan.tile, plan.overlap, job.blend)
    blender = predictor.blender(weights, window.width, plan.rows.start(block.tile_rows[0]))
    wanted: dict[int, NDArray[np.bool_] | None] = {}
    finished = Finished(window, rows_waiting(plan))

    def tiles() -> Iterator[tuple[int, int, Pixels]]:
        for row in tile_rows(scene, job, block, watch):
            wanted[row.index] = wanted_part(
                row, window.col - plan.cols.start(block.tile_cols[0]), window.width
            )
            for col in block.tile_cols:
                tile = cut_tile(
                    row, plan.cols.start(col) - plan.cols.start(block.tile_cols[0]), plan.tile[1]
                )
                if tile is None:
                    counts.skipped += 1
                    tick()
                    continue
                if counts.blank is None:
                    counts.blank = blank_value(tile.values, tile.valid)
                yield row.index, plan.cols.start(col) - window.col, tile

    def finish_row(index: int, end: int) -> None:
        """Nothing touches the rows above `end` any more, whose first is that of tile row `index`."""
        with watch.stage("blend"):
            first = blender.top
            blended = BlockPixels(*blender.advance(end))
            here = range(max(first, window.row), min(end, window.row_end))
            mask = wanted.pop(index)
            if len(here):
                rows = slice(here.start - first, here.stop - first)
                pixels = _only_wanted(blended, rows, mask, job.model.card.channels > 1)
                counts.valid += 0 if mask is None else int(mask[rows].sum())
        if len(here):
            with watch.stage("save"):
                save.rows(here.start - window.row, pixels)
            if job.tracing.trace:
                with watch.stage("wait for tracing"):
                    finished.put(pixels)

    with ThreadPoolExecutor(1) as tracer:
        with finished.closing():
            tracing = tracer.submit(_trace, finished, window, job, watch, save)
            current = block.tile_rows[0]
            for row, col, found in _forward(tiles(), predictor, watch):
                for index in range(current, row):
                    finish_row(index, plan.rows.start(index + 1))
                current = row
                with watch.stage("blend"):
                    blender.add(col, found)
                tick()
            for index in range(current, block.tile_rows[-1]):
                finish_row(index, plan.rows.start(index + 1))
            finish_row(block.tile_rows[-1], blender.top + plan.tile[0])
        with watch.stage("trace at the end"):
            tracing.result()
    return counts


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


def _only_wanted(
    blended: BlockPixels, rows: slice, wanted: NDArray[np.bool_] | None, several: bool
) -> BlockPixels:
    """Some rows of a strip, NODATA where they are not wanted. `wanted` begins with the strip's top."""
    probability = blended.probability[rows]
    if wanted is None:
        nothing = np.full_like(probability, NODATA)
        return BlockPixels(
            nothing if several else None, nothing, None if blended.contact is None else nothing
        )
    mask = wanted[rows]
    if ((probability == NODATA) & mask).any():
        raise BlockFailedError("a valid pixel was not predicted; please report this")

    def kept(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.where(mask, array, np.uint8(NODATA))

    classes, contact = blended.classes, blended.contact
    return BlockPixels(
        kept(classes[rows]) if several and classes is not None else None,
        kept(probability),
        None if contact is None else kept(contact[rows]),
    )


def _trace(finished: Finished, window: Window, job: Job, watch: Stopwatch, save: Sink) -> None:
    """Trace a block band by band, each as soon as its rows are there."""
    waited = Stopwatch()

    def read(piece: Window) -> BlockPixels:
        with waited.stage("rows"):
            return finished.take(piece)

    with finished.closing():
        begin = time.perf_counter()
        for band, fragments in enumerate(trace_block(job.plan, window, read, job.tracing)):
            with waited.stage("save"):
                save.fragments(band, fragments)
        watch.add("trace", time.perf_counter() - begin - sum(waited.seconds.values()))


def _forward(
    tiles: Iterator[tuple[int, int, Pixels]], predictor: Predictor, watch: Stopwatch
) -> Iterator[tuple[int, int, Any]]:
    """Counted probabilities of the tiles, in their order, batches filled across rows."""
    waiting: deque[tuple[list[tuple[int, int]], Pending]] = deque()

    def oldest() -> Iterator[tuple[int, int, Any]]:
        places, pending = waiting.popleft()
        with watch.stage("forward"):
            found = pending.result()
        for (row, col), counts in zip(places, found, strict=True):
            yield row, col, counts

    try:
        for batch in _batches(tiles, predictor.batch):
            if len(waiting) == predictor.depth:
                yield from oldest()
            with watch.stage("submit"):
                values = np.stack([tile.values for _, _, tile in batch])
                valid = np.stack([tile.valid for _, _, tile in batch])
                waiting.append(([(row, col) for row, col, _ in batch], predictor.submit(values, valid)))
        while waiting:
            yield from oldest()
    finally:
        for _, pending in waiting:
            pending.cancel()


def _batches(
    tiles: Iterator[tuple[int, int, Pixels]], size: int
) -> Iterator[list[tuple[int, int, Pixels]]]:
    batch = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _predictor(job: Job, device_index: int) -> Predictor:
    """The model, loaded once a process."""
    setup = Setup(
        tile=job.plan.tile,
        dtype=job.dtype,
        low=job.low,
        high=job.high,
        device=job.engine.device,
        device_index=device_index,
        precision=job.engine.precision,
        batch=job.batch,
        lanes=job.lanes,
        contact=job.contact,
    )
    key = job.engine.engine, job.model.sha256, setup
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_engine(job.engine.engine, job.model, setup)
    return _loaded[key]
