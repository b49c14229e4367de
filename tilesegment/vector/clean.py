"""Cleaning whole regions: holes, simplification, then the minimum area. Never before the join."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.grid import Grid
from tilesegment.settings import Measure
from tilesegment.vector.apart import Candidates
from tilesegment.vector.plane import apply
from tilesegment.vector.regularize import Rules, regularize
from tilesegment.vector.rings import Geometries, Ragged, canonical
from tilesegment.vector.seams import Features


def pixel_metric(geometry: Geometries, grid: Grid) -> NDArray[np.float64]:
    """The local map from pixels to metres at each geometry's middle, (n, 2, 2)."""
    bounds = shapely.bounds(geometry)
    middle = np.column_stack([bounds[:, [0, 2]].mean(axis=1), bounds[:, [1, 3]].mean(axis=1)])
    return grid.metric_at(middle)


def fill_holes(geometry: Geometries, below: tuple[Measure, ...], metric: NDArray[np.float64]) -> Geometries:
    """Polygons without the holes that are smaller than each measure of `below`."""
    if any(measure.value == 0 for measure in below) or not len(geometry):
        return geometry
    rings = Ragged.of(geometry)
    hole = rings.is_hole()
    if not hole.any():
        return geometry
    owner = rings.part_of_ring()
    if rings.geoms is not None:
        owner = np.repeat(np.arange(len(rings.geoms) - 1), np.diff(rings.geoms))[owner]
    pixels = np.abs(rings.signed_areas())
    square_metres = pixels * np.abs(np.linalg.det(metric))[owner]
    small = hole
    for measure in below:
        small &= (pixels if measure.pixels else square_metres) < measure.value
    return rings.without_rings(small).geometries()


def simplify(geometry: Geometries, tolerance: Measure, metric: NDArray[np.float64]) -> Geometries:
    """Outlines moved by no more than `tolerance`, valid, every vertex still a pixel corner.

    Douglas-Peucker ring by ring, in local metres, so that the tolerance means the same in every direction
    and CRS. Where a ring would collapse or cross another, that geometry is simplified anew by GEOS's
    TopologyPreservingSimplifier, which takes sixteen times as long.
    """
    if tolerance.value == 0 or not len(geometry):
        return geometry
    if tolerance.pixels:
        metric = np.broadcast_to(np.eye(2), metric.shape)
    coords, index = shapely.get_coordinates(geometry, return_index=True)
    local = shapely.set_coordinates(geometry.copy(), apply(metric[index], coords))
    local = _simplified(local, tolerance.value)
    coords, index = shapely.get_coordinates(local, return_index=True)
    # Vertices are left out, never moved: rounding restores the exact corners.
    inverse = np.asarray(np.linalg.inv(metric), np.float64)
    back = np.rint(apply(inverse[index], coords))
    return canonical(shapely.set_coordinates(local, back))


def _simplified(geometry: Geometries, tolerance: float) -> Geometries:
    whole = Ragged.of(geometry)
    lines = np.asarray(shapely.linestrings(whole.coords, indices=whole.ring_of_vertex()))
    shorter = np.asarray(shapely.simplify(lines, tolerance, preserve_topology=False))
    collapsed = shapely.get_num_coordinates(shorter) < 4
    shorter[collapsed] = lines[collapsed]
    sizes = shapely.get_num_coordinates(shorter)
    rings = np.concatenate([[0], np.cumsum(sizes)])
    result = Ragged(shapely.get_coordinates(shorter), rings, whole.parts, whole.geoms).geometries()
    owner = whole.part_of_ring()
    if whole.geoms is not None:
        owner = np.repeat(np.arange(len(whole.geoms) - 1), np.diff(whole.geoms))[owner]
    again = ~shapely.is_valid(result)
    again[owner[collapsed]] = True
    result[again] = shapely.simplify(geometry[again], tolerance, preserve_topology=True)
    return result


def areas(geometry: Geometries, unit: Measure, metric: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas in the unit of a measure: square pixels or square metres."""
    scale = 1.0 if unit.pixels else np.abs(np.linalg.det(metric))
    return np.asarray(shapely.area(geometry) * scale)


def clean(
    features: Features,
    grid: Grid,
    min_area: Measure,
    tolerance: Measure,
    holes: Measure,
    several_classes: bool = False,
) -> Features:
    """Whole regions as they are written: small holes filled, outlines simplified, small regions dropped.

    Measures in metres need a grid with a CRS. several_classes: what lies in a hole may be a region of
    another class, so that only holes below the minimum area are filled: no such region is written.
    """
    if not len(features):
        return features
    metric = pixel_metric(features.geometry, grid)
    limits = (holes, min_area) if several_classes else (holes,)
    geometry = fill_holes(features.geometry, limits, metric)
    geometry, _ = _simplified_apart(features, simplify(geometry, tolerance, metric), limits, metric)
    kept = (areas(geometry, min_area, metric) >= min_area.value) & ~shapely.is_empty(geometry)
    return replace(features, geometry=geometry, plain=None, regular=None, group=None)[kept]


def clean_regular(
    features: Features, grid: Grid, min_area: Measure, tolerance: Measure, holes: Measure, rules: Rules
) -> Candidates:
    """As `clean`, with the outlines that a feature may have: regular, simplified and as traced. Holes in
    which another feature may lie are not filled."""
    metric = pixel_metric(features.geometry, grid)
    limits = (holes, min_area)
    exact = fill_holes(features.geometry, limits, metric)
    plain, shared = _simplified_apart(features, simplify(exact, tolerance, metric), limits, metric)
    geometry = plain.copy()
    state, deviation = np.zeros(len(features), np.uint8), np.zeros(len(features))
    if features.regular is not None and features.state is not None and features.deviation is not None:
        geometry[shared] = fill_holes(features.regular[shared], limits, metric[shared])
        state[shared], deviation[shared] = features.state[shared], features.deviation[shared]
    found = regularize(exact[~shared], plain[~shared], metric[~shared], rules)
    geometry[~shared], state[~shared], deviation[~shared] = found.geometry, found.state, found.deviation
    kept = areas(geometry, min_area, metric) >= min_area.value
    regular = replace(
        features, geometry=geometry, plain=plain, regular=None, state=state, deviation=deviation
    )
    return Candidates(regular[kept], exact[kept])


def _simplified_apart(
    features: Features, geometry: Geometries, holes: tuple[Measure, ...], metric: NDArray[np.float64]
) -> tuple[Geometries, NDArray[np.bool_]]:
    """Simplified outlines, those of features that share walls as they were simplified with their
    neighbours, and which these are."""
    shared = np.zeros(len(features), np.bool_)
    if features.plain is None:
        return geometry, shared
    shared = np.array([shape is not None for shape in features.plain], np.bool_)
    geometry = geometry.copy()
    geometry[shared] = fill_holes(features.plain[shared], holes, metric[shared])
    return geometry, shared
