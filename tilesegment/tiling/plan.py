"""The plan: which blocks are written, which tiles each one needs. Pure integers, frozen, printable.

Tiles lie on one *global lattice* of the scene's working grid, one every `tile - overlap` pixels, the
last one moved back inside the scene so that its context is ground and not padding. Blocks are groups of
lattice cells; they partition the region that is asked for, and each predicts every tile that touches it.
A pixel's value depends on the lattice alone, so neither the blocks nor the region can change it.

A block edge that follows the start of a lattice cell is crossed by just one row (or column) of tiles;
those are the tiles predicted twice, and why few wide blocks are better than many small ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

from tilesegment.errors import SettingsError
from tilesegment.grid import Window

# More overlap costs over sixteen predictions a pixel, and the blender's integers are sized for it.
MOST_OVERLAP = 0.75


# Networks halve their input five times at most, so that tiles of other sizes are padded to these.
WHOLE = 32


def fitting_tile(
    tile: tuple[int, int], height: int, width: int, overlap: int
) -> tuple[tuple[int, int], int]:
    """A model's tile (rows, columns) and overlap for a scene of height x width pixels: no larger than the
    scene, to the next multiple of 32. What lies beyond a scene is nothing that a network knows, and one
    that pools over its tile answers for all of it: on 16 chips of 256 pixels, a model that was trained at
    256 had an IoU of .55 with tiles of 512, and of .69 with these."""
    fitted = tuple(
        min(side, -(-size // WHOLE) * WHOLE) for side, size in zip(tile, (height, width), strict=True)
    )
    return (fitted[0], fitted[1]), min(overlap, int(min(fitted) * MOST_OVERLAP))


@dataclass(frozen=True)
class Axis:
    """The lattice along one axis: `size` pixels covered by tiles of `tile` pixels every `step`."""

    size: int
    tile: int
    step: int

    @cached_property
    def count(self) -> int:
        """Number of tiles."""
        return 1 + max(0, math.ceil((self.size - self.tile) / self.step))

    def start(self, index: int) -> int:
        """First pixel of a tile; the last tile ends at the scene's edge, unless the scene is smaller."""
        return max(0, min(index * self.step, self.size - self.tile))

    def cell_start(self, index: int) -> int:
        """First pixel of a lattice cell; `cell_start(count)` is the end of the scene."""
        return self.size if index >= self.count else index * self.step

    def touching(self, begin: int, end: int) -> range:
        """Indices of the tiles that share a pixel with [begin, end)."""
        first = max(0, (begin - self.tile) // self.step + 1)
        while self.start(first) + self.tile <= begin:
            first += 1
        last = first
        while last + 1 < self.count and self.start(last + 1) < end:
            last += 1
        return range(first, last + 1)

    def cells(self, begin: int, end: int) -> range:
        """Indices of the cells that share a pixel with [begin, end)."""
        last_cell = self.count - 1
        return range(min(begin // self.step, last_cell), min((end - 1) // self.step, last_cell) + 1)

    def cuts(self, begin: int, end: int, parts: int) -> list[int]:
        """`parts + 1` positions that divide [begin, end) at cell starts into nearly equal parts."""
        cells = self.cells(begin, end)
        parts = min(parts, len(cells))
        inner = [self.cell_start(cells.start + len(cells) * k // parts) for k in range(1, parts)]
        return [begin, *inner, end]


@dataclass(frozen=True)
class Block:
    """One unit of work and of resumption: an output window and the tiles that touch it."""

    index: int
    window: Window
    tile_rows: range
    tile_cols: range

    @property
    def tiles(self) -> int:
        """Number of tiles to predict."""
        return len(self.tile_rows) * len(self.tile_cols)

    @property
    def name(self) -> str:
        """A file name that says where the block lies."""
        return window_name(self.window)


def window_name(window: Window) -> str:
    """A file name that says where a window lies."""
    return f"r{window.row:07d}-c{window.col:07d}-{window.height}x{window.width}"


@dataclass(frozen=True)
class Plan:
    """The lattice and the blocks of one run.

    height, width: the working grid, in pixels. region: the part of it that is written.
    tile: (rows, columns) of a window, overlap: pixels shared by neighbouring windows.
    block_rows, block_cols: into how many rows and columns of blocks the region is cut, at most.
    """

    height: int
    width: int
    region: Window
    tile: tuple[int, int]
    overlap: int
    block_rows: int = 1
    block_cols: int = 1

    def __getstate__(self) -> dict[str, Any]:
        # Every task carries its plan to a worker, and not the thousands of blocks that were counted off.
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __post_init__(self) -> None:
        smallest = min(self.tile)
        if smallest < 1:
            raise SettingsError(f"a tile of {self.tile[0]}x{self.tile[1]} pixels is not possible")
        if not 0 <= self.overlap <= smallest * MOST_OVERLAP:
            most = int(smallest * MOST_OVERLAP)
            raise SettingsError(
                f"overlap {self.overlap} does not fit tiles of {smallest} pixels; use 0 to {most}"
            )

    @cached_property
    def rows(self) -> Axis:
        """The lattice from top to bottom."""
        return Axis(self.height, self.tile[0], self.tile[0] - self.overlap)

    @cached_property
    def cols(self) -> Axis:
        """The lattice from left to right."""
        return Axis(self.width, self.tile[1], self.tile[1] - self.overlap)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks in row-major order; their windows partition the region."""
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        for row_index, (row, row_end, tile_rows) in enumerate(self.row_parts):
            for col_index, (col, col_end, tile_cols) in enumerate(self.col_parts):
                index = row_index * len(self.col_parts) + col_index
                window = Window(row, col, row_end - row, col_end - col)
                yield Block(index, window, tile_rows, tile_cols)

    @cached_property
    def row_parts(self) -> list[tuple[int, int, range]]:
        """First row, row behind the last one and rows of tiles of each row of blocks."""
        return _parts(self.rows, self.region.row, self.region.row_end, self.block_rows)

    @cached_property
    def col_parts(self) -> list[tuple[int, int, range]]:
        """First column, column behind the last one and columns of tiles of each column of blocks."""
        return _parts(self.cols, self.region.col, self.region.col_end, self.block_cols)

    def tile_window(self, row: int, col: int) -> Window:
        """The window of a tile; it exceeds the scene only where the scene is smaller than a tile."""
        return Window(self.rows.start(row), self.cols.start(col), *self.tile)

    @cached_property
    def distinct_tiles(self) -> int:
        """Tiles that touch the region, each counted once."""
        r = self.region
        return len(self.rows.touching(r.row, r.row_end)) * len(self.cols.touching(r.col, r.col_end))

    @cached_property
    def predicted_tiles(self) -> int:
        """Tiles predicted by all blocks, those at block edges counted each time."""
        # Every row of blocks has the same columns, so the sum over all blocks is a product.
        rows = sum(len(tiles) for _, _, tiles in self.row_parts)
        return rows * sum(len(tiles) for _, _, tiles in self.col_parts)

    @property
    def recompute(self) -> float:
        """Tiles predicted / distinct tiles: 1.0 is no work done twice."""
        return self.predicted_tiles / self.distinct_tiles


def _parts(axis: Axis, begin: int, end: int, parts: int) -> list[tuple[int, int, range]]:
    cuts = axis.cuts(begin, end, parts)
    return [(first, last, axis.touching(first, last)) for first, last in pairwise(cuts)]
