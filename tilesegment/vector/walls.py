"""Walls: straight pieces fitted to noisy outlines, of very many outlines at once.

An outline comes as a chain of points, dense and in order, in metres and in the axes of its building: a
ring, or a piece between two places that are given. Douglas and Peucker's (1973) points of greatest distance
cut it into runs; a run is parallel to an axis, or free where it is long and clearly neither; what is
shorter than a wall can be is absorbed; each run becomes a line through the mean of its points without those
near its ends, which corners round off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.rings import IntArray, offsets_of

FloatArray = NDArray[np.float64]

# A run is free where it is off its axis by more than this, or by more than its noise can turn it.
_FREE_ANGLE = np.radians(15.0)
# Shares of a run's points, from either end, that are left out of its line.
_TRIM = 0.15
# Free runs that turn by less are one.
_BEND = np.radians(20.0)
# Angles of one axis.
_SAME = 1e-9
_FREE = -1


@dataclass(frozen=True)
class Fit:
    """How walls are fitted, by chain. tolerance: metres that an outline may leave a straight line;
    shortest: metres of a wall; axes: directions in half a turn, 2 for right angles, 4 with diagonals."""

    tolerance: FloatArray
    shortest: FloatArray
    axes: int = 2


@dataclass(frozen=True)
class Walls:
    """Runs of chains. begins: (c + 1,) offsets of each one's; normal: (r, 2) and distance: (r,) of the
    line normal . p = distance, the same for all of one axis; points: (r,) how many it was fitted to; start,
    end: (r, 2) points where the run begins and ends on the outline."""

    begins: IntArray
    normal: FloatArray
    distance: FloatArray
    points: FloatArray
    start: FloatArray
    end: FloatArray


@dataclass(frozen=True)
class Chains:
    """points: (n, 2) in metres, those of rings without the first one again at the end; begins: (c + 1,)
    offsets of the chains; closed: (c,) which are rings; axis: (n,) the direction of the building that each
    point is of, where that is not zero for all."""

    points: FloatArray
    begins: IntArray
    closed: NDArray[np.bool_]
    axis: FloatArray | None = None

    @classmethod
    def of_rings(cls, points: FloatArray, begins: IntArray) -> Chains:
        """All of them rings."""
        return cls(points, begins, np.ones(len(begins) - 1, np.bool_))


def fit_walls(chains: Chains, fit: Fit) -> Walls:
    """The walls of chains."""
    runs = _cut(chains, fit)
    while True:
        short = _shortest_ones(runs, fit)
        if not short.any():
            break
        runs = _merged(_only(runs, ~short))
    return _lines(runs, len(chains.closed))


@dataclass(frozen=True)
class _Runs:
    """chain, kind: (r,); closed: (r,) whether it is a ring; sums: (r, 6) of the line's points: count, x, y,
    xx, xy, yy; start, end: (r, 2); angle: (r,) of the axis, or of a free run."""

    chain: IntArray
    closed: NDArray[np.bool_]
    kind: IntArray
    sums: FloatArray
    start: FloatArray
    end: FloatArray
    angle: FloatArray

    @property
    def length(self) -> FloatArray:
        """Along the axis, signed."""
        step = self.end - self.start
        return np.asarray(step[:, 0] * np.cos(self.angle) + step[:, 1] * np.sin(self.angle))


def _only(runs: _Runs, kept: NDArray[np.bool_]) -> _Runs:
    return _Runs(**{name: value[kept] for name, value in vars(runs).items()})


def _cut(chains: Chains, fit: Fit) -> _Runs:
    """First runs, neighbours of one axis united."""
    begins, closed = chains.begins, chains.closed
    # Rings end where they began.
    first_again = begins[:-1][closed]
    coords = np.insert(chains.points, begins[1:][closed], chains.points[first_again], axis=0)
    chain = np.repeat(np.arange(len(closed)), np.diff(begins) + closed)
    # The third coordinate keeps each point's number.
    numbered = np.empty((len(coords), 3))
    numbered[:, :2], numbered[:, 2] = coords, np.arange(len(coords))
    lines = shapely.simplify(
        shapely.linestrings(numbered, indices=chain), fit.tolerance, preserve_topology=False
    )
    kept, owner = shapely.get_coordinates(lines, include_z=True, return_index=True)
    at = kept[:, 2].astype(np.int64)
    within = owner[1:] == owner[:-1]
    first, last, owner = at[:-1][within], at[1:][within], owner[1:][within]
    step = coords[last] - coords[first]
    length = np.hypot(step[:, 0], step[:, 1])
    angle = np.arctan2(step[:, 1], step[:, 0])
    unit = np.pi / fit.axes
    axis = np.zeros(len(first))
    if chains.axis is not None:
        of_point = np.insert(chains.axis, begins[1:][closed], chains.axis[first_again])
        axis += of_point[(first + last) // 2]
    kind: IntArray = np.rint((angle - axis) / unit).astype(np.int64)
    off = np.abs(angle - axis - kind * unit)
    # A run between two points that noise may each have moved by the tolerance.
    noise = np.arcsin(np.minimum(1.0, 2 * fit.tolerance[owner] / np.maximum(length, 1e-9)))
    free = (off > np.maximum(_FREE_ANGLE, noise)) & (length > 2 * fit.shortest[owner])
    kind = kind % fit.axes
    trimmed = (_TRIM * (last - first)).astype(np.int64)
    low, high = first + trimmed, last - trimmed + 1
    sums = np.zeros((len(first), 6))
    sums[:, 0] = high - low
    x, y = np.ascontiguousarray(coords.T)
    # Squares are for the directions of free runs alone.
    columns = [x, y, x * x, x * y, y * y] if free.any() else [x, y]
    between = np.column_stack([low, high]).ravel()
    for number, values in enumerate(columns, start=1):
        # Each run by itself, and not as a difference of running sums: to the last bit the same, whatever
        # other rings there are.
        sums[:, number] = np.add.reduceat(np.append(values, 0.0), between)[::2]
    runs = _Runs(
        owner,
        closed[owner],
        np.where(free, _FREE, kind),
        sums,
        coords[first],
        coords[last],
        np.where(free, angle, axis + kind * unit),
    )
    return _merged(runs)


def _neighbours(runs: _Runs) -> tuple[IntArray, IntArray]:
    """The run before and after each in its chain; its own number where there is none."""
    count = len(runs.chain)
    begin = np.flatnonzero(np.diff(runs.chain, prepend=-1))
    end = np.append(begin[1:], count) - 1
    before, after = np.arange(count) - 1, np.arange(count) + 1
    before[begin] = np.where(runs.closed[begin], end, begin)
    after[end] = np.where(runs.closed[begin], begin, end)
    return before, after


def _shortest_ones(runs: _Runs, fit: Fit) -> NDArray[np.bool_]:
    """Runs too short for a wall, none of them neighbours: the shorter one goes first. A last one stays."""
    length = np.abs(runs.length)
    before, after = _neighbours(runs)
    rank = np.empty(len(length), np.int64)
    rank[np.argsort(length, kind="stable")] = np.arange(len(length))
    own = np.arange(len(length))
    first = ((rank < rank[before]) | (before == own)) & ((rank < rank[after]) | (after == own))
    first &= (before != own) | (after != own)
    return np.asarray(first & (length < fit.shortest[runs.chain]))


def _merged(runs: _Runs) -> _Runs:
    """Neighbours of one axis as one run, and free ones that hardly turn."""
    count = len(runs.chain)
    before, _ = _neighbours(runs)
    turn = np.abs((runs.angle - runs.angle[before] + np.pi) % (2 * np.pi) - np.pi)
    like = (runs.kind == runs.kind[before]) & (turn < np.where(runs.kind == _FREE, _BEND, _SAME))
    like &= before != np.arange(count)
    begin = np.flatnonzero(np.diff(runs.chain, prepend=-1))
    # A ring of one kind all around is cut somewhere.
    joined = like.copy()
    joined[begin] = False
    group = np.cumsum(~joined) - 1
    first, last = np.flatnonzero(~joined), np.append(np.flatnonzero(~joined)[1:], count) - 1
    around = np.flatnonzero(like[begin])
    head, tail = group[begin[around]], group[np.append(begin[1:], count)[around] - 1]
    head, tail = head[head != tail], tail[head != tail]
    sums = np.add.reduceat(runs.sums, first, axis=0)
    start, end, kind = runs.start[first], runs.end[last], runs.kind[first]
    sums[head] += sums[tail]
    start[head] = start[tail]
    step = end - start
    angle = np.where(kind == _FREE, np.arctan2(step[:, 1], step[:, 0]), runs.angle[first])
    kept = np.ones(len(first), np.bool_)
    kept[tail] = False
    return _only(_Runs(runs.chain[first], runs.closed[first], kind, sums, start, end, angle), kept)


def _lines(runs: _Runs, chains: int) -> Walls:
    count, x, y, xx, xy, yy = runs.sums.T
    mean = np.column_stack([x, y]) / count[:, None]
    # Total least squares: the direction of the largest variance.
    fitted = 0.5 * np.arctan2(2 * (xy / count - mean[:, 0] * mean[:, 1]),
                              (xx / count - mean[:, 0] ** 2) - (yy / count - mean[:, 1] ** 2))  # fmt: skip
    angle = np.where((runs.kind == _FREE) & (count > 2), fitted, runs.angle)
    normal = np.column_stack([-np.sin(angle), np.cos(angle)])
    return Walls(
        offsets_of(np.bincount(runs.chain, minlength=chains)),
        normal,
        (normal * mean).sum(axis=1),
        count,
        runs.start,
        runs.end,
    )


def crossings(walls: Walls, one: IntArray, other: IntArray) -> FloatArray:
    """Where pairs of lines cross, (n, 2); where they hardly turn, the middle between the end of the one and
    the start of the other, brought onto both by halves."""
    a, b = walls.normal[one], walls.normal[other]
    determinant = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    middle = (walls.end[one] + walls.start[other]) / 2
    steep = np.abs(determinant) > np.sin(_BEND / 2)
    safe = np.where(steep, determinant, 1.0)
    d, e = walls.distance[one], walls.distance[other]
    point = np.column_stack([(d * b[:, 1] - e * a[:, 1]) / safe, (a[:, 0] * e - b[:, 0] * d) / safe])
    nearer = middle - ((a * (middle * a).sum(axis=1, keepdims=True) - a * d[:, None])
                       + (b * (middle * b).sum(axis=1, keepdims=True) - b * e[:, None])) / 2  # fmt: skip
    return np.where(steep[:, None], point, nearer)
