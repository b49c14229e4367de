"""Comparing two class masks of a whole scene, window by window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilesegment.evaluate.boundary import boundary_counts
from tilesegment.evaluate.confidence import squared_differences
from tilesegment.evaluate.pixels import Confusion
from tilesegment.grid import Grid, Window
from tilesegment.raster.aoi import inside_aoi
from tilesegment.raster.labels import UNKNOWN, Labels
from tilesegment.tiling.blend import PROBABILITY_MAX

# Cells that the intervals are drawn from: at least 256 pixels wide, and this many at most.
_CELL = 256
_MOST_CELLS = 4096
_MANY_CLASSES = 8
_WINDOW = 1024

Ints = NDArray[np.int64]


@dataclass
class MaskCounts:
    """What was counted. matrix: (cells, classes, classes) pixels by truth and prediction; boundary: (cells,
    distances, classes, 2) pixels of boundary regions, intersection and union; probability: (2, 255) pixels
    by truth and by probability of class 1 in steps of 1/254."""

    matrix: Ints
    boundary: Ints
    probability: Ints

    @property
    def confusion(self) -> Confusion:
        """Of the whole scene."""
        summed = self.matrix.sum(axis=0)
        return Confusion(len(summed), squared_differences(self.probability), summed)

    @property
    def known(self) -> Ints:
        """Indices of the cells in which anything was counted."""
        return np.flatnonzero(self.matrix.sum(axis=(1, 2)))


@dataclass(frozen=True)
class MaskTask:
    """What is compared. truth, found: of the same grid; classes: how many, the first is the background;
    reaches: (rows, columns) of each boundary distance; probability: of class 1 on the grid in steps of
    1/254 (UNKNOWN for none), or None; aoi: WKB in pixel coordinates, or None."""

    truth: Labels
    found: Labels
    grid: Grid
    classes: int
    reaches: Sequence[tuple[int, int]] = ()
    probability: Labels | None = None
    aoi: bytes | None = None


def reach_of(metres: float, grid: Grid) -> tuple[int, int]:
    """A distance as whole pixels of (rows, columns), at least one; without a CRS the unit is the pixel."""
    along_row, along_col = grid.metres_per_pixel or (1.0, 1.0)
    return max(1, round(metres / along_row)), max(1, round(metres / along_col))


def compare_masks(
    task: MaskTask, progress: Callable[[int, int], None] = lambda done, total: None
) -> MaskCounts:
    """Compare all pixels that both sides know. Memory holds a window, and some thousand cells' counts."""
    grid, classes = task.grid, task.classes
    cell = cell_size(grid, classes)
    across = math.ceil(grid.width / cell)
    cells = across * math.ceil(grid.height / cell)
    counts = MaskCounts(
        np.zeros((cells, classes, classes), np.int64),
        np.zeros((cells, len(task.reaches), classes, 2), np.int64),
        np.zeros((2, PROBABILITY_MAX + 1), np.int64),
    )
    windows = list(_windows(grid, cell))
    for done, window in enumerate(windows, 1):
        _compare(task, window, cell, across, counts)
        progress(done, len(windows))
    return counts


def cell_size(grid: Grid, classes: int) -> int:
    """Pixels of a side of a cell."""
    most = _MOST_CELLS if classes <= _MANY_CLASSES else _MOST_CELLS // _MANY_CLASSES
    cell = _CELL
    while math.ceil(grid.height / cell) * math.ceil(grid.width / cell) > most:
        cell *= 2
    return cell


def _windows(grid: Grid, cell: int) -> Iterator[Window]:
    size = max(cell, _WINDOW)
    for row in range(0, grid.height, size):
        for col in range(0, grid.width, size):
            yield Window(row, col, min(size, grid.height - row), min(size, grid.width - col))


def _compare(task: MaskTask, window: Window, cell: int, across: int, counts: MaskCounts) -> None:
    # What lies around the window decides how far its pixels are from an outline.
    down = max((rows for rows, _ in task.reaches), default=0)
    side = max((cols for _, cols in task.reaches), default=0)
    wide = Window(window.row - down, window.col - side, window.height + 2 * down, window.width + 2 * side)
    truth, found = task.truth.read(wide), task.found.read(wide)
    inner = slice(down, down + window.height), slice(side, side + window.width)
    known = (truth[inner] != UNKNOWN) & (found[inner] != UNKNOWN)
    if task.aoi is not None:
        known &= inside_aoi(task.aoi, window)
    if not known.any():
        return
    if task.probability is not None:
        said = task.probability.read(window)
        seen = known & (said <= PROBABILITY_MAX)
        flat = (truth[inner][seen] == 1).astype(np.int64) * (PROBABILITY_MAX + 1) + said[seen]
        counts.probability += np.bincount(flat, minlength=counts.probability.size).reshape(2, -1)
    for number, part in _cells_of(window, cell, across):
        rows, cols = part.relative_to(window).slices
        here = known[rows, cols]
        if not here.any():
            continue
        shifted = slice(rows.start, rows.stop + 2 * down), slice(cols.start, cols.stop + 2 * side)
        _count(task, truth[shifted], found[shifted], here, (down, side), counts, number)


def _cells_of(window: Window, cell: int, across: int) -> Iterator[tuple[int, Window]]:
    for row in range(window.row // cell * cell, window.row_end, cell):
        for col in range(window.col // cell * cell, window.col_end, cell):
            part = Window(row, col, cell, cell).intersection(window)
            if part is not None:
                yield row // cell * across + col // cell, part


def _count(
    task: MaskTask,
    truth: NDArray[np.uint8],
    found: NDArray[np.uint8],
    known: NDArray[np.bool_],
    rim: tuple[int, int],
    counts: MaskCounts,
    number: int,
) -> None:
    """Count one cell; truth and found reach `rim` (rows, columns) beyond it on all sides."""
    down, side = rim
    inner = slice(down, down + known.shape[0]), slice(side, side + known.shape[1])
    one, other = truth[inner][known].astype(np.int64), found[inner][known]
    size = task.classes
    counts.matrix[number] += np.bincount(one * size + other, minlength=size * size).reshape(size, size)
    for k, reach in enumerate(task.reaches):
        framed = np.zeros(truth.shape, np.bool_)
        framed[inner] = known
        counts.boundary[number, k] += boundary_counts(truth, found, framed, size, reach)
