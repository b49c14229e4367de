"""Outlines from pixels to a CRS of the world."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import shapely

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid
from tilesegment.vector.rings import Geometries

CRS84 = "OGC:CRS84"


def to_world(geometry: Geometries, grid: Grid, target: str | None) -> Geometries:
    """Pixel coordinates of a grid to those of `target` (a CRS; None for the grid's own); outlines
    counter-clockwise."""
    world = shapely.transform(geometry, grid.to_world)
    return np.asarray(shapely.orient_polygons(reprojected(world, grid.crs, target)))


def as_multipolygons(world: Geometries) -> Geometries:
    """All as multipolygons: some drivers take a layer's type at its word."""
    parts, owners = shapely.get_parts(world, return_index=True)
    return np.asarray(shapely.multipolygons(parts, indices=owners))


def layer_crs(own: str | None, wanted: str | None, driver: str) -> str | None:
    """The CRS of a layer as WKT or authority code; GeoJSON is always longitude, latitude (RFC 7946)."""
    if own is None:
        return None
    return CRS84 if driver.startswith("GeoJSON") else wanted or own


def reprojected(world: Geometries, source: str | None, target: str | None) -> Geometries:
    """Outlines from one CRS to another, None for the same; cut at 180 degrees where they cross it."""
    if target is None or source == target:
        return world
    return _cut_at_180(shapely.transform(world, projector(source, target)), target)


def _cut_at_180(world: Geometries, target: str) -> Geometries:
    """Outlines in degrees with longitudes of -180 to 180; those that cross 180 degrees in two parts: joined
    by their longitudes as they are, they would reach around the Earth."""
    from pyproj import CRS

    crs = CRS.from_user_input(target)
    if not crs.is_geographic:
        return world
    turn = math.tau / crs.axis_info[0].unit_conversion_factor
    half = turn / 2
    west, _, east, _ = shapely.bounds(world).T
    for index in np.flatnonzero((east - west > half) | (east > half) | (west < -half)):
        whole = world[index]
        if east[index] - west[index] > half:
            whole = shapely.transform(
                whole, lambda xy: np.column_stack([xy[:, 0] + turn * (xy[:, 0] < 0), xy[:, 1]])
            )
        whole = shapely.make_valid(whole)
        first, _, last, _ = shapely.bounds(whole)
        parts: list[shapely.Geometry] = []
        for number in range(math.floor((first + half) / turn), math.ceil((last + half) / turn)):
            left = number * turn - half
            part = shapely.intersection(whole, shapely.box(left, -turn, left + turn, turn))
            moved = shapely.transform(part, partial(np.add, [-number * turn, 0.0]))
            parts += [p for p in shapely.get_parts(moved) if p.geom_type == "Polygon"]
        world[index] = parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
    return world


def crosses_180(grid: Grid, target: str | None) -> bool:
    """Whether outlines may have to be cut at 180 degrees, so that the layer is one of multipolygons."""
    if target is None or target == grid.crs:
        return False
    height, width = grid.height, grid.width
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    lon = grid.to_lonlat(grid.to_world(corners))[:, 0]
    turns = np.floor((lon + 180) / 360)
    return bool(np.ptp(lon) > 180 or np.ptp(turns) > 0)


def projector(source: str | None, target: str) -> Any:
    """A function of points (n, 2) from one CRS to another. Raises SettingsError where there is none."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        transformer = Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise SettingsError(
            "the input's CRS is not tied to the Earth, so its outlines cannot be brought to another; name "
            "the right one with --src-crs, or write a .gpkg"
        ) from error

    def project(points: Any) -> Any:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return project


def wkt(crs: str | None) -> str | None:
    """A CRS as WKT."""
    from pyproj import CRS

    return None if crs is None else CRS.from_user_input(crs).to_wkt()


def projjson(crs: str | None) -> Any:
    """A CRS as PROJJSON, as GeoParquet has it."""
    from pyproj import CRS

    return None if crs is None else CRS.from_user_input(crs).to_json_dict()
