"""Planes of their own for polygons: from pixels to metres around a point of each, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.vector.rings import Geometries

FloatArray = NDArray[np.float64]


def in_metres(geometry: Geometries, metric: FloatArray, origin: FloatArray) -> Geometries:
    """Copies in metres from a point of each. metric: (n, 2, 2); origin: (n, 2) in pixels."""
    coords, index = shapely.get_coordinates(geometry, return_index=True)
    local = apply(metric[index], coords - origin[index])
    return np.asarray(shapely.set_coordinates(geometry.copy(), local))


def in_pixels(geometry: Geometries, metric: FloatArray, origin: FloatArray) -> Geometries:
    """The way back, of the geometries themselves, normalised."""
    coords, index = shapely.get_coordinates(geometry, return_index=True)
    back = np.asarray(np.linalg.inv(metric), np.float64)
    coords = apply(back[index], coords) + origin[index]
    return np.asarray(shapely.normalize(shapely.set_coordinates(geometry, coords)))


def apply(matrices: FloatArray, points: FloatArray) -> FloatArray:
    """Each point (n, 2) by its own matrix (n, 2, 2)."""
    return np.asarray(np.einsum("nij,nj->ni", matrices, points))


def turned(points: FloatArray, angle: Any) -> FloatArray:
    """Points turned around the origin by an angle, one for all or for each."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.column_stack(
        [points[:, 0] * cos - points[:, 1] * sin, points[:, 0] * sin + points[:, 1] * cos]
    )
