"""Outlines of the regions of equal label in a window, by whole-array steps that leave other threads free.

A region's outline runs along pixel edges, with the region on its right, and turns only at *corners*. These
are found by comparing the four pixels around each grid point; all else works on corners alone. Along a
grid line the corners of one side come in pairs, the two ends of a straight edge, so sorting them links
each corner to the next; following the links gives the rings.

Regions are 4-connected. At a point where a region touches itself diagonally its outline turns as tightly
as it can, so that a hole which only such a point closes becomes part of the outer ring, as in GDAL's
polygoniser (which does the same work, at a third of the speed, and holds the interpreter's lock).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.vector.rings import IntArray, Ragged

# The pixels around a grid point, by row and column from it: each may own a corner there.
_PIXELS = ((-1, -1), (-1, 0), (0, -1), (0, 0))


@dataclass(frozen=True)
class _Corners:
    """Corners of outlines, (n,) each.

    row, col: the grid point. below: 1 where the region lies below the horizontal edge that meets here,
    right: 1 where it lies to the right of the vertical one. east: 1 where that horizontal edge goes on to
    the east, south: 1 where the vertical one goes on to the south.
    """

    row: IntArray
    col: IntArray
    below: IntArray
    right: IntArray
    east: IntArray
    south: IntArray


def trace_outlines(labels: NDArray[Any], outside: int) -> tuple[Ragged, IntArray]:
    """The polygons of the 4-connected regions of equal label, in pixel coordinates (x, y) of the window,
    and the label of each. labels: (rows, columns) of whole numbers; `outside` is not traced."""
    padded = np.pad(labels, 1, constant_values=outside)
    corners, own = _find_corners(padded, outside)
    if not len(own):
        none = np.zeros(1, np.int64)
        return Ragged(np.empty((0, 2), np.int64), none, none), np.empty(0, np.int64)
    beside = _pair(corners.row, corners.below, corners.col, corners.east)
    along = _pair(corners.col, corners.right, corners.row, corners.south)
    # With the region on the right, its upper edges run east and its right edges south.
    leaves_sideways = corners.below == corners.east
    following = np.where(leaves_sideways, beside, along)
    order, rings = cycles(following)
    coords = np.column_stack([corners.col, corners.row])[order]
    closed = Ragged(*closed_rings(coords, rings), np.arange(len(rings)))
    label = own[order[rings[:-1]]]
    outer = closed.signed_areas() > 0
    owner = np.arange(len(outer))
    if not outer.all():
        ring_of = np.empty(len(order), np.int64)
        ring_of[order] = np.repeat(np.arange(len(outer)), np.diff(rings))
        owner = _owners(padded, corners, along, ring_of, closed, outer)
    # Rings by polygon, the outer one first; polygons by the first vertex of theirs.
    sequence = np.lexsort((~outer, owner))
    parts = np.flatnonzero(outer[sequence])
    return closed.with_rings(sequence, np.append(parts, len(sequence))), label[sequence[parts]]


def _find_corners(padded: NDArray[Any], outside: int) -> tuple[_Corners, IntArray]:
    """All corners, and the label of the region whose outline turns there."""
    across = padded[:, :-1] == padded[:, 1:]
    down = padded[:-1] == padded[1:]
    # A grid point is no corner where the four pixels agree along rows or along columns.
    plain = across[:-1] & across[1:]
    plain |= down[:, :-1] & down[:, 1:]
    point = np.flatnonzero(~plain)
    row, col = np.divmod(point, plain.shape[1])
    around = {(r, c): padded[row + 1 + r, col + 1 + c] for r, c in _PIXELS}
    found: list[tuple[IntArray, ...]] = []
    for r, c in _PIXELS:
        own = around[r, c]
        beside, above, opposite = around[r, -1 - c], around[-1 - r, c], around[-1 - r, -1 - c]
        traced = own != outside
        convex = traced & (own != beside) & (own != above)
        reflex = traced & (own == beside) & (own == above) & (own != opposite)
        for kind, sign in ((convex, 1), (reflex, 0)):
            here = np.flatnonzero(kind)
            lower, righter = r + 1, c + 1
            # A convex corner's edges follow its own pixel; a reflex one's follow the pixel opposite, and
            # the region lies on their other sides.
            found.append(
                (
                    row[here],
                    col[here],
                    np.full(len(here), lower),
                    np.full(len(here), righter),
                    np.full(len(here), righter if sign else 1 - righter),
                    np.full(len(here), lower if sign else 1 - lower),
                    own[here].astype(np.int64),
                )
            )
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return _Corners(*columns[:6]), columns[6]


def _pair(line: IntArray, side: IntArray, place: IntArray, onward: IntArray) -> IntArray:
    """For each corner the other end of its edge on a grid line. onward: 1 where the edge begins here and
    goes on to larger places, 0 where it ends. Edges of one side do not overlap, so that sorted by place,
    ends before beginnings, they come in pairs."""
    span = 2 * (int(place.max()) + 1)
    order = np.argsort((line * 2 + side) * span + place * 2 + onward, kind="stable")
    partner = np.empty(len(order), np.int64)
    partner[order[0::2]] = order[1::2]
    partner[order[1::2]] = order[0::2]
    return partner


def cycles(following: IntArray) -> tuple[IntArray, IntArray]:
    """The cycles of a permutation: its elements cycle by cycle, each in order from its smallest element,
    and the offsets of the cycles. By pointer jumping (Wyllie 1979): as many steps as the longest cycle's
    length has binary digits."""
    count = len(following)
    smallest = np.minimum(np.arange(count), following)
    jump = following
    while True:
        further = np.minimum(smallest, smallest[jump])
        if np.array_equal(further, smallest):
            break
        smallest, jump = further, jump[jump]
    # Steps from each element to the smallest of its cycle, where the list ends.
    ends = smallest == np.arange(count)
    ahead = np.where(ends, np.arange(count), following)
    steps = np.where(ends, 0, 1)
    while True:
        added = steps[ahead]
        if not added.any():
            break
        steps = steps + added
        ahead = ahead[ahead]
    sizes = np.bincount(smallest, minlength=count)
    heads = np.flatnonzero(ends)
    offsets = np.concatenate([[0], np.cumsum(sizes[heads])])
    begin = np.empty(count, np.int64)
    begin[heads] = offsets[:-1]
    # The smallest comes first; the one after it has the longest way to go.
    place = begin[smallest] + np.where(ends, 0, sizes[smallest] - steps)
    order = np.empty(count, np.int64)
    order[place] = np.arange(count)
    return order, offsets


def closed_rings(coords: NDArray[Any], rings: IntArray) -> tuple[NDArray[Any], IntArray]:
    """Rings with their first point again at the end."""
    count = len(rings) - 1
    return np.insert(coords, rings[1:], coords[rings[:-1]], axis=0), rings + np.arange(count + 1)


def _owners(
    padded: NDArray[Any],
    corners: _Corners,
    along: IntArray,
    ring_of: IntArray,
    closed: Ragged,
    outer: NDArray[np.bool_],
) -> IntArray:
    """For each ring the outer ring of its region.

    To the left of a hole's topmost, then leftmost point lies its region; the first edge further left in
    that row belongs to another ring of the same region, which begins higher up or further left. Following
    those leads to the outer ring.
    """
    holes = np.flatnonzero(~outer)
    width = int(closed.coords[:, 0].max()) + 1
    key = closed.coords[:, 1] * width + closed.coords[:, 0]
    row, col = np.divmod(np.minimum.reduceat(key, closed.rings[:-1])[holes], width)
    edge_col = _edge_to_the_left(padded, row, col)
    # Left edges of regions, from their upper ends, sorted by line and place.
    upper = np.flatnonzero((corners.right == 1) & (corners.south == 1))
    span = int(corners.row.max()) + 1
    keys = corners.col[upper] * span + corners.row[upper]
    order = np.argsort(keys)
    found = order[np.searchsorted(keys[order], edge_col * span + row, side="right") - 1]
    owner = np.arange(len(outer))
    owner[holes] = ring_of[upper[found]]
    while True:
        further = owner[owner]
        if np.array_equal(further, owner):
            return owner
        owner = further


def _edge_to_the_left(padded: NDArray[Any], row: IntArray, col: IntArray) -> IntArray:
    """The grid line of the last change of label to the left of pixel (row, col - 1)."""
    result = np.empty(len(row), np.int64)
    order = np.argsort(row, kind="stable")
    rows, begins = np.unique(row[order], return_index=True)
    width = padded.shape[1] - 1
    # Some rows at a time: the places of all changes in them, as one sorted list.
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        lines = padded[part + 1]
        changes = np.flatnonzero(lines[:, :-1] != lines[:, 1:])
        end = begins[start + _ROWS_AT_ONCE] if start + _ROWS_AT_ONCE < len(rows) else len(order)
        here = order[begins[start] : end]
        place = np.searchsorted(part, row[here]) * width + col[here] - 1
        result[here] = changes[np.searchsorted(changes, place, side="right") - 1] % width
    return result


_ROWS_AT_ONCE = 64
