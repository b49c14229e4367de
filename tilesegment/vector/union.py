"""Outlines of regions from those of their pieces, exact and for all regions at once; valid polygons from
outlines.

Every edge runs along pixel borders with its region on the right. Where two pieces of a region meet, on
seams, their edges run against each other and cancel; what is left over, taken line by line, are edges of
the whole. All other edges stay as they are: chains of them, from one seam to the next, are only linked
anew, each one's end to the next one's beginning, which gives the rings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.outlines import closed_rings, cycles
from tilesegment.vector.rings import Geometries, IntArray, Ragged, order_of

# Directions as they follow each other in right turns (rows count downwards).
_EAST, _SOUTH, _WEST, _NORTH = range(4)


@dataclass(frozen=True)
class _Chains:
    """Stretches of outlines, one after the other in `coords` (n, 2), each without its last point.

    begins: (c + 1,) offsets into coords; start, end: (c, 2) first and last point; heading, arriving: (c,)
    directions of the first and of the last edge; owner: (c,) region.
    """

    coords: IntArray
    begins: IntArray
    start: IntArray
    end: IntArray
    heading: IntArray
    arriving: IntArray
    owner: IntArray

    @classmethod
    def concatenate(cls, parts: list[_Chains]) -> _Chains:
        sizes = np.concatenate([np.diff(part.begins) for part in parts])
        names = ("coords", "start", "end", "heading", "arriving", "owner")
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(begins=np.append(0, np.cumsum(sizes)), **columns)


def united(pieces: Ragged, region: IntArray, seams: tuple[IntArray, IntArray]) -> Ragged:
    """The polygons of 4-connected regions, in ascending order of their number.

    pieces: outlines in whole coordinates, disjoint, as `trace_outlines` gives them; region: the number of
    each piece's region; seams: x of the vertical and y of the horizontal lines on which pieces meet.
    """
    ring_region = region[pieces.part_of_ring()]
    on_seam = _on_seams(pieces, seams)
    # The closing vertex of a ring, which no edge follows, is in none of these.
    seam_edge = np.flatnonzero(on_seam)
    counts = np.add.reduceat(on_seam, pieces.rings[:-1], dtype=np.int64)
    whole = np.flatnonzero(counts == 0)
    chains = _Chains.concatenate(
        [
            _left_over(pieces, seam_edge, ring_region[pieces.ring_of_vertex()[seam_edge]]),
            _between_seams(pieces, on_seam, np.flatnonzero(counts), ring_region),
        ]
    )
    order, rings = cycles(_following(chains))
    in_order = Ragged(chains.coords, chains.begins, rings).with_rings(order, rings)
    linked, linked_rings = closed_rings(in_order.coords, in_order.rings[rings])
    kept = pieces.with_rings(whole, np.arange(len(whole) + 1))
    closed = Ragged(
        np.concatenate([linked, kept.coords]),
        np.concatenate([linked_rings, kept.rings[1:] + len(linked)]),
        np.arange(len(rings) + len(whole)),
    )
    return _as_polygons(closed, np.append(chains.owner[order[rings[:-1]]], ring_region[whole]))


def _on_seams(pieces: Ragged, seams: tuple[IntArray, IntArray]) -> NDArray[np.bool_]:
    """Whether the edge from each vertex to the next one runs along a seam."""
    here, there = pieces.coords[:-1], pieces.coords[1:]
    found = np.zeros(len(pieces.coords), np.bool_)
    for across, lines in enumerate(seams):
        table = np.zeros(int(max(pieces.coords[:, across].max(), lines.max(initial=0))) + 1, np.bool_)
        table[lines] = True
        found[:-1] |= (here[:, across] == there[:, across]) & table[here[:, across]]
    found[pieces.rings[1:] - 1] = False
    return found


def _left_over(pieces: Ragged, edge: IntArray, owner: IntArray) -> _Chains:
    """What is left of edges on seams, each a chain of its own."""
    here, there = pieces.coords[edge], pieces.coords[edge + 1]
    found = []
    for axis, onward, back in ((0, _EAST, _WEST), (1, _SOUTH, _NORTH)):
        along = here[:, axis] != there[:, axis]
        line, low, high, sign, of = _remaining(
            owner[along], here[along, 1 - axis], here[along, axis], there[along, axis]
        )
        start, end = np.empty((len(line), 2), np.int64), np.empty((len(line), 2), np.int64)
        start[:, 1 - axis] = end[:, 1 - axis] = line
        start[:, axis], end[:, axis] = np.where(sign > 0, (low, high), (high, low))
        heading = np.where(sign > 0, onward, back)
        found.append(_Chains(start, np.arange(len(line) + 1), start, end, heading, heading, of))
    return _Chains.concatenate(found)


def _between_seams(
    pieces: Ragged, on_seam: NDArray[np.bool_], touched: IntArray, ring_region: IntArray
) -> _Chains:
    """The stretches off the seams of the rings that touch one."""
    begin, sizes = pieces.rings[:-1][touched], np.diff(pieces.rings)[touched] - 1
    ends = np.cumsum(sizes)
    place = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
    # Each ring from behind its first edge on a seam, so that its last one is on a seam.
    seam = np.flatnonzero(on_seam)
    first = seam[np.searchsorted(seam, begin)] - begin + 1
    edge = np.repeat(begin, sizes) + (place + np.repeat(first, sizes)) % np.repeat(sizes, sizes)
    on = on_seam[edge]
    before = np.append(True, on[:-1])
    free = np.flatnonzero(~on)
    opening, closing = np.flatnonzero(before & ~on), np.flatnonzero(on & ~before)
    start, last = edge[opening], edge[closing - 1]
    return _Chains(
        coords=pieces.coords[edge[free]],
        begins=np.append(0, np.cumsum(closing - opening)),
        start=pieces.coords[start],
        end=pieces.coords[last + 1],
        heading=_direction(pieces.coords[start], pieces.coords[start + 1]),
        arriving=_direction(pieces.coords[last], pieces.coords[last + 1]),
        owner=np.repeat(ring_region[touched], sizes)[opening],
    )


def _direction(here: IntArray, there: IntArray) -> IntArray:
    across = np.where(there[:, 0] > here[:, 0], _EAST, _WEST)
    down = np.where(there[:, 1] > here[:, 1], _SOUTH, _NORTH)
    return np.where(here[:, 1] == there[:, 1], across, down)


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
    order = order_of(visit_ring, points[:, 1], points[:, 0])
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
    order = order_of(event_owner, event_line, place)
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


def _following(chains: _Chains) -> IntArray:
    """For each chain the one that goes on from its end: that to the right where a region touches itself at
    a corner, else the only one there is, straight on or to the left."""
    if not len(chains.owner):
        return np.empty(0, np.int64)
    low = chains.start.min(axis=0)
    span_x, span_y = (chains.start.max(axis=0) - low + 1).tolist()
    names = np.unique(chains.owner, return_inverse=True)[1].reshape(-1)

    def key(points: IntArray, heading: IntArray) -> IntArray:
        shifted = points - low
        place: IntArray = (names * span_y + shifted[:, 1]) * span_x + shifted[:, 0]
        return place * 4 + heading

    leaving = key(chains.start, chains.heading)
    order = np.argsort(leaving)
    leaving = leaving[order]
    found = np.zeros(len(leaving), np.int64)
    missing = np.ones(len(leaving), np.bool_)
    for turn in (1, 0, 3):
        wanted = key(chains.end, (chains.arriving + turn) % 4)
        place = np.minimum(np.searchsorted(leaving, wanted), len(leaving) - 1)
        hit = missing & (leaving[place] == wanted)
        found[hit] = place[hit]
        missing &= ~hit
    return np.asarray(order[found], np.int64)


def _as_polygons(closed: Ragged, region: IntArray) -> Ragged:
    """Rings as polygons: of each region the one outer ring, then its holes."""
    outer: NDArray[np.bool_] = closed.signed_areas() > 0
    sequence = np.lexsort((~outer, region))
    parts = np.flatnonzero(outer[sequence])
    return closed.with_rings(sequence, np.append(parts, len(sequence)))
