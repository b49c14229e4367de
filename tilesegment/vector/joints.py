"""Joints: where fitted walls meet at a node, and which of them are one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from tilesegment.vector.edges import FloatArray
from tilesegment.vector.rings import smallest_of
from tilesegment.vector.walls import Walls, crossings

# Walls nearer than this at a node are one, and walls further from it are not of it (metres a metre of
# tolerance).
ONE_WALL = 1.5
NOT_OF_IT = 6.0
# Lines at smaller angles (the sine) are parallel.
_PARALLEL = 0.3


@dataclass(frozen=True)
class End:
    """Of an arc, by its number, the start (0) or end (1); the wall there; a point inside the arc."""

    arc: int
    side: int
    wall: int
    inside: FloatArray


@dataclass(frozen=True)
class Joint:
    """place: (2,) where the node comes to lie; steps: by arc and end of it, a corner just before that."""

    place: FloatArray
    steps: dict[tuple[int, int], FloatArray]


def united(walls: Walls, meetings: list[list[End]], reach: float) -> Walls:
    """With those as one that meet at a node, are of one axis and no further apart than `reach`."""
    meet = [pair for meeting in meetings for pair in combinations([end.wall for end in meeting], 2)]
    pairs = np.array(meet, np.int64).reshape(-1, 2)
    one, other = pairs.T
    like = (walls.normal[one] == walls.normal[other]).all(axis=1)
    like &= np.abs(walls.distance[one] - walls.distance[other]) < reach
    one_of = smallest_of(len(walls.distance), pairs[like])
    weight = np.bincount(one_of, walls.points, len(one_of))
    total = np.bincount(one_of, walls.points * walls.distance, len(one_of))
    return replace(walls, distance=(total / np.maximum(weight, 1e-12))[one_of])


def joint(node: FloatArray, meeting: list[End], walls: Walls, reach: float) -> Joint:
    """Where the walls of a node meet, those that are no further from it than `reach`.

    Two lines cross. Of three of which two are parallel, the third one has a step between the two: the node
    is the crossing that is nearer along it, and the other one a corner. Else it is the point that is
    nearest to all lines.
    """
    lines: dict[tuple[float, ...], list[End]] = {}
    for end in meeting:
        normal, distance = walls.normal[end.wall], float(walls.distance[end.wall])
        if abs(normal @ node - distance) < reach:
            lines.setdefault((*normal.tolist(), distance), []).append(end)
    if len(lines) == 3:
        ends = list(lines.values())
        for across in range(3):
            one, other = (ends[k] for k in range(3) if k != across)
            wall = ends[across][0]
            if _sine(walls, one[0], other[0]) > _PARALLEL:
                continue
            if min(_sine(walls, one[0], wall), _sine(walls, other[0], wall)) < 2 * _PARALLEL:
                continue
            places = crossings(walls, np.array([one[0].wall, other[0].wall]), np.array([wall.wall] * 2))
            inward = (places - node) @ (wall.inside - node)
            nearer = int(inward.argmax())
            behind = (other, one)[nearer]
            return Joint(places[nearer], {(end.arc, end.side): places[1 - nearer][None] for end in behind})
    if not lines:
        return Joint(node, {})
    normals, distances = np.array([key[:2] for key in lines]), np.array([key[2] for key in lines])
    move = np.linalg.lstsq(normals, distances - normals @ node, rcond=_PARALLEL)[0]
    return Joint(np.asarray(node + move), {})


def _sine(walls: Walls, one: End, other: End) -> float:
    a, b = walls.normal[one.wall], walls.normal[other.wall]
    return abs(float(a[0] * b[1] - a[1] * b[0]))
