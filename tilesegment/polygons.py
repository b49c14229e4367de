"""Very many polygons in little memory: their coordinates in one array, made into geometries when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Geometries made in one go.
_CHUNK = 50_000


@dataclass(frozen=True)
class Polygons:
    """Polygons and multipolygons, some 150 bytes each for houses; shapely's own take three times as much.

    coords: (m, 2); rings, parts, whole: offsets of rings in coords, of polygons in rings, of geometries in
    polygons (GeoArrow's layout of multipolygons). bounds: (n, 4); area: (n,).
    """

    coords: Floats
    rings: Ints
    parts: Ints
    whole: Ints
    bounds: Floats
    area: Floats

    def __len__(self) -> int:
        return len(self.whole) - 1

    @classmethod
    def of(cls, geometry: NDArray[Any]) -> Polygons:
        """From shapely's geometries, (n,)."""
        return cls.joined(
            [cls._of_batch(geometry[k : k + _CHUNK]) for k in range(0, len(geometry), _CHUNK)]
        )

    @classmethod
    def _of_batch(cls, geometry: NDArray[Any]) -> Polygons:
        several = np.asarray(shapely.get_type_id(geometry) == shapely.GeometryType.MULTIPOLYGON)
        parts, owner = shapely.get_parts(geometry, return_index=True)
        if not len(parts):
            raise ValueError("a batch of polygons holds at least one")
        _, coords, (rings, of_part) = shapely.to_ragged_array(parts, include_z=False)
        counts = np.bincount(owner, minlength=len(several))
        whole = np.concatenate([[0], np.cumsum(counts)])
        return cls(
            np.ascontiguousarray(coords), rings.astype(np.int64), of_part.astype(np.int64), whole,
            np.asarray(shapely.bounds(geometry)), np.asarray(shapely.area(geometry)),
        )  # fmt: skip

    @classmethod
    def joined(cls, batches: Iterable[Polygons]) -> Polygons:
        """Several one after another."""
        found = list(batches)
        if not found:
            none = np.zeros(1, np.int64)
            return cls(np.zeros((0, 2)), none, none, none, np.zeros((0, 4)), np.zeros(0))

        def offsets(name: str) -> Ints:
            shifted, begin = [np.zeros(1, np.int64)], 0
            for batch in found:
                own = getattr(batch, name)
                shifted.append(own[1:] + begin)
                begin += int(own[-1])
            return np.concatenate(shifted)

        return cls(
            np.concatenate([batch.coords for batch in found]),
            offsets("rings"), offsets("parts"), offsets("whole"),
            np.concatenate([batch.bounds for batch in found]),
            np.concatenate([batch.area for batch in found]),
        )  # fmt: skip

    def _taken(self, index: Ints) -> tuple[Floats, Ints, Ints, Ints]:
        polygons, whole = _gather(self.whole, index)
        rings, parts = _gather(self.parts, polygons)
        coords, starts = _gather(self.rings, rings)
        return self.coords[coords], starts, parts, whole

    def take(self, index: NDArray[Any]) -> NDArray[np.object_]:
        """Geometries of some, (k,) of multipolygons. index: numbers, or a mask."""
        numbers = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        coords, rings, parts, whole = self._taken(numbers)
        if not len(numbers):
            return np.zeros(0, object)
        kind = shapely.GeometryType.MULTIPOLYGON
        return np.asarray(shapely.from_ragged_array(kind, coords, (rings, parts, whole)), object)

    def chosen(self, index: NDArray[Any]) -> Polygons:
        """Some of them. index: numbers, or a mask."""
        numbers = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        if len(numbers) == len(self) and (np.diff(numbers) == 1).all():
            return self
        return Polygons(*self._taken(numbers), self.bounds[numbers], self.area[numbers])

    def moved(self, move: Callable[[Floats], Floats]) -> Polygons:
        """With other coordinates. move: (m, 2) to (m, 2)."""
        parts = [move(self.coords[k : k + 20 * _CHUNK]) for k in range(0, len(self.coords), 20 * _CHUNK)]
        coords = np.concatenate(parts) if parts else self.coords
        bare = Polygons(coords, self.rings, self.parts, self.whole, self.bounds, self.area)
        bounds, area = np.zeros((len(self), 4)), np.zeros(len(self))
        for begin in range(0, len(self), _CHUNK):
            index = np.arange(begin, min(begin + _CHUNK, len(self)))
            geometry = bare.take(index)
            bounds[index], area[index] = shapely.bounds(geometry), shapely.area(geometry)
        return Polygons(coords, self.rings, self.parts, self.whole, bounds, area)

    def touching(self, box: tuple[float, float, float, float]) -> Ints:
        """Those whose bounds meet a box (left, bottom, right, top), ascending."""
        left, bottom, right, top = box
        low, high = self.bounds[:, :2], self.bounds[:, 2:]
        return np.flatnonzero(
            (low[:, 0] <= right) & (high[:, 0] >= left) & (low[:, 1] <= top) & (high[:, 1] >= bottom)
        )

    @property
    def total_bounds(self) -> tuple[float, float, float, float] | None:
        """Left, bottom, right, top of all; None for none."""
        if not len(self):
            return None
        low, high = self.bounds[:, :2].min(axis=0), self.bounds[:, 2:].max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def centres(self) -> Floats:
        """Middles of the bounds, (n, 2)."""
        return np.asarray((self.bounds[:, :2] + self.bounds[:, 2:]) / 2, np.float64)


def _gather(offsets: Ints, index: Ints) -> tuple[Ints, Ints]:
    """The members of some groups, and the offsets of these groups among them. offsets: (groups + 1,)."""
    starts = offsets[index]
    lengths = offsets[index + 1] - starts
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1]), ends


def in_order_of_place(centres: Floats) -> Ints:
    """Indices that go through the plane so that neighbours stay near: by strips, and along each."""
    if not len(centres):
        return np.zeros(0, np.int64)
    low, high = centres.min(axis=0), centres.max(axis=0)
    strips = max(1, int((len(centres) / _CHUNK) ** 0.5))
    strip = np.minimum(
        ((centres[:, 1] - low[1]) / max(high[1] - low[1], 1e-12) * strips).astype(np.int64), strips - 1
    )
    return np.lexsort((centres[:, 0], strip))
