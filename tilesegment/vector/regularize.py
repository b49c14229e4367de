"""Regularising: outlines as a surveyor draws them, with straight walls and right angles.

Every polygon is traced anew between its pixels, where the probability crosses the threshold; its main
direction is that of most of its outline; walls are fitted to that (see `walls`), and where they cross are
the corners. What comes out must pass a gate: close to what was traced in every way, or it stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.outlines import closed_rings
from tilesegment.vector.rings import Geometries, IntArray, Ragged, offsets_of
from tilesegment.vector.walls import Fit, FloatArray, crossings, fit_walls

# Pixels that an edge moves at most: to just short of the centres of the pixels beside it.
_MOST_SHIFT = 0.48
# Pixel edges of a chord that gives a direction: shorter ones are those of stairs.
_CHORD = 4
# What a tolerance means for other lengths: a wall and a deviation (metres a metre).
_SHORTEST = 5.0
_DEVIATION = 6.0
# What does not pass is tried again with shorter lengths.
_SCALES = (1.0, 0.5)
# Small roofs have small walls: shares of the square root of the area.
_SMALL_TOLERANCE = 0.15
_SMALL_WALL = 0.35
# The tolerance is at least so many pixels.
_PIXELS = 1.5
# Gate: intersection over union, ratio of areas.
_LEAST_IOU = 0.75
_AREA_RATIO = 0.9
# A circle's 4 pi area / perimeter^2 is 1, a square's .785.
_ROUND = 0.92
# Strength of the main direction (0 to 1) below which there is none.
_NO_DIRECTION = 0.35
_CIRCLE_POINTS = 32


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
    State.SHARED: "no: shares walls with its neighbour",
}

# Probabilities, 0..254 or 255 for unknown, of pixels at (rows, columns).
ReadPixels = Callable[[IntArray, IntArray], NDArray[np.uint8]]


@dataclass(frozen=True)
class Rules:
    """How outlines are regularised. mode: right, right-diagonal or circles; tolerance: metres (pixels where
    there are no metres) that a wall's outline may leave a straight line; read: probabilities, None where
    only classes are known; threshold: least probability, 0..254, inside."""

    mode: str
    tolerance: float
    read: ReadPixels | None = None
    threshold: int = 128


def most_pixels(tolerance: float, metres_per_pixel: float) -> float:
    """How far a regular outline can lie from the traced one, in pixels of that size."""
    return max(tolerance / metres_per_pixel, _PIXELS) * _DEVIATION


@dataclass(frozen=True)
class Regularized:
    """geometry: in pixel coordinates, the simplified one where it is not regular; state: (n,) a `State`;
    deviation: (n,) metres between the outline and the geometry (Hausdorff distance), 0 where it is kept."""

    geometry: Geometries
    state: NDArray[np.uint8]
    deviation: FloatArray


def regularize(geometry: Geometries, plain: Geometries, metric: FloatArray, rules: Rules) -> Regularized:
    """Polygons (n,) along pixel edges, in pixel coordinates, as regular ones where that is possible, else
    as `plain` has them, their simplified outlines.

    metric: (n, 2, 2) from pixels to metres at each. A multipolygon is regularised part by part. All are
    treated at once, and each by itself: the result of one depends on no other.
    """
    result = plain.copy()
    state = np.full(len(geometry), State.FAR, np.uint8)
    deviation = np.zeros(len(geometry))
    left = np.arange(len(geometry))
    edges = _unit_edges(Ragged.of(geometry))
    shifts = _shifts(edges, rules)
    for scale in _SCALES:
        if not len(left):
            break
        shapes = _measured(geometry[left], plain[left], metric[left], edges, shifts)
        fitted = _fitted(shapes, rules, scale)
        state[left], off = _gate(fitted, shapes, np.maximum(rules.tolerance, _PIXELS * shapes.side))
        passed = state[left] == State.YES
        done = left[passed]
        result[done] = _in_pixels(fitted[passed], metric[done], shapes.origin[passed])
        deviation[done] = off[passed]
        left = left[~passed]
        again = ~passed[shapes.owner]
        edges, kept = edges.only(again)
        shifts = shifts[kept]
    return Regularized(result, state, deviation)


@dataclass(frozen=True)
class _Shapes:
    """Polygons (n,) on planes of their own, in metres from their centres.

    outlines: along pixel edges, in pixels; owner: polygon of each ring; begins: (r + 1,) offsets of rings
    in points: (m, 2) where the probability crosses the threshold, in the axes of each polygon; direction,
    strength: of those axes; side: metres a pixel; local, simple: outlines as traced and simplified.
    """

    outlines: Ragged
    owner: IntArray
    begins: IntArray
    points: FloatArray
    direction: FloatArray
    strength: FloatArray
    side: FloatArray
    origin: FloatArray
    local: Geometries
    simple: Geometries


def _measured(
    geometry: Geometries, plain: Geometries, metric: FloatArray, edges: _Edges, shifts: FloatArray
) -> _Shapes:
    outlines = Ragged.of(geometry)
    part_owner = np.arange(len(geometry))
    if outlines.geoms is not None:
        part_owner = np.repeat(part_owner, np.diff(outlines.geoms))
    owner = part_owner[outlines.part_of_ring()]
    origin = shapely.get_coordinates(shapely.centroid(geometry)).reshape(-1, 2)
    points = edges.middle + edges.outward * shifts[:, None]
    of_point = np.repeat(owner, np.diff(edges.begins))
    points = _apply(metric[of_point], points - origin[of_point])
    direction, strength = _directions(points, edges.begins, owner, len(geometry))
    return _Shapes(
        outlines,
        owner,
        edges.begins,
        _turn(points, -direction[of_point]),
        direction,
        strength,
        np.sqrt(np.abs(np.linalg.det(metric))),
        origin,
        _in_metres(geometry, metric, origin),
        _in_metres(plain, metric, origin),
    )


def _fitted(shapes: _Shapes, rules: Rules, scale: float) -> Geometries:
    """Polygons of walls, in metres. scale: of all lengths that walls are told by."""
    side = shapes.side[shapes.owner]
    usual = np.maximum(scale * rules.tolerance, _PIXELS * side)
    # Small roofs, and small courts, have small walls.
    root = np.sqrt(np.abs(shapes.outlines.signed_areas())) * side
    fit = Fit(
        np.minimum(usual, _SMALL_TOLERANCE * root),
        np.minimum(usual * _SHORTEST, _SMALL_WALL * root),
        4 if rules.mode == "right-diagonal" else 2,
    )
    corners, begins = _corners(shapes.points, shapes.begins, fit)
    corners = _turn(corners, np.repeat(shapes.direction[shapes.owner], np.diff(begins)))
    closed, rings = closed_rings(corners, begins)
    fitted = Ragged(closed, rings, shapes.outlines.parts, shapes.outlines.geoms).geometries()
    if rules.mode == "circles":
        _put_circles(fitted, shapes)
    return fitted


@dataclass(frozen=True)
class _Edges:
    """Unit edges of rings: begins: (r + 1,) offsets by ring; middle, outward: (n, 2) middle and direction
    away from the region."""

    begins: IntArray
    middle: FloatArray
    outward: FloatArray

    def only(self, rings: NDArray[np.bool_]) -> tuple[_Edges, NDArray[np.bool_]]:
        """The edges of some rings, and which they are."""
        sizes = np.diff(self.begins)
        kept = np.repeat(rings, sizes)
        return _Edges(offsets_of(sizes[rings]), self.middle[kept], self.outward[kept]), kept


def _unit_edges(outlines: Ragged) -> _Edges:
    here, there = outlines.coords[:-1], outlines.coords[1:]
    ring = outlines.ring_of_vertex()
    inside = ring[:-1] == ring[1:]
    here, step, ring = here[inside], (there - here)[inside], ring[:-1][inside]
    length = np.rint(np.abs(step).sum(axis=1)).astype(np.int64)
    unit = step / length[:, None]
    at = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(at)) - np.repeat(np.cumsum(length) - length, length)
    middle = here[at] + unit[at] * (place + 0.5)[:, None]
    # Turned to the left where the ring runs round its inside, in the sense of x dy.
    sign = np.where((outlines.signed_areas() > 0) != outlines.is_hole(), 1.0, -1.0)[ring]
    outward = (np.column_stack([unit[:, 1], -unit[:, 0]]) * sign[:, None])[at]
    begins = offsets_of(np.bincount(ring, length, len(outlines.rings) - 1).astype(np.int64))
    return _Edges(begins, middle, outward)


def _shifts(edges: _Edges, rules: Rules) -> FloatArray:
    """How far each edge is from where the probability crosses the threshold, in pixels outwards, by linear
    interpolation between the two pixels beside it."""
    if rules.read is None:
        return np.zeros(len(edges.middle))
    sides = []
    for sign in (-0.5, 0.5):
        pixel = np.floor(edges.middle + sign * edges.outward).astype(np.int64)
        sides.append(rules.read(pixel[:, 1], pixel[:, 0]).astype(np.float64))
    inner, outer = sides
    level = rules.threshold - 0.5
    known = (inner > level) & (outer < level)
    share = (inner - level) / np.where(known, inner - outer, 1.0)
    return np.where(known, np.clip(share - 0.5, -_MOST_SHIFT, _MOST_SHIFT), 0.0)


def _directions(
    points: FloatArray, begins: IntArray, owner: IntArray, count: int
) -> tuple[FloatArray, FloatArray]:
    """The main direction of each polygon, in -pi/4..pi/4, from the sum of |v| exp(4 i arg v) over chords v
    of its outlines, and its strength: the share of the outline that agrees, 0..1."""
    sizes = np.diff(begins)
    ring = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(points)) - begins[ring]
    chord = points[begins[ring] + (place + _CHORD) % sizes[ring]] - points
    vector = chord[:, 0] + 1j * chord[:, 1]
    length = np.abs(vector)
    fourth = vector**4 / np.maximum(length, 1e-12) ** 3
    total = np.bincount(owner[ring], fourth.real, count) + 1j * np.bincount(owner[ring], fourth.imag, count)
    around = np.bincount(owner[ring], length, count)
    return np.angle(total) / 4, np.abs(total) / np.maximum(around, 1e-12)


def _corners(points: FloatArray, begins: IntArray, fit: Fit) -> tuple[FloatArray, IntArray]:
    """Corners of rings in the axes of their polygons, and their offsets."""
    sizes = np.diff(begins)
    ring = np.repeat(np.arange(len(sizes)), sizes)
    # A ring begins where it is furthest from its middle: at a corner, never within a wall, and at the same
    # one however the scene is turned.
    middle = np.add.reduceat(points, begins[:-1], axis=0) / sizes[:, None]
    reach = ((points - middle[ring]) ** 2).sum(axis=1)
    most = np.maximum.reduceat(reach, begins[:-1])
    hit = np.flatnonzero(reach == most[ring])
    first = hit[np.unique(ring[hit], return_index=True)[1]] - begins[:-1]
    place = np.arange(len(points)) - begins[ring]
    points = points[begins[ring] + (place + first[ring]) % sizes[ring]]
    walls = fit_walls(points, begins, fit)
    counts = np.diff(walls.begins)
    index = np.arange(walls.begins[-1])
    after = index + 1
    after[walls.begins[1:] - 1] = walls.begins[:-1]
    corners = crossings(walls, index, after)
    few = counts < 4
    if not few.any():
        return corners, walls.begins
    # A ring with fewer walls than a rectangle is one.
    kept = np.repeat(~few, counts)
    rectangles = _rectangles(points, begins)[few]
    owner = np.concatenate(
        [np.repeat(np.arange(len(counts)), counts)[kept], np.repeat(np.flatnonzero(few), 4)]
    )
    order = np.argsort(owner, kind="stable")
    corners = np.concatenate([corners[kept], rectangles.reshape(-1, 2)])[order]
    return corners, offsets_of(np.where(few, 4, counts))


def _rectangles(points: FloatArray, begins: IntArray) -> FloatArray:
    """Rectangles (r, 4, 2) along the axes, in the place of rings and as large."""
    low, high = (f.reduceat(points, begins[:-1], axis=0) for f in (np.minimum, np.maximum))
    x, y = points.T
    after = np.arange(len(points)) + 1
    after[begins[1:] - 1] = begins[:-1]
    area = np.abs(np.add.reduceat(x * y[after] - x[after] * y, begins[:-1])) / 2
    middle, half = (low + high) / 2, (high - low) / 2
    size = np.maximum(np.prod(high - low, axis=1), 1e-12)
    half = half * np.sqrt(area / size)[:, None]
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return np.asarray(middle[:, None] + half[:, None] * signs)


def _in_metres(geometry: Geometries, metric: FloatArray, origin: FloatArray) -> Geometries:
    coords, index = shapely.get_coordinates(geometry, return_index=True)
    local = _apply(metric[index], coords - origin[index])
    return np.asarray(shapely.set_coordinates(geometry.copy(), local))


def _in_pixels(geometry: Geometries, metric: FloatArray, origin: FloatArray) -> Geometries:
    coords, index = shapely.get_coordinates(geometry, return_index=True)
    back = np.asarray(np.linalg.inv(metric), np.float64)
    coords = _apply(back[index], coords) + origin[index]
    return np.asarray(shapely.normalize(shapely.set_coordinates(geometry, coords)))


def _put_circles(fitted: Geometries, shapes: _Shapes) -> None:
    """Circles of equal area in the place of round outlines without holes."""
    hull = shapely.convex_hull(shapes.local)
    area, length = shapely.area(hull), shapely.length(hull)
    round_ones = (4 * np.pi * area > _ROUND * length**2) & (shapes.strength < _NO_DIRECTION)
    whole = shapely.get_type_id(shapes.local) == shapely.GeometryType.POLYGON
    whole &= shapely.get_num_interior_rings(shapes.local) == 0
    at = np.flatnonzero(round_ones & whole)
    centre = shapely.get_coordinates(shapely.centroid(shapes.local[at])).reshape(-1, 2)
    turn = np.arange(_CIRCLE_POINTS) * 2 * np.pi / _CIRCLE_POINTS
    radius = np.sqrt(shapely.area(shapes.local[at]) * 2 / (_CIRCLE_POINTS * np.sin(turn[1])))
    rim = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if len(at):
        fitted[at] = shapely.polygons(centre[:, None] + radius[:, None, None] * rim)


def _gate(
    fitted: Geometries, shapes: _Shapes, tolerance: FloatArray
) -> tuple[NDArray[np.uint8], FloatArray]:
    """The `State` of each polygon and its distance from the outline, in metres. Areas are held against
    simplified outlines, which have a tenth of the corners."""
    state = np.zeros(len(fitted), np.uint8)
    deviation = np.zeros(len(fitted))
    state[~shapely.is_valid(fitted)] = State.INVALID
    left = np.flatnonzero(state == State.YES)
    areas, was = shapely.area(fitted), shapely.area(shapes.simple)
    ratio = areas[left] / was[left]
    state[left[(ratio < _AREA_RATIO) | (ratio > 1 / _AREA_RATIO)]] = State.AREA
    left = np.flatnonzero(state == State.YES)
    deviation[left] = shapely.hausdorff_distance(fitted[left], shapes.local[left])
    state[left[deviation[left] > _DEVIATION * tolerance[left]]] = State.FAR
    left = np.flatnonzero(state == State.YES)
    common = shapely.area(shapely.intersection(fitted[left], shapes.simple[left]))
    iou = common / (areas[left] + was[left] - common)
    state[left[iou < _LEAST_IOU]] = State.FAR
    return state, deviation


def _apply(matrices: FloatArray, points: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("nij,nj->ni", matrices, points))


def _turn(points: FloatArray, angle: Any) -> FloatArray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.column_stack(
        [points[:, 0] * cos - points[:, 1] * sin, points[:, 0] * sin + points[:, 1] * cos]
    )
