"""Predicting one block: read, forward, blend, trace, save.

Nothing waits for what it does not need: one thread reads ahead, the engine predicts several batches at a
time, this thread blends their results in the order of the tiles, and another one traces the rows that are
finished. A block needs no other block and no shared state.
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
from tilesegment.model.engines import Pending, Predictor, Setup, load_engine
from tilesegment.raster.aoi import inside_aoi
from tilesegment.raster.source import Pixels, Scene, gdal_environment
from tilesegment.raster.values import blank_value
from tilesegment.run.blockfile import BlockInfo, BlockPixels, write_block
from tilesegment.run.job import BlockTask, Job, trace_block
from tilesegment.tiling.blend import NODATA, tile_weights
from tilesegment.tiling.plan import Block
from tilesegment.vector.trace import Fragments

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
            self.add(name, time.perf_counter() - begin)

    def add(self, name: str, seconds: float) -> None:
        """Add to a stage's time."""
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds


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
        pixels, counts, fragments = block_content(scene, predictor, job, block, watch, tick)
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


def block_content(
    scene: Scene,
    predictor: Predictor,
    job: Job,
    block: Block,
    watch: Stopwatch,
    tick: Callable[[], None] = lambda: None,
) -> tuple[BlockPixels, Counts, Fragments]:
    """The blended classes and probabilities of a block, and its fragments."""
    plan, window = job.plan, block.window
    counts = Counts()
    wanted = np.zeros((window.height, window.width), np.bool_)
    weights = tile_weights(plan.tile, plan.overlap, job.blend)
    blender = predictor.blender(weights, window.width, plan.rows.start(block.tile_rows[0]))
    result = _Result(window, wanted, job.model.card.channels > 1)

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

    def finish_rows(top: int) -> None:
        with watch.stage("blend"):
            begin = blender.top
            result.put(begin, *blender.advance(top))

    with ThreadPoolExecutor(1) as tracer:
        with result.closing():
            traced = tracer.submit(_trace, result, job, watch)
            current = block.tile_rows[0]
            for row, col, found in _forward(tiles(), predictor, watch):
                while current < row:
                    current += 1
                    finish_rows(plan.rows.start(current))
                with watch.stage("blend"):
                    blender.add(col, found)
                tick()
            for index in range(current + 1, block.tile_rows[-1] + 1):
                finish_rows(plan.rows.start(index))
            finish_rows(blender.top + plan.tile[0])
        with watch.stage("trace at the end"):
            fragments = traced.result()
    counts.valid = int(wanted.sum())
    return BlockPixels(result.classes, result.probability), counts, fragments


class _Result:
    """A block's arrays, filled from above by strips that may begin above it and end below it, and read by
    others as far as they are filled. wanted: what may be written, complete for a row before it is put."""

    def __init__(self, window: Window, wanted: NDArray[np.bool_], multi: bool) -> None:
        shape = (window.height, window.width)
        self.window = window
        self.classes = np.full(shape, NODATA, np.uint8) if multi else None
        self.probability = np.full(shape, NODATA, np.uint8)
        self._wanted = wanted
        self._filled = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, row: int, classes: NDArray[np.uint8], probability: NDArray[np.uint8]) -> None:
        """Take the rows of a strip that begins at `row` of the grid."""
        begin, end = max(row, self.window.row), min(row + len(classes), self.window.row_end)
        if begin >= end:
            return
        here = slice(begin - self.window.row, end - self.window.row)
        there = slice(begin - row, end - row)
        wanted = self._wanted[here]
        if ((probability[there] == NODATA) & wanted).any():
            raise BlockFailedError("a valid pixel was not predicted; please report this")
        np.copyto(self.probability[here], probability[there], where=wanted)
        if self.classes is not None:
            np.copyto(self.classes[here], classes[there], where=wanted)
        with self._changed:
            self._filled = here.stop
            self._changed.notify_all()

    def wait(self, rows: int) -> None:
        """Return when the first `rows` rows are there. Raises BlockFailedError where they never will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._filled >= rows or self._closed)
            if self._filled < rows:
                raise BlockFailedError("the block was not finished")

    @contextmanager
    def closing(self) -> Iterator[None]:
        """After the body nothing more is put: whoever waits gets an error."""
        try:
            yield
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()


def _trace(result: _Result, job: Job, watch: Stopwatch) -> Fragments:
    """Trace a block piece by piece, each as soon as its rows are there."""
    waited = Stopwatch()

    def before(piece: Window) -> None:
        with waited.stage("rows"):
            result.wait(piece.row_end - result.window.row)

    begin = time.perf_counter()
    fragments = trace_block(
        job.plan, result.window, result.classes, result.probability, job.tracing, before
    )
    watch.add("trace", time.perf_counter() - begin - waited.seconds.get("rows", 0.0))
    return fragments


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
    )
    key = job.engine.engine, job.model.sha256, setup
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_engine(job.engine.engine, job.model, setup)
    return _loaded[key]
