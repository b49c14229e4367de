"""Predicting one block: read, normalise, forward, blend, trace, save.

Reading runs ahead in a thread of its own and forward passes run in `lanes` threads, while this one
blends their results in the order of the tiles. A block needs no other block and no shared state.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import BlockFailedError
from tilesegment.grid import Window
from tilesegment.model.engines import Predictor
from tilesegment.model.preprocess import normalise
from tilesegment.raster.aoi import inside_aoi
from tilesegment.raster.source import Pixels, Scene, gdal_environment
from tilesegment.raster.values import blank_value
from tilesegment.run.blockfile import BlockInfo, BlockPixels, write_block
from tilesegment.run.job import BlockTask, Job, trace_block
from tilesegment.tiling.blend import NODATA, Strip, tile_weights
from tilesegment.tiling.plan import Block

# A worker process predicts one block at a time, however many threads its scheduler gives it.
_ONE_BLOCK = threading.Lock()
_loaded: dict[Any, Predictor] = {}


@dataclass
class Stopwatch:
    """Seconds by stage; stages in several threads add up."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the body takes."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass(frozen=True)
class TileRow:
    """One row of tiles, read: the pixels from its first tile's first column on, and which of them
    may be written (valid and inside the area of interest)."""

    index: int
    pixels: Pixels
    wanted: NDArray[np.bool_]


def predict_block(
    task: BlockTask, device_index: int = 0, tick: Callable[[], None] = lambda: None
) -> BlockInfo:
    """Predict a block and save it at `task.path`; what happened. `tick` is called for every tile."""
    job, block = task.job, task.block
    watch = Stopwatch()
    with _ONE_BLOCK, gdal_environment(job.scene.gdal), Scene(job.scene) as scene:
        with watch.stage("load"):
            predictor = _predictor(job, device_index)
        pixels, counts = block_pixels(scene, predictor, job, block, watch, tick)
        with watch.stage("trace"):
            fragments = trace_block(job.plan, block.window, pixels.classes, pixels.probability, job.tracing)
        info = BlockInfo(
            name=block.name,
            height=block.window.height,
            width=block.window.width,
            engine=predictor.name,
            trace_key=job.tracing.key,
            tiles=block.tiles - counts.skipped,
            skipped_tiles=counts.skipped,
            valid_pixels=counts.valid,
            blank_value=counts.blank,
            seconds=watch.seconds,
        )
        with watch.stage("save"):
            write_block(Path(task.path), info, pixels, fragments)
    return info


@dataclass
class Counts:
    """What was met on the way through a block."""

    skipped: int = 0
    valid: int = 0
    blank: int | None = None


def block_pixels(
    scene: Scene,
    predictor: Predictor,
    job: Job,
    block: Block,
    watch: Stopwatch,
    tick: Callable[[], None] = lambda: None,
) -> tuple[BlockPixels, Counts]:
    """The blended classes and probabilities of a block."""
    plan, window = job.plan, block.window
    counts = Counts()
    wanted = np.zeros((window.height, window.width), np.bool_)
    weights = tile_weights(plan.tile, plan.overlap, job.blend)
    strip = Strip(weights, job.model.card.channels, window.width, plan.rows.start(block.tile_rows[0]))
    result = _Result.empty(window, job.model.card.channels > 1)

    def tiles() -> Iterator[tuple[int, int, Pixels]]:
        for row in _tile_rows(scene, job, block, watch):
            _note_wanted(wanted, row, plan.rows.start(row.index), window, block, job)
            for col in block.tile_cols:
                tile = _cut(row, plan.cols.start(col) - plan.cols.start(block.tile_cols[0]), plan.tile[1])
                if tile is None:
                    counts.skipped += 1
                    tick()
                    continue
                if counts.blank is None:
                    counts.blank = blank_value(tile.values, tile.valid)
                yield row.index, plan.cols.start(col) - window.col, tile

    current = block.tile_rows[0]
    for row, col, probability in _forward(tiles(), predictor, job, watch):
        with watch.stage("blend"):
            while current < row:
                current += 1
                result.put(strip.top, strip.advance(plan.rows.start(current)))
            strip.add(col, probability)
        tick()
    with watch.stage("blend"):
        for index in range(current + 1, block.tile_rows[-1] + 1):
            result.put(strip.top, strip.advance(plan.rows.start(index)))
        result.put(strip.top, strip.advance(strip.top + plan.tile[0]))
        counts.valid = int(wanted.sum())
        return result.finish(wanted), counts


@dataclass
class _Result:
    """A block's arrays, filled from strips that may begin above it and end below it."""

    window: Window
    classes: NDArray[np.uint8] | None
    probability: NDArray[np.uint8]

    @classmethod
    def empty(cls, window: Window, multi: bool) -> _Result:
        shape = (window.height, window.width)
        classes = np.full(shape, NODATA, np.uint8) if multi else None
        return cls(window, classes, np.full(shape, NODATA, np.uint8))

    def put(self, row: int, strip: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
        begin, end = max(row, self.window.row), min(row + len(strip[0]), self.window.row_end)
        if begin >= end:
            return
        here = slice(begin - self.window.row, end - self.window.row)
        there = slice(begin - row, end - row)
        if self.classes is not None:
            self.classes[here] = strip[0][there]
        self.probability[here] = strip[1][there]

    def finish(self, wanted: NDArray[np.bool_]) -> BlockPixels:
        # Row by row of memory: whole-block temporaries would double the block.
        for row in range(0, self.window.height, 512):
            band = slice(row, row + 512)
            if (self.probability[band][wanted[band]] == NODATA).any():
                raise BlockFailedError("a valid pixel was not predicted; please report this")
            self.probability[band][~wanted[band]] = NODATA
            if self.classes is not None:
                self.classes[band][~wanted[band]] = NODATA
        return BlockPixels(self.classes, self.probability)


def _tile_rows(scene: Scene, job: Job, block: Block, watch: Stopwatch) -> Iterator[TileRow]:
    """The rows of tiles of a block, each read while the one before is being predicted."""
    plan = job.plan
    first, last = plan.cols.start(block.tile_cols[0]), plan.cols.start(block.tile_cols[-1])
    width = last + plan.tile[1] - first
    kept: list[Pixels] = []

    def read(index: int) -> TileRow:
        with watch.stage("read"), gdal_environment(job.scene.gdal):
            top = plan.rows.start(index)
            begin = top
            if kept:
                begin = plan.rows.start(index - 1) + plan.tile[0]
            fresh = scene.read(Window(begin, first, top + plan.tile[0] - begin, width))
            pixels = _below(kept.pop(), fresh, plan.tile[0]) if kept else fresh
            kept.append(pixels)
            wanted = pixels.valid
            if job.aoi is not None:
                wanted = wanted & inside_aoi(job.aoi, Window(top, first, plan.tile[0], width))
            return TileRow(index, pixels, wanted)

    with ThreadPoolExecutor(1) as reader:
        ahead: Future[TileRow] = reader.submit(read, block.tile_rows[0])
        for index in block.tile_rows:
            row = ahead.result()
            if index != block.tile_rows[-1]:
                ahead = reader.submit(read, index + 1)
            yield row


def _below(above: Pixels, fresh: Pixels, rows: int) -> Pixels:
    """The last `rows` rows of two reads, one below the other."""
    kept = rows - fresh.valid.shape[0]
    if kept <= 0:
        return fresh
    begin = above.valid.shape[0] - kept
    return Pixels(
        np.concatenate([above.values[:, begin:], fresh.values], axis=1),
        np.concatenate([above.valid[begin:], fresh.valid]),
    )


def _note_wanted(
    wanted: NDArray[np.bool_], row: TileRow, top: int, window: Window, block: Block, job: Job
) -> None:
    left = job.plan.cols.start(block.tile_cols[0])
    there = Window(top, left, *row.wanted.shape)
    part = there.intersection(window)
    if part is not None:
        wanted[part.relative_to(window).slices] = row.wanted[part.relative_to(there).slices]


def _cut(row: TileRow, col: int, width: int) -> Pixels | None:
    """One tile; None where nothing of it will be written."""
    cols = slice(col, col + width)
    if not row.wanted[:, cols].any():
        return None
    return Pixels(row.pixels.values[:, :, cols], row.pixels.valid[:, cols])


def _forward(
    tiles: Iterator[tuple[int, int, Pixels]], predictor: Predictor, job: Job, watch: Stopwatch
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Probabilities of the tiles, in their order, batches filled across rows."""

    def work(pixels: list[Pixels]) -> NDArray[np.float32]:
        with watch.stage("normalise"):
            batch = np.stack(
                [normalise(p.values, p.valid, job.low, job.high, job.model.card) for p in pixels]
            )
        with watch.stage("forward"):
            return predictor(batch)

    waiting: deque[tuple[list[tuple[int, int]], Future[NDArray[np.float32]]]] = deque()
    with ThreadPoolExecutor(predictor.lanes) as lanes:
        try:
            for batch in _batches(tiles, predictor.batch):
                places = [(row, col) for row, col, _ in batch]
                waiting.append((places, lanes.submit(work, [tile for _, _, tile in batch])))
                if len(waiting) > 2 * predictor.lanes:
                    yield from _placed(*waiting.popleft())
            while waiting:
                yield from _placed(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


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


def _placed(
    places: list[tuple[int, int]], future: Future[NDArray[np.float32]]
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    for (row, col), probability in zip(places, future.result(), strict=True):
        yield row, col, probability


def _predictor(job: Job, device_index: int) -> Predictor:
    """The model, loaded once a process."""
    key = (job.model.sha256, job.device, job.precision, job.batch, job.lanes, device_index)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_predictor(job, device_index)
    return _loaded[key]


def load_predictor(job: Job, device_index: int) -> Predictor:
    """The engine of a job. Only here, in the process that predicts, torch is imported."""
    from tilesegment.model.engines.torch import TorchPredictor

    return TorchPredictor(job.model, job.device, job.precision, job.batch, job.lanes, device_index)
