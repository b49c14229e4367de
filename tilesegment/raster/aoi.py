"""Areas of interest: a vector file or a box, as a mask on the working grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid, Window


def read_aoi(path: str, grid: Grid) -> shapely.Geometry:
    """The union of a vector file's areas, in pixel coordinates of the grid.

    Raises InputError where the file cannot be read or holds no area; SettingsError without a CRS.
    """
    areas = read_polygons(path, grid, "--aoi ")
    if not len(areas):
        raise InputError(f"--aoi {path}: holds no polygon")
    return shapely.union_all(areas)


def read_polygons(path: str, grid: Grid, asked: str = "") -> NDArray[Any]:
    """A vector file's polygons and multipolygons, valid, in pixel coordinates of the grid (n,).
    asked: what messages say before the path.

    Raises InputError where the file cannot be read; SettingsError where the grid has no CRS.
    """
    import geopandas
    from pyogrio.errors import DataLayerError, DataSourceError

    if grid.crs is None:
        raise SettingsError(f"{asked}{path}: areas need a scene with a CRS")
    try:
        if path.endswith(".parquet"):
            frame = geopandas.read_parquet(path)
        else:
            frame = geopandas.read_file(path, columns=[])
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        raise InputError(f"{asked}{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.crs is None:
        raise InputError(f"{asked}{path}: holds no geometry with a CRS")
    frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"])]
    areas = shapely.make_valid(frame.to_crs(grid.crs).geometry.to_numpy())
    return np.asarray(shapely.transform(areas[~shapely.is_empty(areas)], grid.to_pixel))


def region_of(area: shapely.Geometry, grid: Grid) -> Window:
    """The smallest window that holds an area given in pixel coordinates.

    Raises InputError where it lies wholly outside the grid.
    """
    left, top, right, bottom = shapely.bounds(area)
    # A border that lies on a pixel edge but for rounding must not take in a row more.
    row, col = int(np.floor(top + 1e-6)), int(np.floor(left + 1e-6))
    row_end, col_end = int(np.ceil(bottom - 1e-6)), int(np.ceil(right - 1e-6))
    window = Window(row, col, max(1, row_end - row), max(1, col_end - col)).intersection(grid.window)
    if window is None:
        raise InputError("the area asked for lies outside the scene")
    return window


def box_region(bbox: tuple[float, float, float, float], grid: Grid) -> Window:
    """The window of (left, bottom, right, top) in the grid's CRS.

    Raises SettingsError for an empty box, InputError where it lies outside the grid.
    """
    left, bottom, right, top = bbox
    if not (left < right and bottom < top):
        raise SettingsError(f"--bbox {left:g},{bottom:g},{right:g},{top:g}: write left,bottom,right,top")
    return region_of(shapely.transform(shapely.box(*bbox), grid.to_pixel), grid)


def inside_aoi(aoi: bytes, window: Window) -> NDArray[np.bool_]:
    """Which pixels of a window have their centre inside an area (WKB in pixel coordinates)."""
    from rasterio.features import geometry_mask

    area = shapely.from_wkb(aoi)
    shape = (window.height, window.width)
    if not shapely.box(window.col, window.row, window.col_end, window.row_end).intersects(area):
        return np.zeros(shape, np.bool_)
    transform = Affine.translation(window.col, window.row)
    return np.asarray(geometry_mask([area], shape, transform, invert=True))
