"""Arcs: the outlines of polygons that share walls, taken apart where three of them meet.

An arc is a longest piece of outline with the same polygon, or nothing, on either side; its ends are nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tilesegment.vector.edges import Edges, FloatArray
from tilesegment.vector.rings import IntArray, order_of, smallest_of

# Beside an arc there is no polygon.
OUTSIDE = -1


@dataclass(frozen=True)
class Arc:
    """edges: (n,) numbers of its unit edges, in order; one, other: the polygons along it, `other` may be
    OUTSIDE; start, end: numbers of its nodes, both -1 for an arc that is a ring; point: whether it is so
    short that it is taken for one."""

    edges: IntArray
    one: int
    other: int
    start: int
    end: int
    point: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """The polygons along it, the one twice where there is no other."""
        return self.one, self.one if self.other == OUTSIDE else self.other

    @property
    def closed(self) -> bool:
        """Whether it is a ring."""
        return self.start < 0


# An arc by its number, and whether it is followed from its start to its end.
Step = tuple[int, bool]


@dataclass(frozen=True)
class Arcs:
    """arcs; nodes: (k, 2) pixel corners; rings: the steps that each ring of the polygons consists of."""

    arcs: list[Arc]
    nodes: FloatArray
    rings: list[list[Step]]


def arcs_of(edges: Edges, polygon: IntArray) -> Arcs:
    """The arcs of polygons that cover an area without overlaps. polygon: of each ring of `edges`."""
    sizes = np.diff(edges.begins)
    ring = np.repeat(np.arange(len(sizes)), sizes)
    number = np.arange(len(ring))
    place = number - edges.begins[ring]
    before = edges.begins[ring] + (place - 1) % sizes[ring]
    twin = _twins(edges.middle)
    own = polygon[ring]
    other = np.where(twin >= 0, own[twin], OUTSIDE)
    corner = np.rint(edges.middle - edges.step / 2).astype(np.int64)
    key = corner[:, 1] * (int(corner[:, 0].max()) + 1) + corner[:, 0]
    # A node for one outline is one for all.
    found = np.unique(key[other != other[before]])
    node = np.searchsorted(found, key)
    begins = np.isin(key, found)
    nodes = np.empty((len(found), 2))
    nodes[node[begins]] = corner[begins]
    arcs: list[Arc] = []
    arc_of_edge = np.full(len(ring), -1)
    rings: list[list[IntArray]] = []
    for first, last in zip(edges.begins[:-1].tolist(), edges.begins[1:].tolist(), strict=True):
        starts = first + np.flatnonzero(begins[first:last])
        if not len(starts):
            rings.append([np.arange(first, last)])
            continue
        around = np.concatenate([np.arange(starts[0], last), np.arange(first, starts[0])])
        rings.append(np.split(around, (starts[1:] - starts[0]).tolist()))
    for pieces in rings:
        for piece in pieces:
            edge = int(piece[0])
            if other[edge] != OUTSIDE and own[edge] > other[edge]:
                continue
            ends = (-1, -1)
            if begins[edge]:
                ends = int(node[edge]), int(node[_after(int(piece[-1]), edges, ring)])
            arc_of_edge[piece] = len(arcs)
            arcs.append(Arc(piece, int(own[edge]), int(other[edge]), *ends))
    return Arcs(arcs, nodes, [[_step(int(piece[0]), arc_of_edge, twin) for piece in r] for r in rings])


def _after(edge: int, edges: Edges, ring: IntArray) -> int:
    """The edge that follows in the ring."""
    following = edge + 1
    return int(edges.begins[ring[edge]]) if following == edges.begins[ring[edge] + 1] else following


def _step(edge: int, arc_of_edge: IntArray, twin: IntArray) -> Step:
    if arc_of_edge[edge] >= 0:
        return int(arc_of_edge[edge]), True
    return int(arc_of_edge[twin[edge]]), False


def _twins(middle: FloatArray) -> IntArray:
    """For each unit edge the one of another polygon in the same place, or -1."""
    doubled = np.rint(2 * middle).astype(np.int64)
    order = order_of(doubled[:, 1], doubled[:, 0])
    same = (np.diff(doubled[order], axis=0) == 0).all(axis=1)
    twin = np.full(len(middle), -1, np.int64)
    one, other = order[:-1][same], order[1:][same]
    twin[one], twin[other] = other, one
    return twin


def contracted(arcs: Arcs, least: float) -> Arcs:
    """Arcs of fewer unit edges as points: their nodes are one, in their middle."""
    short = [(arc.start, arc.end) for arc in arcs.arcs if not arc.closed and len(arc.edges) < least]
    one_of = smallest_of(len(arcs.nodes), np.array(short, np.int64).reshape(-1, 2))
    found, number = np.unique(one_of, return_inverse=True)
    size = np.bincount(number, minlength=len(found))
    nodes = np.column_stack([np.bincount(number, arcs.nodes[:, k], len(found)) / size for k in (0, 1)])
    changed = [
        arc
        if arc.closed
        else replace(
            arc, start=int(number[arc.start]), end=int(number[arc.end]), point=len(arc.edges) < least
        )
        for arc in arcs.arcs
    ]
    return Arcs(changed, nodes, arcs.rings)
