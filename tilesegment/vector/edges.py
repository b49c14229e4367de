"""Unit edges: outlines along pixel edges as the steps that they are made of, and what probabilities say
about where each really lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilesegment.vector.rings import IntArray, Ragged, offsets_of

FloatArray = NDArray[np.float64]

# Pixels that an edge moves at most: to just short of the centres of the pixels beside it.
_MOST_SHIFT = 0.48
# Pixel edges of a chord that gives a direction: shorter ones are those of stairs.
_CHORD = 4

# Probabilities, 0..254 or 255 for unknown, of pixels at (rows, columns).
ReadPixels = Callable[[IntArray, IntArray], NDArray[np.uint8]]


@dataclass(frozen=True)
class Edges:
    """Unit edges of rings: begins: (r + 1,) offsets by ring; middle, step, outward: (n, 2) middle,
    direction along the ring and direction away from the region."""

    begins: IntArray
    middle: FloatArray
    step: FloatArray
    outward: FloatArray

    def only(self, rings: NDArray[np.bool_]) -> tuple[Edges, NDArray[np.bool_]]:
        """The edges of some rings, and which they are."""
        sizes = np.diff(self.begins)
        kept = np.repeat(rings, sizes)
        return (
            Edges(offsets_of(sizes[rings]), self.middle[kept], self.step[kept], self.outward[kept]),
            kept,
        )


def unit_edges(outlines: Ragged) -> Edges:
    """The steps of outlines along pixel edges, in order."""
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
    return Edges(begins, middle, unit[at], outward)


def shifts_of(edges: Edges, read: ReadPixels | None, threshold: int) -> FloatArray:
    """How far each edge is from where the probability crosses the threshold, in pixels outwards, by linear
    interpolation between the two pixels beside it."""
    if read is None:
        return np.zeros(len(edges.middle))
    sides = []
    for sign in (-0.5, 0.5):
        pixel = np.floor(edges.middle + sign * edges.outward).astype(np.int64)
        sides.append(read(pixel[:, 1], pixel[:, 0]).astype(np.float64))
    inner, outer = sides
    level = threshold - 0.5
    known = (inner > level) & (outer < level)
    share = (inner - level) / np.where(known, inner - outer, 1.0)
    return np.where(known, np.clip(share - 0.5, -_MOST_SHIFT, _MOST_SHIFT), 0.0)


def directions_of(
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
