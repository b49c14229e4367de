"""Keeping polygons apart: a regular outline may leave the pixels it was traced from, and so meet another.

What was traced never overlaps. So a polygon that would cover a neighbour's pixels, or meet a neighbour in
the gap between them, takes its simplified outline, and where that meets one too, the traced one. This is
settled in three rounds, each of them for all polygons at once; what becomes of one depends on nothing that
is further than three neighbours away (parts of one region, which change together, count as one), and so
neither on blocks nor on batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.gate import State
from tilesegment.vector.rings import Geometries, IntArray
from tilesegment.vector.seams import Features

_REGULAR, _PLAIN, _EXACT = range(3)
_ROUNDS = 3
# Interiors that have a point in common.
_OVERLAP = "T********"


@dataclass(frozen=True)
class Candidates:
    """Features with the outlines that each may have: its own, simplified (`features.plain`), as traced
    (exact)."""

    features: Features
    exact: Geometries

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: NDArray[np.generic]) -> Candidates:
        return Candidates(self.features[index], self.exact[index])

    @property
    def plain(self) -> Geometries:
        """Simplified outlines."""
        if self.features.plain is None:
            raise ValueError("features without simplified outlines")
        return self.features.plain

    @classmethod
    def concatenate(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of them in one value, in order."""
        return cls(
            Features.concatenate([part.features for part in parts]),
            np.concatenate([part.exact for part in parts]),
        )


def kept_apart(batches: Iterator[Candidates], grid_width: int, reach: float) -> Iterator[Features]:
    """The features of all batches, in their order, none overlapping another.

    batches: in ascending order of the first pixel, in all and each; grid_width: of the whole grid; reach:
    pixels that an outline can lie outside of those that it was traced from. In memory are the features that
    another one further down may still touch, and those behind them.
    """
    held: Candidates | None = None
    # So many of `held` were handed out.
    given = 0
    for batch in batches:
        if not len(batch):
            continue
        held = batch if held is None else Candidates.concatenate([held, batch])
        # Whatever comes later begins no higher than this.
        row = int(batch.features.first_pixel[-1]) // grid_width
        around = _boxes(held)
        pairs = _pairs(around)
        group = _groups(held)
        unsure = _whole_groups(around[:, 3] >= row - reach, group)
        for _ in range(_ROUNDS):
            unsure = _whole_groups(_with_neighbours(unsure, pairs), group)
        settled = _settled(held, pairs)
        ready = given + int(np.argmax(unsure[given:])) if unsure[given:].any() else len(held)
        yield settled[np.arange(given, ready)]
        # What was handed out goes once nothing that waits is near enough to look at it.
        needed = np.arange(len(held)) >= ready
        for _ in range(_ROUNDS):
            needed = _whole_groups(_with_neighbours(needed, pairs) | unsure, group)
        given = int((needed[:ready]).sum())
        held = held[needed]
    if held is not None:
        yield _settled(held, _pairs(_boxes(held)))[np.arange(given, len(held))]


def _boxes(held: Candidates) -> NDArray[np.float64]:
    """Left, top, right, bottom around every outline that each may have."""
    bounds = np.stack(
        [shapely.bounds(shapes) for shapes in (held.features.geometry, held.plain, held.exact)]
    )
    return np.column_stack([bounds[..., :2].min(axis=0), bounds[..., 2:].max(axis=0)])


def _pairs(boxes: NDArray[np.float64]) -> IntArray:
    """Pairs (2, n) of features whose boxes meet, each once."""
    shapes = np.asarray(shapely.box(*boxes.T), object)
    found = shapely.STRtree(shapes).query(shapes)
    return np.asarray(found[:, found[0] < found[1]], np.int64)


def _with_neighbours(chosen: NDArray[np.bool_], pairs: IntArray) -> NDArray[np.bool_]:
    result = chosen.copy()
    result[pairs[0][chosen[pairs[1]]]] = True
    result[pairs[1][chosen[pairs[0]]]] = True
    return result


def _groups(held: Candidates) -> IntArray:
    """Numbers from 0, equal for parts of one region."""
    group = held.features.group
    if group is None:
        return np.arange(len(held))
    return np.asarray(np.unique(group, return_inverse=True)[1].reshape(-1), np.int64)


def _whole_groups(chosen: NDArray[np.bool_], group: IntArray) -> NDArray[np.bool_]:
    """With all members of the groups that one is chosen of."""
    any_of = np.zeros(len(chosen), np.bool_)
    any_of[group[chosen]] = True
    return np.asarray(any_of[group], np.bool_)


def _settled(held: Candidates, pairs: IntArray) -> Features:
    """The features with outlines that do not overlap."""
    features = held.features
    if features.state is None or features.deviation is None:
        raise ValueError("features that were not regularised")
    outlines = np.stack([features.geometry, held.plain, held.exact])
    number = np.arange(len(held))
    # Parts of one region fit each other as long as all have outlines of one kind.
    group = _groups(held)
    level = np.where(_whole_groups(features.state == State.YES, group), _REGULAR, _PLAIN)
    one, other = pairs[:, group[pairs[0]] != group[pairs[1]]]
    allowed = np.ones((3, len(held)), np.bool_)
    for kind in (_REGULAR, _PLAIN):
        for here, there in ((one, other), (other, one)):
            meets = _overlap(outlines[kind, here], held.exact[there])
            allowed[kind, here[meets]] = False
    # Whoever may not have the one he has takes the next that he may.
    level = _next_allowed(level, allowed, group)
    # Of two that meet regular ones step back, else both.
    meets = _overlap(outlines[level[one], one], outlines[level[other], other])
    regular = (level[one] == _REGULAR) | (level[other] == _REGULAR)
    moves = np.zeros(len(held), np.bool_)
    for side in (one, other):
        moves[side[meets & ((level[side] == _REGULAR) | ~regular)]] = True
    level = _next_allowed(np.minimum(level + moves, _EXACT), allowed, group)
    # Whoever still meet take what was traced, which is clear of everything that is allowed.
    meets = _overlap(outlines[level[one], one], outlines[level[other], other])
    moves = np.zeros(len(held), np.bool_)
    moves[one[meets]] = moves[other[meets]] = True
    level = np.where(_whole_groups(moves, group), _EXACT, level)
    lost = (features.state == State.YES) & (level != _REGULAR)
    return replace(
        features,
        geometry=outlines[level, number],
        state=np.where(lost, np.uint8(State.OVERLAP), features.state),
        deviation=np.where(lost, 0.0, features.deviation),
    )


def _next_allowed(level: IntArray, allowed: NDArray[np.bool_], group: IntArray) -> IntArray:
    """The first level that is allowed, from each one's own on; one for a whole group."""
    number = np.arange(len(level))
    for _ in range(_EXACT + 1):
        level = np.where(allowed[level, number], level, level + 1)
        highest = np.zeros(len(level), np.int64)
        np.maximum.at(highest, group, level)
        level = highest[group]
    return level


def _overlap(one: Geometries, other: Geometries) -> NDArray[np.bool_]:
    found = np.asarray(shapely.intersects(one, other), np.bool_)
    found[found] = shapely.relate_pattern(one[found], other[found], _OVERLAP)
    return found
