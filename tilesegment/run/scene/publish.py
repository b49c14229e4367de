"""From the ledger to what is written: a mosaic of saved blocks, on the grid of the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilesegment.grid import Grid, Window
from tilesegment.run.block.file import BlockInfo, BlockPixels, new_block, read_bands, read_rows
from tilesegment.run.block.job import Job, TraceSettings, trace_block
from tilesegment.tiling.blend import NODATA
from tilesegment.tiling.plan import Block, Plan


@dataclass(frozen=True)
class Mosaic:
    """The saved blocks of a run, read as if they were one raster.

    path: the file of a block.
    """

    plan: Plan
    tracing: TraceSettings
    path: Callable[[Block], Path]

    def classes(self, window: Window) -> NDArray[np.uint8]:
        """Classes of a window of the working grid inside the plan's region."""
        return self._read(window)[0]

    def probability(self, window: Window) -> NDArray[np.uint8]:
        """Probabilities, 0..254, of a window of the working grid inside the plan's region."""
        return self._read(window)[1]

    def spread(self, window: Window) -> NDArray[np.uint8]:
        """How far tiles disagreed, 0..254, in a window of the working grid inside the plan's region."""
        found = np.full((window.height, window.width), NODATA, np.uint8)
        for block in self.plan.blocks:
            part = block.window.intersection(window)
            if part is None:
                continue
            inner = part.relative_to(block.window)
            rows = read_rows(self.path(block), inner.row, inner.row_end)
            if rows.spread is not None:
                found[part.relative_to(window).slices] = rows.spread[:, inner.col : inner.col_end]
        return found

    def _read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        classes = np.full((window.height, window.width), NODATA, np.uint8)
        probability = classes.copy()
        for block in self.plan.blocks:
            part = block.window.intersection(window)
            if part is None:
                continue
            inner = part.relative_to(block.window)
            rows = read_rows(self.path(block), inner.row, inner.row_end)
            cols = slice(inner.col, inner.col_end)
            found = rows.probability[:, cols]
            here = part.relative_to(window).slices
            probability[here] = found
            known = None if rows.classes is None else rows.classes[:, cols]
            classes[here] = self.tracing.classes(known, found)
        return classes, probability


def retrace(job: Job, block: Block, path: Path, info: BlockInfo) -> BlockInfo:
    """Trace a block's saved pixels again, with other vector settings; nothing is predicted."""

    def read(piece: Window) -> BlockPixels:
        inner = piece.relative_to(block.window)
        pixels = read_rows(path, inner.row, inner.row_end)
        cols = slice(inner.col, inner.col_end)
        classes = None if pixels.classes is None else pixels.classes[:, cols]
        return BlockPixels(classes, pixels.probability[:, cols])

    info = replace(info, trace_key=job.tracing.key)
    with new_block(path) as file:
        for row, pixels in read_bands(path, info.height):
            file.rows(row, pixels)
        for band, fragments in enumerate(trace_block(job.plan, block.window, read, job.tracing)):
            file.fragments(band, fragments)
        file.info(info)
    return info


def output_window(working: Grid, region: Window, native: Grid, match_input: bool) -> Window:
    """The part of the output's grid that a region of the working grid covers: pixels whose centre lies in
    it. The output's grid is the working grid, or the input's own with `match_input`."""
    if not match_input:
        return region
    row, row_end = _matched(region.row, region.row_end, working.height, native.height)
    col, col_end = _matched(region.col, region.col_end, working.width, native.width)
    return Window(row, col, row_end - row, col_end - col)


def on_output_grid(
    read: Callable[[Window], NDArray[np.uint8]],
    working: Grid,
    region: Window,
    native: Grid,
    match_input: bool,
) -> Callable[[Window], NDArray[np.uint8]]:
    """A reader in windows of the output, from one in windows of the working grid. With `match_input`
    each of the input's pixels takes the working pixel at its centre; exact for any georeference, as both
    grids share one affine frame."""
    target = output_window(working, region, native, match_input)
    if not match_input:
        return lambda w: read(Window(w.row + target.row, w.col + target.col, w.height, w.width))

    def matched(window: Window) -> NDArray[np.uint8]:
        rows = _centres(window.row + target.row, window.height, native.height, working.height)
        cols = _centres(window.col + target.col, window.width, native.width, working.width)
        source = Window(rows[0], cols[0], rows[-1] - rows[0] + 1, cols[-1] - cols[0] + 1)
        return read(source)[np.ix_(rows - rows[0], cols - cols[0])]

    return matched


def _centres(begin: int, count: int, size: int, other: int) -> NDArray[np.int64]:
    """The pixels of an axis of `other` pixels under the centres of [begin, begin + count) of `size`."""
    return ((2 * np.arange(begin, begin + count, dtype=np.int64) + 1) * other) // (2 * size)


def _matched(begin: int, end: int, size: int, other: int) -> tuple[int, int]:
    """The pixels of an axis of `other` pixels whose centres fall into [begin, end) of `size`."""
    centres = _centres(0, other, other, size)
    first, last = np.searchsorted(centres, [begin, end])
    return int(first), max(int(first) + 1, int(last))
