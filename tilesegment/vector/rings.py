"""Rings as flat arrays: operations on the vertices of many polygons at once.

Shapely's ragged layout is used: `coords` (n, 2) of closed rings, `rings` (r + 1) offsets into coords,
`parts` (p + 1) offsets into rings, and for multipolygons `geoms` (g + 1) offsets into parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Geometries = NDArray[Any]
# Larger than any coordinate.
_KEY = 2**31


@dataclass(frozen=True)
class Ragged:
    """Polygons or multipolygons as flat arrays; see the module's docstring."""

    coords: NDArray[Any]
    rings: IntArray
    parts: IntArray
    geoms: IntArray | None = None

    @classmethod
    def of(cls, geometries: Geometries) -> Ragged:
        """The arrays of shapely polygons or multipolygons (n,)."""
        if len(geometries) == 0:
            return cls(np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64))
        _, coords, offsets = shapely.to_ragged_array(geometries, include_z=False)
        return cls(coords, *(np.asarray(level, np.int64) for level in offsets))

    def geometries(self) -> Geometries:
        """Shapely polygons, or multipolygons where a level of `geoms` is given."""
        kind, levels = shapely.GeometryType.POLYGON, (self.rings, self.parts)
        if self.geoms is not None:
            kind, levels = shapely.GeometryType.MULTIPOLYGON, (self.rings, self.parts, self.geoms)  # type: ignore[assignment]
        coords = np.ascontiguousarray(self.coords, np.float64)
        return np.asarray(shapely.from_ragged_array(kind, coords, levels))

    def ring_of_vertex(self) -> IntArray:
        """The number of the ring of each vertex."""
        return np.repeat(np.arange(len(self.rings) - 1), np.diff(self.rings))

    def part_of_ring(self) -> IntArray:
        """The number of the polygon of each ring."""
        return np.repeat(np.arange(len(self.parts) - 1), np.diff(self.parts))

    def is_hole(self) -> NDArray[np.bool_]:
        """For each ring, whether it is not the first of its polygon."""
        hole = np.ones(len(self.rings) - 1, np.bool_)
        hole[self.parts[:-1]] = False
        return hole

    def signed_areas(self) -> NDArray[np.float64]:
        """The shoelace area of each ring, the integral of x dy: negative where it runs the other way."""
        return ring_sums(self, _shoelace(self.coords))

    def without_rings(self, drop: NDArray[np.bool_]) -> Ragged:
        """The same polygons without some of their holes."""
        keep_vertices = ~drop[self.ring_of_vertex()]
        return Ragged(
            self.coords[keep_vertices],
            offsets_of(np.diff(self.rings)[~drop]),
            offsets_of(np.bincount(self.part_of_ring()[~drop], minlength=len(self.parts) - 1)),
            self.geoms,
        )

    def with_rings(self, sequence: IntArray, parts: IntArray) -> Ragged:
        """Rings in another order, as polygons of the given offsets."""
        sizes = np.diff(self.rings)[sequence]
        offsets = offsets_of(sizes)
        index = np.arange(offsets[-1]) + np.repeat(self.rings[:-1][sequence] - offsets[:-1], sizes)
        return Ragged(self.coords[index], offsets, parts)

    def with_parts(self, wanted: NDArray[np.bool_]) -> Ragged:
        """Some of the polygons."""
        of_ring = wanted[self.part_of_ring()]
        return Ragged(
            self.coords[of_ring[self.ring_of_vertex()]],
            offsets_of(np.diff(self.rings)[of_ring]),
            offsets_of(np.diff(self.parts)[wanted]),
        )

    def without_collinear(self) -> Ragged:
        """Without the vertices that lie on the straight line between their neighbours; exact for whole
        numbers. What is left after joining at a seam, or where a tracer happened to start."""
        starts, ends = self.rings[:-1], self.rings[1:]
        before = self._neighbours(-1)
        after = self._neighbours(1)
        cross = (self.coords[:, 0] - before[:, 0]) * (after[:, 1] - self.coords[:, 1]) - (
            self.coords[:, 1] - before[:, 1]
        ) * (after[:, 0] - self.coords[:, 0])
        keep = cross != 0
        # The closing vertex stands for the first one; it is put back below, from the first that stays.
        keep[ends - 1] = False
        counts = np.add.reduceat(keep, starts) if len(starts) else np.zeros(0, np.int64)
        kept = self.coords[keep]
        new_rings = offsets_of(counts + 1)
        coords = np.empty((new_rings[-1], 2), self.coords.dtype)
        closing = np.zeros(len(coords), np.bool_)
        closing[new_rings[1:] - 1] = True
        coords[~closing] = kept
        coords[closing] = coords[new_rings[:-1]]
        return Ragged(coords, new_rings, self.parts, self.geoms)

    def with_vertices(self, on_vertical: IntArray, on_horizontal: IntArray) -> Ragged:
        """With a vertex put into an edge wherever one of the given points lies inside it; for outlines of
        whole coordinates. Vertical edges are held against `on_vertical`, horizontal ones against
        `on_horizontal`, (n, 2) of x, y each."""
        here, there = self.coords[:-1], self.coords[1:]
        same_ring = np.ones(max(0, len(self.coords) - 1), np.bool_)
        same_ring[self.rings[1:-1] - 1] = False
        places: list[IntArray] = []
        points: list[IntArray] = []
        for fixed, candidates in ((0, on_vertical), (1, on_horizontal)):
            moving = 1 - fixed
            # One sorted key a point, line first: those inside an edge are then one slice.
            keys = np.unique(candidates[:, fixed] * _KEY + candidates[:, moving])
            edges = np.flatnonzero((here[:, fixed] == there[:, fixed]) & same_ring)
            begin, end = here[edges, moving], there[edges, moving]
            line = here[edges, fixed] * _KEY
            low = np.searchsorted(keys, line + np.minimum(begin, end), side="right")
            high = np.searchsorted(keys, line + np.maximum(begin, end), side="left")
            counts = np.maximum(0, high - low)
            owner = np.repeat(np.arange(len(edges)), counts)
            step = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
            forward = begin[owner] < end[owner]
            found = keys[np.where(forward, low[owner] + step, high[owner] - 1 - step)]
            point = np.empty((len(owner), 2), np.int64)
            point[:, fixed], point[:, moving] = found // _KEY, found % _KEY
            places.append(edges[owner] + 1)
            points.append(point)
        place = np.concatenate(places)
        coords = np.insert(self.coords, place, np.concatenate(points), axis=0)
        # Every ring's offset moves by the vertices that were put in before it.
        rings = self.rings + np.searchsorted(np.sort(place), self.rings, side="right")
        return Ragged(coords, rings, self.parts, self.geoms)

    def _neighbours(self, step: int) -> NDArray[Any]:
        """For each vertex the one before (-1) or after (1) it in its ring, around the closing point."""
        index = np.arange(len(self.coords)) + step
        starts, ends = self.rings[:-1], self.rings[1:]
        if step < 0:
            index[starts] = ends - 2
        else:
            index[ends - 1] = starts + 1
        neighbours: NDArray[Any] = self.coords[index]
        return neighbours


def order_of(*keys: IntArray) -> IntArray:
    """The order by several whole-number keys, the first one counting most; equal rows in any order. As one
    number where they fit into 63 bits, which is sorted many times faster."""
    packed, room = np.zeros(len(keys[0]), np.int64), 1
    for key in reversed(keys):
        low = int(key.min(initial=0))
        packed += (key - low) * room
        room *= int(key.max(initial=0)) - low + 1
        if room >= 2**63:
            return np.asarray(np.lexsort(keys[::-1]), np.int64)
    return np.argsort(packed)


def ring_sums(rings: Ragged, edge_values: NDArray[Any]) -> NDArray[Any]:
    """Sums of a value of each edge over each ring. edge_values: (vertices - 1,), one for the step from
    each vertex to the next; steps from one ring to another are left out."""
    values = np.append(edge_values, np.zeros(1, edge_values.dtype))
    values[rings.rings[1:] - 1] = 0
    if len(rings.rings) == 1:
        return np.zeros(0, values.dtype)
    # The dtype is kept: sums of unsigned numbers may wrap around on purpose.
    return np.add.reduceat(values, rings.rings[:-1], dtype=values.dtype)


def _shoelace(coords: NDArray[Any]) -> NDArray[np.float64]:
    x, y = coords[:, 0].astype(np.float64), coords[:, 1].astype(np.float64)
    return (x[:-1] * y[1:] - x[1:] * y[:-1]) / 2


def offsets_of(counts: NDArray[Any]) -> IntArray:
    """Offsets of groups that follow each other, from the size of each: (n + 1,)."""
    result = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=result[1:])
    return result


def smallest_of(count: int, pairs: IntArray) -> IntArray:
    """For each of `count` numbers the smallest of those that it hangs together with by pairs (n, 2)."""
    parent = np.arange(count)
    while len(pairs):
        # Larger roots go below smaller ones, all at once, then everything below its root (after Shiloach
        # and Vishkin 1982). Parents are never larger, so that following them ends.
        np.minimum.at(parent, pairs.max(axis=1), pairs.min(axis=1))
        while not np.array_equal(jumped := parent[parent], parent):
            parent = jumped
        pairs = parent[pairs]
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return parent


def canonical(geometries: Geometries, keep_vertices: bool = False) -> Geometries:
    """The one way to write each polygon down: valid, without collinear vertices, rings in a fixed order
    from a fixed start. Two equal point sets on the pixel grid become equal vertex by vertex.

    keep_vertices: leave collinear ones. Where three outlines meet, one of them may pass straight through,
    and needs the vertex all the same to fit its neighbours when coordinates are rounded.
    """
    if keep_vertices:
        return np.asarray(shapely.normalize(valid_polygons(geometries)))
    cleaned = Ragged.of(geometries).without_collinear().geometries()
    repaired = valid_polygons(cleaned)
    if repaired is not cleaned:
        repaired = Ragged.of(repaired).without_collinear().geometries()
    return np.asarray(shapely.normalize(repaired))


def valid_polygons(geometries: Geometries) -> Geometries:
    """Polygons with those mended whose outline touches itself: a tracer writes a hole that touches the
    outline at a corner as part of the outline."""
    invalid = ~shapely.is_valid(geometries)
    if invalid.any():
        geometries = geometries.astype(object)
        geometries[invalid] = shapely.make_valid(
            geometries[invalid], method="structure", keep_collapsed=False
        )
    return geometries
