"""The way through a block: read, forward, blend, trace, save.

Nothing waits for what it does not need: one thread reads ahead, the engine predicts several batches at a
time, this thread blends their results in the order of the tiles, another one traces the rows that are
finished, and one compresses and saves them. Only a few rows of tiles are in memory at any time, however
high the block is. `predict_rows` owns the threads and the generators: however it ends, nobody reads from
a scene that its caller closes next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import BlockFailedError
from tilesegment.grid import Window
from tilesegment.model.engines import Pending, Predictor
from tilesegment.raster.spec import Pixels
from tilesegment.raster.values import blank_value
from tilesegment.run.block.file import BlockPixels
from tilesegment.run.block.job import Job, trace_block
from tilesegment.run.block.rowbuffer import RowBuffer
from tilesegment.run.block.stopwatch import Stopwatch
from tilesegment.run.block.tilerows import PixelSource, TileRow, cut_tile, tile_rows, wanted_part
from tilesegment.tiling.blend import NODATA, Blender, tile_weights
from tilesegment.tiling.consensus import Disagreement
from tilesegment.tiling.memory import rows_waiting
from tilesegment.tiling.plan import Block
from tilesegment.vector.trace import Fragments


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
    way = _Way(job, block, watch, tick)
    finished = RowBuffer(block.window, rows_waiting(job.plan))
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as tracer:
        with (
            finished.closing(),
            closing(tile_rows(scene, job, block, watch, reader)) as rows,
            closing(way.tiles(rows)) as tiles,
            closing(_forward(tiles, predictor, watch)) as predicted,
        ):
            tracing = tracer.submit(_trace, finished, block.window, job, watch, save)
            for row, pixels in way.blended(predicted, predictor):
                with watch.stage("save"):
                    save.rows(row, pixels)
                if job.tracing.trace:
                    with watch.stage("wait for tracing"):
                        finished.put(pixels)
        with watch.stage("trace at the end"):
            tracing.result()
    return way.counts


@dataclass(frozen=True)
class _Way:
    """What the steps of one block share. wanted: by row of tiles, what may be written of it, until its
    pixels are finished."""

    job: Job
    block: Block
    watch: Stopwatch
    tick: Callable[[], None]
    counts: Counts = field(default_factory=Counts)
    wanted: dict[int, NDArray[np.bool_] | None] = field(default_factory=dict)

    def tiles(self, rows: Iterator[TileRow]) -> Generator[tuple[int, int, Pixels]]:
        """Tiles of which something is wanted: their row of tiles, column in the block, and pixels."""
        plan, window, cols = self.job.plan, self.block.window, self.block.tile_cols
        first = plan.cols.start(cols[0])
        for row in rows:
            self.wanted[row.index] = wanted_part(row, window.col - first, window.width)
            for col in cols:
                tile = cut_tile(row, plan.cols.start(col) - first, plan.tile[1])
                if tile is None:
                    self.counts.skipped += 1
                    self.tick()
                    continue
                if self.counts.blank is None:
                    self.counts.blank = blank_value(tile.values, tile.valid)
                yield row.index, plan.cols.start(col) - window.col, tile

    def blended(
        self, predicted: Iterator[tuple[int, int, Any]], predictor: Predictor
    ) -> Generator[tuple[int, BlockPixels]]:
        """Finished rows from top to bottom, and the number in the block of the first of them."""
        plan, rows, window = self.job.plan, self.block.tile_rows, self.block.window
        weights = tile_weights(plan.tile, plan.overlap, self.job.blend)
        blender = predictor.blender(weights, window.width, plan.rows.start(rows[0]))
        compared = None
        if self.job.consensus:
            compared = Disagreement(plan.tile, self.job.model.card.channels, window.width)
        current = rows[0]
        for row, col, found in predicted:
            # Nothing touches the rows above the next row of tiles any more.
            for index in range(current, row):
                yield from self._rows(blender, compared, index, plan.rows.start(index + 1))
            current = row
            with self.watch.stage("blend"):
                blender.add(col, found)
                if compared is not None:
                    compared.add(col, found)
            self.tick()
        for index in range(current, rows[-1]):
            yield from self._rows(blender, compared, index, plan.rows.start(index + 1))
        yield from self._rows(blender, compared, rows[-1], blender.top + plan.tile[0])

    def _rows(
        self, blender: Blender, compared: Disagreement | None, index: int, end: int
    ) -> Iterator[tuple[int, BlockPixels]]:
        """The rows above `end`, whose first is that of tile row `index`, as far as they are the block's."""
        window, first = self.block.window, blender.top
        with self.watch.stage("blend"):
            spread = None if compared is None else compared.advance(end - first)
            blended = BlockPixels(*blender.advance(end), spread)
            here = range(max(first, window.row), min(end, window.row_end))
            mask = self.wanted.pop(index)
            if not len(here):
                return
            rows = slice(here.start - first, here.stop - first)
            pixels = _only_wanted(blended, rows, mask, self.job.model.card.channels > 1)
            self.counts.valid += 0 if mask is None else int(mask[rows].sum())
        yield here.start - window.row, pixels


def _only_wanted(
    blended: BlockPixels, rows: slice, wanted: NDArray[np.bool_] | None, several: bool
) -> BlockPixels:
    """Some rows of a strip, NODATA where they are not wanted. `wanted` begins with the strip's top."""
    probability = blended.probability[rows]
    if wanted is None:
        nothing = np.full_like(probability, NODATA)
        return BlockPixels(
            nothing if several else None,
            nothing,
            None if blended.contact is None else nothing,
            None if blended.spread is None else nothing,
        )
    mask = wanted[rows]
    if ((probability == NODATA) & mask).any():
        raise BlockFailedError("a valid pixel was not predicted; please report this")

    def kept(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.where(mask, array, np.uint8(NODATA))

    classes, contact, spread = blended.classes, blended.contact, blended.spread
    return BlockPixels(
        kept(classes[rows]) if several and classes is not None else None,
        kept(probability),
        None if contact is None else kept(contact[rows]),
        None if spread is None else kept(spread[rows]),
    )


def _trace(finished: RowBuffer, window: Window, job: Job, watch: Stopwatch, save: Sink) -> None:
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
) -> Generator[tuple[int, int, Any]]:
    """Quantised probabilities of the tiles, in their order, batches filled across rows."""
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
