"""Outlines from pixels to a CRS of the world."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid
from tilesegment.vector.rings import Geometries


def to_world(geometry: Geometries, grid: Grid, target: str | None) -> Geometries:
    """Pixel coordinates of a grid to those of `target` (a CRS; None for the grid's own); outlines
    counter-clockwise."""
    world = shapely.transform(geometry, grid.to_world)
    if target is not None and target != grid.crs:
        world = shapely.transform(world, projector(grid.crs, target))
        if not target.startswith("OGC:"):
            # GDAL does so itself where it writes GeoJSON.
            world = _cut_at_180(world, target)
    return np.asarray(shapely.orient_polygons(world))


def _cut_at_180(world: Geometries, target: str) -> Geometries:
    """Outlines in degrees that cross 180 degrees, in two parts: joined by their longitudes as they are,
    they would reach around the Earth."""
    from pyproj import CRS

    crs = CRS.from_user_input(target)
    if not crs.is_geographic:
        return world
    turn = math.tau / crs.axis_info[0].unit_conversion_factor
    bounds = shapely.bounds(world)
    for index in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > turn / 2):
        east = shapely.transform(
            world[index], lambda xy: np.column_stack([xy[:, 0] + turn * (xy[:, 0] < 0), xy[:, 1]])
        )
        parts = [
            shapely.intersection(shapely.make_valid(east), shapely.box(left, -turn, left + turn / 2, turn))
            for left in (0, turn / 2)
        ]
        parts[1] = shapely.transform(parts[1], lambda xy: xy - [turn, 0])
        world[index] = shapely.multipolygons(
            [p for p in shapely.get_parts(np.array(parts)) if p.geom_type == "Polygon"]
        )
    return world


def crosses_180(grid: Grid, target: str | None) -> bool:
    """Whether outlines may have to be cut at 180 degrees, so that the layer is one of multipolygons."""
    if target is None or target == grid.crs or target.startswith("OGC:"):
        return False
    height, width = grid.height, grid.width
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    lon = grid.to_lonlat(grid.to_world(corners))[:, 0]
    return bool(np.ptp(lon) > 180)


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
