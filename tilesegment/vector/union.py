"""Outlines of regions from those of their pieces, exact and for all regions at once; valid polygons from
outlines.

Every edge runs along pixel borders with its region on the right. Where two pieces of a region meet, their
edges run against each other and cancel; what is left over, taken line by line, are the edges of the whole.
Linking each one's end to the next one's beginning gives the rings.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.outlines import closed_rings, cycles
from tilesegment.vector.rings import Geometries, IntArray, Ragged

# Directions as they follow each other in right turns (rows count downwards).
_EAST, _SOUTH, _WEST, _NORTH = range(4)


def united(pieces: Ragged, region: IntArray) -> Ragged:
    """The polygons of 4-connected regions, in ascending order of their number.

    pieces: outlines in whole coordinates, disjoint, as `trace_outlines` gives them; region: the number of
    each piece's region.
    """
    ring_region = region[pieces.part_of_ring()]
    here, there = pieces.coords[:-1], pieces.coords[1:]
    inside = np.ones(max(0, len(here)), np.bool_)
    inside[pieces.rings[1:-1] - 1] = False
    owner = ring_region[pieces.ring_of_vertex()[:-1]]
    starts, ends, directions, owners = [], [], [], []
    for axis, onward, back in ((0, _EAST, _WEST), (1, _SOUTH, _NORTH)):
        along = inside & (here[:, axis] != there[:, axis])
        line, begin, end, sign, of = _remaining(
            owner[along], here[along, 1 - axis], here[along, axis], there[along, axis]
        )
        forward = sign > 0
        points = [np.empty((len(line), 2), np.int64) for _ in range(2)]
        for point, place in zip(
            points, (np.where(forward, begin, end), np.where(forward, end, begin)), strict=True
        ):
            point[:, axis], point[:, 1 - axis] = place, line
        starts.append(points[0])
        ends.append(points[1])
        directions.append(np.where(forward, onward, back))
        owners.append(of)
    start, end_point = np.concatenate(starts), np.concatenate(ends)
    direction, of = np.concatenate(directions), np.concatenate(owners)
    order, rings = cycles(_following(start, end_point, direction, of))
    closed = Ragged(*closed_rings(start[order], rings), np.arange(len(rings)))
    return _as_polygons(closed, of[order[rings[:-1]]])


def canonical_outlines(outlines: Ragged) -> Geometries:
    """As `rings.canonical`, from traced outlines of 4-connected regions: these touch themselves at corners
    at most, and never cross."""
    return np.asarray(shapely.normalize(_split_where_touching(outlines.without_collinear()).geometries()))


def _split_where_touching(outlines: Ragged) -> Ragged:
    """Rings that come to a point twice as several rings that do not: the outer one, and holes that touch
    it there. A ring's visits to its double points are nested like brackets, as it never crosses itself, so
    that exchanging what follows the two visits, at all points at once, takes it apart."""
    visit_ring = outlines.ring_of_vertex()
    inner = np.ones(len(visit_ring), np.bool_)
    inner[outlines.rings[1:] - 1] = False
    visit_ring, points = visit_ring[inner], outlines.coords[inner]
    order = np.lexsort((points[:, 0], points[:, 1], visit_ring))
    ring, point = visit_ring[order], points[order]
    again = np.flatnonzero((ring[1:] == ring[:-1]) & (point[1:] == point[:-1]).all(axis=1))
    if not len(again):
        return outlines
    begins = outlines.rings[:-1] - np.arange(len(outlines.rings) - 1)
    following = np.arange(1, len(points) + 1)
    following[np.append(begins[1:], len(points)) - 1] = begins
    one, other = order[again], order[again + 1]
    following[one], following[other] = following[other], following[one]
    visits, rings = cycles(following)
    closed = Ragged(*closed_rings(points[visits], rings), np.arange(len(rings)))
    part = outlines.part_of_ring()[visit_ring[visits[rings[:-1]]]]
    return _as_polygons(closed, part)


def _remaining(
    owner: IntArray, line: IntArray, begin: IntArray, end: IntArray
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """What is left of directed edges on parallel lines after opposite ones cancel: (line, from, to, +1 or
    -1 for the direction, region) of each, as long as they can be."""
    place = np.concatenate([begin, end])
    change = np.concatenate([np.ones_like(begin), -np.ones_like(begin)])
    # An edge counts +1 from where it begins on and -1 from where it ends on, whichever comes first.
    event_line, event_owner = np.tile(line, 2), np.tile(owner, 2)
    order = np.lexsort((place, event_line, event_owner))
    event_owner, event_line, place = event_owner[order], event_line[order], place[order]
    change = change[order]
    first = np.ones(len(place), np.bool_)
    first[1:] = (
        (event_owner[1:] != event_owner[:-1])
        | (event_line[1:] != event_line[:-1])
        | (place[1:] != place[:-1])
    )
    at = np.flatnonzero(first)
    if not len(at):
        return event_line, place, place, place, event_owner
    total = np.add.reduceat(change, at)
    # Points where nothing changes lie within a straight edge.
    at, total = at[total != 0], total[total != 0]
    level = np.cumsum(total)
    kept = np.flatnonzero(level[:-1] != 0)
    return event_line[at[kept]], place[at[kept]], place[at[kept + 1]], level[kept], event_owner[at[kept]]


def _following(start: IntArray, end: IntArray, direction: IntArray, owner: IntArray) -> IntArray:
    """For each edge the one that goes on from its end: that to the right where a region touches itself at a
    corner, else the only one there is."""
    span_x, span_y = int(start[:, 0].max()) + 1, int(start[:, 1].max()) + 1
    names = np.unique(owner, return_inverse=True)[1].reshape(-1)

    def key(points: IntArray, heading: IntArray) -> IntArray:
        return ((names * span_y + points[:, 1]) * span_x + points[:, 0]) * 4 + heading

    leaving = key(start, direction)
    order = np.argsort(leaving)
    leaving = leaving[order]
    right = key(end, (direction + 1) % 4)
    found = np.minimum(np.searchsorted(leaving, right), len(leaving) - 1)
    left = leaving[found] != right
    found[left] = np.searchsorted(leaving, key(end, (direction + 3) % 4)[left])
    return np.asarray(order[found], np.int64)


def _as_polygons(closed: Ragged, region: IntArray) -> Ragged:
    """Rings as polygons: of each region the one outer ring, then its holes."""
    outer: NDArray[np.bool_] = closed.signed_areas() > 0
    sequence = np.lexsort((~outer, region))
    parts = np.flatnonzero(outer[sequence])
    return closed.with_rings(sequence, np.append(parts, len(sequence)))
