"""Areas of interest: a vector file or a box, as a mask on the working grid."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from tilesegment.atomic import only_read
from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid, Window

# Points along each side of a grid that its surroundings are found from, and along those of areas.
_LATTICE = 64
_HALF_TURN = 180.0
_log = logging.getLogger("tilesegment")


def read_aoi(path: str, grid: Grid) -> shapely.Geometry:
    """The union of a vector file's areas, in pixel coordinates of the grid.

    Raises InputError where the file cannot be read or holds no area; SettingsError without a CRS.
    """
    areas = read_polygons(path, grid, "--aoi ")
    if not len(areas):
        raise InputError(f"--aoi {path}: holds no polygon on the scene")
    return shapely.union_all(areas)


def read_polygons(path: str, grid: Grid, asked: str = "") -> NDArray[Any]:
    """A vector file's polygons and multipolygons as far as they lie on or near a grid, valid, in its pixel
    coordinates (n,). asked: what messages say before the path.

    They are cut to the surroundings of the grid in the file's own CRS, and get points along their sides,
    before they are projected: the sides of an area that is given in degrees by four corners are no straight
    lines elsewhere, and its corners may lie where the grid's CRS has no coordinates.

    Raises InputError where the file cannot be read; SettingsError where the grid has no CRS.
    """
    import geopandas
    from pyogrio.errors import DataLayerError, DataSourceError
    from pyproj.exceptions import ProjError

    if grid.crs is None:
        raise SettingsError(f"{asked}{path}: areas need a scene with a CRS")
    try:
        if path.lower().endswith((".parquet", ".geoparquet")):
            frame = geopandas.read_parquet(path)
        else:
            with only_read():
                frame = geopandas.read_file(path, columns=[], layer=_layer_of(path))
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        raise InputError(f"{asked}{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(frame, geopandas.GeoDataFrame) or frame.crs is None:
        raise InputError(f"{asked}{path}: holds no geometry with a CRS")
    areas = _areas_of(frame.geometry.to_numpy())
    if not np.isfinite(shapely.get_coordinates(areas)).all():
        raise InputError(f"{asked}{path}: holds coordinates that are no numbers")
    try:
        near = _near(shapely.make_valid(areas), grid, frame.crs)
        found = shapely.transform(near, _to_grid(frame.crs, grid))
    except ProjError as error:
        raise InputError(f"{asked}{path}: its CRS and the scene's cannot be related") from error
    if not np.isfinite(shapely.get_coordinates(found)).all():
        raise InputError(f"{asked}{path}: cannot be brought to the scene's CRS")
    found = shapely.make_valid(found)
    return np.asarray(_areas_of(found))


def _layer_of(path: str) -> str | None:
    """The first layer that holds areas: KML has a layer a folder, and GeoPackages have layers of notes."""
    import pyogrio

    kinds = {str(name): str(kind or "") for name, kind in pyogrio.list_layers(path)}
    areal = [name for name, kind in kinds.items() if re.search("Polygon|Surface|Collection|Unknown", kind)]
    if len(areal) > 1:
        areal = [name for name in areal if _has_areas(path, name)] or areal
    if len(areal) > 1:
        _log.warning("%s: the first of its layers of areas is read (%s)", path, ", ".join(areal))
    return next(iter([*areal, *kinds]), None)


def _has_areas(path: str, layer: str) -> bool:
    import pyogrio

    frame = pyogrio.read_dataframe(path, columns=[], layer=layer, max_features=1000)
    return bool(len(_areas_of(frame.geometry.to_numpy())))


def _areas_of(geometry: NDArray[Any]) -> NDArray[Any]:
    """Polygons and multipolygons, those inside collections too; other geometries are left out."""
    geometry = geometry[~(shapely.is_missing(geometry) | shapely.is_empty(geometry))]
    kinds = shapely.get_type_id(geometry)
    while (kinds == shapely.GeometryType.GEOMETRYCOLLECTION).any():
        inside = kinds == shapely.GeometryType.GEOMETRYCOLLECTION
        geometry = np.concatenate([geometry[~inside], shapely.get_parts(geometry[inside])])
        kinds = shapely.get_type_id(geometry)
    areal = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
    return np.asarray(geometry[np.isin(kinds, areal)])


def _near(areas: NDArray[Any], grid: Grid, crs: Any) -> NDArray[Any]:
    """Areas in their own CRS, cut to the surroundings of a grid, with points along their sides."""
    rows, cols = (np.linspace(0, size, _LATTICE) for size in (grid.height, grid.width))
    lattice = np.stack(np.meshgrid(cols, rows), axis=-1).reshape(-1, 2)
    world = grid.to_world(lattice)
    x, y = _transformer(grid.crs, crs).transform(world[:, 0], world[:, 1])
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise InputError("the scene lies outside the area that the CRS of the polygons is defined for")
    x, y = x[known], y[known]
    shifts = [0.0]
    if crs.is_geographic and x.max() - x.min() > _HALF_TURN:
        # The scene lies across the antimeridian, or around a pole: degrees go on beyond 180 there.
        x = np.where(x < 0, x + 2 * _HALF_TURN, x)
        shifts = [0.0, 2 * _HALF_TURN]
    across, up = max(np.ptp(x), 1e-9), max(np.ptp(y), 1e-9)
    left, right = x.min() - across, x.max() + across
    bottom, top = y.min() - up, y.max() + up
    if crs.is_geographic:
        bottom, top = max(bottom, -90.0), min(top, 90.0)
    box = shapely.box(left, bottom, right, top)
    moved = np.concatenate([shapely.transform(areas, partial(np.add, [shift, 0.0])) for shift in shifts])
    cut = _areas_of(np.asarray(shapely.intersection(moved[shapely.intersects(moved, box)], box)))
    return np.asarray(shapely.segmentize(cut, max(across, up) / _LATTICE))


def _to_grid(crs: Any, grid: Grid) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    transformer = _transformer(crs, grid.crs)

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return grid.to_pixel(np.column_stack(transformer.transform(points[:, 0], points[:, 1])))

    return move


def _transformer(source: Any, target: Any) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


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
    if not (left < right and bottom < top and np.isfinite(bbox).all()):
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
