"""Rows: the parts of one region, whose walls are shared, and their simplified outlines.

Every arc (see `arcs`) is drawn once, and read by both of its sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely

from tilesegment.settings import Measure
from tilesegment.vector.arcs import Arcs, arcs_of
from tilesegment.vector.edges import Edges, FloatArray, unit_edges
from tilesegment.vector.rings import Geometries, IntArray, Ragged, offsets_of


@dataclass(frozen=True)
class Row:
    """The parts of one region, which do not overlap.

    exact: (n,) polygons along pixel edges, in pixel coordinates, with a vertex wherever three meet;
    metric: (2, 2) from pixels to metres; parts: (n + 1,) offsets of the polygons in rings; corners, kept:
    for each arc all pixel corners between its ends, and those that are left when it is simplified.
    """

    exact: Geometries
    metric: FloatArray
    parts: IntArray
    edges: Edges
    arcs: Arcs
    corners: list[FloatArray]
    kept: list[FloatArray]

    @classmethod
    def of(cls, exact: Geometries, metric: FloatArray, tolerance: Measure) -> Row | None:
        """Simplified to within a tolerance (Douglas and Peucker 1973, arc by arc). None where a part is
        several polygons."""
        outlines = Ragged.of(exact)
        if outlines.geoms is not None:
            return None
        edges = unit_edges(outlines)
        arcs = arcs_of(edges, outlines.part_of_ring())
        corners = _corners(arcs, edges)
        row = cls(exact, metric, outlines.parts, edges, arcs, corners, corners)
        if tolerance.value == 0:
            return row
        kept = [row._shorter(number, tolerance) for number in range(len(arcs.arcs))]
        return replace(row, kept=row._without_faults(kept))

    def simplified(self) -> Geometries:
        """The parts simplified: their walls still shared, every vertex a pixel corner."""
        return np.asarray(shapely.normalize(self._plain(self.kept)))

    @property
    def side(self) -> float:
        """Metres a pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.metric))))

    def polygons(self, lines: list[FloatArray]) -> Geometries:
        """Polygons of lines, one for each arc, from its start to its end or around."""
        rings = []
        for steps in self.arcs.rings:
            pieces = [lines[k] if forward else lines[k][::-1] for k, forward in steps]
            if self.arcs.arcs[steps[0][0]].closed:
                ring = np.concatenate([pieces[0], pieces[0][:1]])
            else:
                ring = np.concatenate([pieces[0][:1], *(piece[1:] for piece in pieces)])
            ring = ring[np.append(True, (np.diff(ring, axis=0) != 0).any(axis=1))]
            # A ring of two points is a polygon that is not valid, and not an error.
            rings.append(np.concatenate([ring, ring[-1:].repeat(max(0, 4 - len(ring)), axis=0)]))
        offsets = offsets_of(np.array([len(ring) for ring in rings]))
        return Ragged(np.concatenate(rings), offsets, self.parts).geometries()

    def _plain(self, kept: list[FloatArray]) -> Geometries:
        return self.polygons([self.plain_line(number, inner) for number, inner in enumerate(kept)])

    def plain_line(self, number: int, inner: FloatArray) -> FloatArray:
        """An arc with its ends."""
        arc, nodes = self.arcs.arcs[number], self.arcs.nodes
        return inner if arc.closed else np.concatenate([nodes[[arc.start]], inner, nodes[[arc.end]]])

    def _shorter(self, number: int, tolerance: Measure) -> FloatArray:
        line = self.plain_line(number, self.corners[number])
        if self.arcs.arcs[number].closed:
            line = np.concatenate([line, line[:1]])
        plane = line if tolerance.pixels else line @ self.metric.T
        numbered = np.column_stack([plane, np.arange(len(line))])
        left = shapely.simplify(shapely.linestrings(numbered), tolerance.value, preserve_topology=False)
        index = shapely.get_coordinates(left, include_z=True)[:, 2].astype(np.int64)
        return np.asarray(line[index[:-1] if self.arcs.arcs[number].closed else index[1:-1]])

    def _without_faults(self, kept: list[FloatArray]) -> list[FloatArray]:
        """With the corners put back of parts that would not be valid, or meet one another."""
        sides = np.array([arc.sides for arc in self.arcs.arcs])
        whole = np.zeros(len(self.exact), np.bool_)
        while not whole.all():
            now = [self.corners[k] if whole[sides[k]].any() else kept[k] for k in range(len(kept))]
            built = self._plain(now)
            bad = ~shapely.is_valid(built)
            if not bad.any():
                bad = ~shapely.is_empty(shapely.coverage_invalid_edges(built))
            if not bad.any():
                return now
            whole |= bad if (bad & ~whole).any() else True
        return self.corners


def _corners(arcs: Arcs, edges: Edges) -> list[FloatArray]:
    """The pixel corners of each arc, without its ends."""
    result = []
    for arc in arcs.arcs:
        steps = edges.step[arc.edges]
        turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
        turns[:1] &= arc.closed
        result.append(np.rint(edges.middle[arc.edges] - steps / 2)[turns])
    return result
