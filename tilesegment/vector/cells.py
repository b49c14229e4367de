"""Parts of a region that is too large to be looked at whole.

It is looked at cell by cell, of a lattice that lies fast in the grid, each cell with a rim of what lies
around it: memory is that of one cell, and neither blocks nor budgets have an influence. What a cell sees as
one part across its right or lower edge is one, wherever the cell behind that edge agrees for the most part.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tilesegment.grid import Window
from tilesegment.vector.rings import IntArray, smallest_of
from tilesegment.vector.seams import Features, join
from tilesegment.vector.trace import Fragments, trace

# Pixels of a cell's side, and of its rim: further than a building reaches.
CELL, RIM = 1536, 256

# Of a window: the part of each pixel, from 1, 0 outside of all; and probabilities, 0..254.
Look = Callable[[Window], NDArray[np.int32]]
Read = Callable[[Window], NDArray[np.uint8]]


def parts_by_cells(window: Window, look: Look, read: Read, grid_width: int) -> Features:
    """The parts of all that lies in a window, each a 4-connected region, in the order of their first
    pixel. Labels of all cells are kept, packed: a cell is traced when it is known which of its parts
    are one elsewhere."""
    rows: dict[int, list[tuple[Window, bytes]]] = {}
    pairs = [np.empty((0, 2), np.int64)]
    # The last row, by cell: numbers of the parts that go on below its lower edge.
    above: dict[int, IntArray] = {}
    count = 0
    for row in range(window.row // CELL * CELL, window.row_end, CELL):
        before: IntArray | None = None
        for col in range(window.col // CELL * CELL, window.col_end, CELL):
            cell = _within(Window(row, col, CELL, CELL), window)
            around = _within(Window(row - RIM, col - RIM, CELL + 2 * RIM, CELL + 2 * RIM), window)
            found = look(around)
            labels = np.where(found > 0, found.astype(np.int64) + count, 0)
            count += int(found.max())
            place = cell.relative_to(around)
            own = labels[place.slices]
            if before is not None:
                pairs.append(_matches(before, own[:, 0]))
            if col in above:
                pairs.append(_matches(above[col], own[0]))
            before = _going_on(labels[place.row : place.row_end], place.col_end)
            above[col] = _going_on(labels[:, place.col : place.col_end].T, place.row_end)
            rows.setdefault(cell.row_end, []).append((cell, zlib.compress(own.tobytes(), 1)))
    part = smallest_of(count + 1, np.concatenate(pairs))
    traced: dict[tuple[int, int], Fragments] = {}
    for end, row_of_cells in rows.items():
        for k, (cell, packed) in enumerate(row_of_cells):
            own = part[np.frombuffer(zlib.decompress(packed), np.int64).reshape(cell.height, cell.width)]
            traced[end, k] = trace(own, read(cell), cell, grid_width, 0)
    groups = [([(end, k) for k in range(len(row))], end * grid_width) for end, row in rows.items()]
    return Features.concatenate(list(join(traced.__getitem__, groups)))


def _within(one: Window, window: Window) -> Window:
    """What two windows that overlap have in common."""
    common = one.intersection(window)
    if common is None:
        raise ValueError(f"{one} lies outside of {window}")
    return common


def _going_on(labels: IntArray, edge: int) -> IntArray:
    """For each row of labels the part that lies on both sides of a column's left edge, 0 for none."""
    if edge >= labels.shape[1]:
        return np.zeros(len(labels), np.int64)
    return np.where(labels[:, edge - 1] == labels[:, edge], labels[:, edge], 0)


def _matches(before: IntArray, after: IntArray) -> IntArray:
    """Pairs of parts on the two sides of an edge that are one, (n, 2). before: what goes on over the edge,
    as seen from the one side; after: the parts behind it, as seen from the other: each is of that which has
    more than half of its pixels there."""
    both = (before > 0) & (after > 0)
    pairs, counts = np.unique(np.column_stack([before[both], after[both]]), axis=0, return_counts=True)
    _, number = np.unique(pairs[:, 1], return_inverse=True)
    total = np.bincount(number, counts, minlength=1)
    return np.asarray(pairs[2 * counts > total[number]])
