"""The gate: what a regular outline must pass, or it stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.rings import Geometries, IntArray

FloatArray = NDArray[np.float64]

# Metres of deviation from the outline, a metre of tolerance.
DEVIATION = 6.0
# Intersection over union, ratio of areas.
_LEAST_IOU = 0.75
_AREA_RATIO = 0.9
# Vertices of an outline times edges of another.
_MANY_PAIRS = 400_000


class State(IntEnum):
    """What became of a polygon."""

    YES = 0
    INVALID = 1
    FAR = 2
    AREA = 3
    OVERLAP = 4
    SHARED = 5


REASONS = {
    State.YES: "yes",
    State.INVALID: "no: walls would cross",
    State.FAR: "no: too far from the outline",
    State.AREA: "no: too large or too small",
    State.OVERLAP: "no: too near its neighbour",
    State.SHARED: "no: does not fit those that it shares walls with",
}


def gate(
    fitted: Geometries, traced: Geometries, simple: Geometries, tolerance: FloatArray
) -> tuple[NDArray[np.uint8], FloatArray]:
    """The `State` of each polygon and its distance from the traced outline, in metres."""
    deviation = np.zeros(len(fitted))

    def far(index: IntArray) -> NDArray[np.bool_]:
        most = DEVIATION * tolerance[index]
        # No two outlines are nearer to each other than the boxes around them.
        apart = np.abs(shapely.bounds(fitted[index]) - shapely.bounds(traced[index])).max(axis=1, initial=0)
        near = np.flatnonzero(apart <= most)
        deviation[index[near]] = hausdorff_distance(fitted[index[near]], traced[index[near]])
        return np.asarray((apart > most) | (deviation[index] > most))

    return states(fitted, simple, far), deviation


def states(
    fitted: Geometries, simple: Geometries, far: Callable[[IntArray], NDArray[np.bool_]]
) -> NDArray[np.uint8]:
    """The `State` of each polygon. simple: simplified outlines, which areas are held against: they have a
    tenth of the corners; far: which of some, by number, are too far from their traced outline."""
    state = np.zeros(len(fitted), np.uint8)
    state[~shapely.is_valid(fitted)] = State.INVALID
    left = np.flatnonzero(state == State.YES)
    areas, was = shapely.area(fitted), shapely.area(simple)
    ratio = areas[left] / was[left]
    state[left[(ratio < _AREA_RATIO) | (ratio > 1 / _AREA_RATIO)]] = State.AREA
    left = np.flatnonzero(state == State.YES)
    state[left[far(left)]] = State.FAR
    left = np.flatnonzero(state == State.YES)
    common = shapely.area(shapely.intersection(fitted[left], simple[left]))
    iou = common / (areas[left] + was[left] - common)
    state[left[iou < _LEAST_IOU]] = State.FAR
    return state


def hausdorff_distance(one: Geometries, other: Geometries) -> FloatArray:
    """The largest distance of a vertex of either polygon from the outline of the other, (n,).

    GEOS looks at all pairs of vertices and edges; where these are very many, a tree of edges finds the
    nearest.
    """
    count, against = shapely.get_num_coordinates(one), shapely.get_num_coordinates(other)
    large = count.astype(np.int64) * against > _MANY_PAIRS
    result = np.zeros(len(one))
    result[~large] = shapely.hausdorff_distance(one[~large], other[~large])
    for k in np.flatnonzero(large).tolist():
        result[k] = max(_furthest(one[k], other[k]), _furthest(other[k], one[k]))
    return result


def _furthest(one: Any, other: Any) -> float:
    """The largest distance of a vertex of the one from the outline of the other."""
    coords, ring = shapely.get_coordinates(shapely.get_rings(other), return_index=True)
    same = ring[1:] == ring[:-1]
    edges = shapely.linestrings(np.stack([coords[:-1], coords[1:]], axis=1)[same])
    points = shapely.points(shapely.get_coordinates(one))
    _, away = shapely.STRtree(edges).query_nearest(points, return_distance=True, all_matches=False)
    return float(away.max())
