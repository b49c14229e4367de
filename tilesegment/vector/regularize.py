"""Regularising: outlines as a surveyor draws them, with straight walls and right angles.

Every polygon is traced anew between its pixels, where the probability crosses the threshold; its main
direction is that of most of its outline; walls are fitted to that (see `walls`), and where they cross are
the corners. What comes out must pass a gate: close to what was traced in every way, or it stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.edges import Edges, ReadPixels, directions_of, shifts_of, unit_edges
from tilesegment.vector.gate import DEVIATION, State, gate
from tilesegment.vector.outlines import closed_rings
from tilesegment.vector.plane import apply, in_metres, in_pixels, turned
from tilesegment.vector.rings import Geometries, IntArray, Ragged, offsets_of
from tilesegment.vector.walls import Chains, Fit, FloatArray, crossings, fit_walls

# Metres of the shortest wall, a metre of tolerance.
_SHORTEST = 5.0
# What does not pass is tried again with shorter lengths.
SCALES = (1.0, 0.5)
# Small roofs have small walls: shares of the square root of the area.
_SMALL_TOLERANCE = 0.15
_SMALL_WALL = 0.35
# The tolerance is at least so many pixels.
PIXELS = 1.5
# A circle's 4 pi area / perimeter^2 is 1, a square's .785.
_ROUND = 0.92
# Strength of the main direction (0 to 1) below which there is none.
_NO_DIRECTION = 0.35
_CIRCLE_POINTS = 32


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
    return max(tolerance / metres_per_pixel, PIXELS) * DEVIATION


def fit_of(rules: Rules, root: FloatArray, side: FloatArray, scale: float) -> Fit:
    """How walls are fitted. root: (n,) square roots of areas in square metres; side: metres a pixel; scale:
    of all lengths that walls are told by."""
    usual = np.maximum(scale * rules.tolerance, PIXELS * side)
    return Fit(
        np.minimum(usual, _SMALL_TOLERANCE * root),
        np.minimum(usual * _SHORTEST, _SMALL_WALL * root),
        4 if rules.mode == "right-diagonal" else 2,
    )


@dataclass(frozen=True)
class Regularized:
    """geometry: in pixel coordinates, the simplified one where it is not regular, but for walls that are
    shared with one that is; state: (n,) a `State`; deviation: (n,) metres between the traced outline and
    the geometry (Hausdorff distance), 0 where nothing of it is regular."""

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
    edges = unit_edges(Ragged.of(geometry))
    shifts = shifts_of(edges, rules.read, rules.threshold)
    for scale in SCALES:
        if not len(left):
            break
        shapes = _measured(geometry[left], plain[left], metric[left], edges, shifts)
        fitted = _fitted(shapes, rules, scale)
        state[left], off = gate(
            fitted, shapes.local, shapes.simple, np.maximum(rules.tolerance, PIXELS * shapes.side)
        )
        passed = state[left] == State.YES
        done = left[passed]
        result[done] = in_pixels(fitted[passed], metric[done], shapes.origin[passed])
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
    geometry: Geometries, plain: Geometries, metric: FloatArray, edges: Edges, shifts: FloatArray
) -> _Shapes:
    outlines = Ragged.of(geometry)
    part_owner = np.arange(len(geometry))
    if outlines.geoms is not None:
        part_owner = np.repeat(part_owner, np.diff(outlines.geoms))
    owner = part_owner[outlines.part_of_ring()]
    origin = shapely.get_coordinates(shapely.centroid(geometry)).reshape(-1, 2)
    points = edges.middle + edges.outward * shifts[:, None]
    of_point = np.repeat(owner, np.diff(edges.begins))
    points = apply(metric[of_point], points - origin[of_point])
    direction, strength = directions_of(points, edges.begins, owner, len(geometry))
    return _Shapes(
        outlines,
        owner,
        edges.begins,
        turned(points, -direction[of_point]),
        direction,
        strength,
        np.sqrt(np.abs(np.linalg.det(metric))),
        origin,
        in_metres(geometry, metric, origin),
        in_metres(plain, metric, origin),
    )


def _fitted(shapes: _Shapes, rules: Rules, scale: float) -> Geometries:
    """Polygons of walls, in metres. scale: of all lengths that walls are told by."""
    side = shapes.side[shapes.owner]
    # Small roofs, and small courts, have small walls.
    root = np.sqrt(np.abs(shapes.outlines.signed_areas())) * side
    fit = fit_of(rules, root, side, scale)
    corners, begins = _corners(shapes.points, shapes.begins, fit)
    corners = turned(corners, np.repeat(shapes.direction[shapes.owner], np.diff(begins)))
    closed, rings = closed_rings(corners, begins)
    fitted = Ragged(closed, rings, shapes.outlines.parts, shapes.outlines.geoms).geometries()
    if rules.mode == "circles":
        _put_circles(fitted, shapes)
    return fitted


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
    walls = fit_walls(Chains.of_rings(points, begins), fit)
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
    boxes = rectangles(points, begins)[few]
    owner = np.concatenate(
        [np.repeat(np.arange(len(counts)), counts)[kept], np.repeat(np.flatnonzero(few), 4)]
    )
    order = np.argsort(owner, kind="stable")
    corners = np.concatenate([corners[kept], boxes.reshape(-1, 2)])[order]
    return corners, offsets_of(np.where(few, 4, counts))


def rectangles(points: FloatArray, begins: IntArray) -> FloatArray:
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
