"""A scene as a small picture to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import from_bounds
from rasterio.warp import reproject, transform_bounds

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid, Window
from tilesegment.model.preprocess import ValueRange, in_range
from tilesegment.raster.source import Scene

_MERCATOR = "EPSG:3857"
Box = tuple[float, float, float, float]


def displayed(
    scene: Scene, values: ValueRange, region: Window, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The first three bands of a part of a scene as values 0..255 of a screen, (rows, columns, 3), and
    which pixels are valid."""
    pixels = scene.sample(region, height, width)
    shown = in_range(pixels.values, values) * 255
    shown = shown[:3] if len(shown) >= 3 else np.repeat(shown[:1], 3, axis=0)
    return np.ascontiguousarray(shown.transpose(1, 2, 0)), pixels.valid


def in_mercator(
    picture: NDArray[np.float32], valid: NDArray[np.bool_], grid: Grid
) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
    """A picture (rows, columns, 3) of what a grid with a CRS covers, of any size, as one in Web Mercator
    (rows, columns, 4), the last channel 255 where valid; and its west, south, east and north in degrees."""
    rows, cols = valid.shape
    source = grid.resized(rows, cols)
    box, degrees = mercator_bounds(grid)
    place = from_bounds(*box, cols, rows)
    bands = np.concatenate([picture.transpose(2, 0, 1), 255 * valid[None].astype(np.float32)])
    result = np.zeros((4, rows, cols), np.float32)
    reproject(
        bands, result, src_transform=source.transform, src_crs=grid.crs, dst_transform=place,
        dst_crs=_MERCATOR, resampling=Resampling.bilinear,
    )  # fmt: skip
    return np.rint(result).astype(np.uint8).transpose(1, 2, 0), degrees


def mercator_bounds(grid: Grid) -> tuple[Box, Box]:
    """Left, bottom, right and top of what a grid covers in Web Mercator, and the same in degrees. Raises
    SettingsError where its CRS cannot be brought there."""
    corners = grid.to_world(
        np.array([[0, 0], [grid.width, 0], [0, grid.height], [grid.width, grid.height]], float)
    )
    try:
        box = transform_bounds(grid.crs, _MERCATOR, *corners.min(axis=0), *corners.max(axis=0))
        return box, transform_bounds(_MERCATOR, "OGC:CRS84", *box)
    except (CPLE_BaseError, RasterioError) as error:
        raise SettingsError(f"the scene's CRS cannot be brought to Web Mercator ({error})") from error
