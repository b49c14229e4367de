"""Pixels of saved blocks at single places and in small windows, many times over."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilesegment.grid import Window
from tilesegment.run.block.file import BlockPixels, band_starts, read_rows
from tilesegment.tiling.blend import NODATA
from tilesegment.tiling.memory import KEPT_BYTES
from tilesegment.tiling.plan import Block, Plan


@dataclass
class SavedPixels:
    """The saved pixels of a plan's blocks, of which some bands are kept in memory. path: a block's file.
    going_on: whether what is asked for is still wanted; raises CancelledError where it is not, which ends
    work of minutes at once."""

    plan: Plan
    path: Callable[[Block], Path]
    going_on: Callable[[], bool] = lambda: True

    def __post_init__(self) -> None:
        # Blocks form a grid, of thousands in a large scene.
        self._tops = [begin for begin, _, _ in self.plan.row_parts]
        self._lefts = [begin for begin, _, _ in self.plan.col_parts]
        self._starts: dict[int, list[int]] = {}
        self._bands: OrderedDict[tuple[int, int], BlockPixels] = OrderedDict()
        self._turn = threading.Lock()

    def __call__(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Probabilities of pixels of the working grid, (n,); NODATA outside of the blocks."""
        result = np.full(len(rows), NODATA, np.uint8)
        region = self.plan.region
        inside = (rows >= region.row) & (rows < region.row_end)
        inside &= (cols >= region.col) & (cols < region.col_end)
        top = np.searchsorted(self._tops, rows, side="right") - 1
        left = np.searchsorted(self._lefts, cols, side="right") - 1
        number = np.where(inside, top * len(self._lefts) + left, -1)
        for block in (self.plan.blocks[k] for k in np.unique(number[inside]).tolist()):
            index = np.flatnonzero(number == block.index)
            window = block.window
            starts = np.array(self._rows_of(block))
            band = np.searchsorted(starts, rows[index] - window.row, side="right") - 1
            order = np.argsort(band, kind="stable")
            for part in np.split(index[order], np.flatnonzero(np.diff(band[order])) + 1):
                band_number = int(np.searchsorted(starts, rows[part[0]] - window.row, side="right")) - 1
                found = self._band(block, band_number).probability
                result[part] = found[rows[part] - window.row - starts[band_number], cols[part] - window.col]
        return result

    def _touching(self, wanted: Window) -> Iterator[Block]:
        """The blocks that a window has a part of."""
        for row in _between(self._tops, wanted.row, wanted.row_end):
            for col in _between(self._lefts, wanted.col, wanted.col_end):
                yield self.plan.blocks[row * len(self._lefts) + col]

    def window(self, wanted: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Probability and contact of a window of the working grid; NODATA outside of the blocks."""
        found = np.full((2, wanted.height, wanted.width), NODATA, np.uint8)
        for block in self._touching(wanted):
            part = block.window.intersection(wanted)
            if part is None:
                continue
            inner = part.relative_to(block.window)
            for number, (first, end) in enumerate(pairwise(self._rows_of(block))):
                low, high = max(inner.row, first), min(inner.row_end, end)
                if low >= high:
                    continue
                band = self._band(block, number)
                row = low + block.window.row - wanted.row
                col = part.col - wanted.col
                place = slice(row, row + high - low), slice(col, col + part.width)
                here = slice(low - first, high - first), slice(inner.col, inner.col_end)
                found[0][place] = band.probability[here]
                if band.contact is not None:
                    found[1][place] = band.contact[here]
        return found[0], found[1]

    def _rows_of(self, block: Block) -> list[int]:
        """The first rows of a block's bands, and its height."""
        if block.index not in self._starts:
            self._starts[block.index] = [*band_starts(self.path(block)), block.window.height]
        return self._starts[block.index]

    def _band(self, block: Block, number: int) -> BlockPixels:
        key = block.index, number
        if not self.going_on():
            raise CancelledError
        with self._turn:
            if key not in self._bands:
                first, last = self._rows_of(block)[number : number + 2]
                self._bands[key] = read_rows(self.path(block), first, last)
                while len(self._bands) > 1 and sum(map(_bytes, self._bands.values())) > KEPT_BYTES:
                    self._bands.popitem(last=False)
            self._bands.move_to_end(key)
            return self._bands[key]


def _between(starts: list[int], begin: int, end: int) -> range:
    """The numbers of stretches, from each start to the next, that [begin, end) meets."""
    return range(max(0, bisect_right(starts, begin) - 1), bisect_left(starts, end))


def _bytes(pixels: BlockPixels) -> int:
    return sum(array.nbytes for array in vars(pixels).values() if array is not None)
