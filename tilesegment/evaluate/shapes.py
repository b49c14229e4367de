"""How well the outline of a found object follows that of the true one."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.polygons import Floats, Polygons

# Tangents are compared along the outline at this distance, and a stretch is trusted whose projection is at
# most twice as long or as short (Girard et al. 2021, arXiv 2004.14875, and their evaluation code).
TANGENT_METRES = 0.5
_MOST_STRETCH = 2.0
# An edge is orthogonal within this many degrees of the main axis or of its perpendicular; angles are
# counted in steps, 180 of them to a right angle.
_ORTHOGONAL_DEGREES = 5.0
_STEP_DEGREES = 0.5
_STEPS = 180
# Outlines that are sampled in one go, and polygons whose angles are counted.
_SAMPLED = 500
_CHUNK = 5_000


def vertices(geometry: NDArray[np.object_]) -> Floats:
    """Vertices of each geometry, rings counted without their closing one: (n,)."""
    counts = np.asarray(shapely.get_num_coordinates(geometry), np.float64)
    parts, index = shapely.get_parts(geometry, return_index=True)
    rings = shapely.get_num_interior_rings(parts) + (~shapely.is_empty(parts))
    return counts - np.bincount(index, rings, len(geometry))


def complexity_iou(predicted: NDArray[np.object_], truth: NDArray[np.object_], iou: Floats) -> Floats:
    """C-IoU of matched pairs, IoU x (1 - |n - m| / (n + m)) with the numbers of vertices n and m (Zorzi et
    al. 2022, arXiv 2111.15491, section 4.2): (pairs,)."""
    one, other = vertices(predicted), vertices(truth)
    return iou * (1 - np.abs(one - other) / (one + other))


def vertex_ratio(predicted: NDArray[np.object_], truth: NDArray[np.object_]) -> float:
    """N-ratio: vertices of all matched predictions by those of their true objects (Zorzi et al. 2022)."""
    there = vertices(truth).sum()
    return float(vertices(predicted).sum() / there) if there else float("nan")


def polis(predicted: NDArray[np.object_], truth: NDArray[np.object_]) -> Floats:
    """PoLiS distance of matched pairs in the plane's unit: the mean distance of each one's vertices to the
    other's outline, averaged over both directions (Avbelj et al. 2015, doi 10.1109/LGRS.2014.2330695, eq.
    2): (pairs,)."""
    return (_mean_distance(predicted, truth) + _mean_distance(truth, predicted)) / 2


def _mean_distance(of: NDArray[np.object_], to: NDArray[np.object_]) -> Floats:
    points, index = _corners(of)
    lines = shapely.boundary(to)
    shapely.prepare(lines)
    distance = shapely.distance(lines[index], shapely.points(points))
    return np.bincount(index, distance, len(of)) / np.bincount(index, minlength=len(of))


def _corners(geometry: NDArray[np.object_]) -> tuple[Floats, NDArray[np.int64]]:
    """All vertices (m, 2) without the closing ones, and the geometry that each belongs to."""
    rings, of_ring = _rings(geometry)
    coords, index = shapely.get_coordinates(rings, return_index=True)
    last = np.append(index[1:] != index[:-1], True) if len(index) else np.zeros(0, np.bool_)
    return coords[~last], of_ring[index[~last]]


def _rings(geometry: NDArray[np.object_]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """All rings, and the geometry that each belongs to."""
    parts, of_part = shapely.get_parts(geometry, return_index=True)
    rings, of_ring = shapely.get_rings(parts, return_index=True)
    return rings, of_part[of_ring]


def tangent_angle(
    predicted: NDArray[np.object_], truth: NDArray[np.object_], spacing: float = TANGENT_METRES
) -> Floats:
    """The largest angle in degrees between a predicted outline and the true one at the nearest place, 0..90
    (max tangent angle error, Girard et al. 2021): (pairs,), NaN where no stretch can be compared."""
    parts = [
        _tangents(predicted[k : k + _SAMPLED], truth[k : k + _SAMPLED], spacing)
        for k in range(0, len(predicted), _SAMPLED)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _tangents(predicted: NDArray[np.object_], truth: NDArray[np.object_], spacing: float) -> Floats:
    rings, owner = _rings(predicted)
    coords, index = shapely.get_coordinates(shapely.segmentize(rings, spacing), return_index=True)
    lines = shapely.boundary(truth)
    nearest = shapely.get_coordinates(
        shapely.get_point(shapely.shortest_line(lines[owner[index]], shapely.points(coords)), 0)
    )
    within = index[1:] == index[:-1]
    edge, image = np.diff(coords, axis=0)[within], np.diff(nearest, axis=0)[within]
    pair = owner[index[1:][within]]
    length, mapped = np.hypot(*edge.T), np.hypot(*image.T)
    usable = (length > 0) & (mapped > 0)
    usable &= (length < _MOST_STRETCH * mapped) & (mapped < _MOST_STRETCH * length)
    cosine = np.abs((edge * image).sum(axis=1)[usable]) / (length * mapped)[usable]
    largest = np.full(len(predicted), np.nan)
    np.fmax.at(largest, pair[usable], np.degrees(np.arccos(np.minimum(cosine, 1.0))))
    return largest


def orthogonality(polygons: Polygons) -> float:
    """Share of all edge length that lies within 5 degrees, to half a degree, of its polygon's main axis or
    its perpendicular; NaN for nothing. The main axis is the one for which that share is largest."""
    along = total = 0.0
    for begin in range(0, len(polygons), _CHUNK):
        rings, owner = _rings(polygons.take(np.arange(begin, min(begin + _CHUNK, len(polygons)))))
        coords, index = shapely.get_coordinates(rings, return_index=True)
        within = index[1:] == index[:-1]
        edge = np.diff(coords, axis=0)[within]
        length = np.hypot(*edge.T)
        angle = np.degrees(np.arctan2(edge[:, 1], edge[:, 0])) % 90
        step = np.rint(angle / _STEP_DEGREES).astype(np.int64) % _STEPS
        cells = owner[index[1:][within]] * _STEPS + step
        by_angle = np.bincount(cells, length, _CHUNK * _STEPS).reshape(_CHUNK, _STEPS)
        # Sums over a window of angles, which go round from 90 degrees to 0.
        reach = int(_ORTHOGONAL_DEGREES / _STEP_DEGREES)
        around = np.concatenate([by_angle[:, -reach:], by_angle, by_angle[:, :reach]], axis=1)
        summed = np.cumsum(np.pad(around, ((0, 0), (1, 0))), axis=1)
        along += float((summed[:, 2 * reach + 1 :] - summed[:, :_STEPS]).max(axis=1).sum())
        total += float(length.sum())
    return along / total if total else float("nan")
