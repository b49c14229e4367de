"""Scenes that a caller holds as values: open data sets and arrays, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import require_crs
from tilesegment.raster.opening import first_line, open_file

# Channels of a picture, which some libraries have last.
_CHANNELS = (1, 3, 4)


def is_value(source: Any) -> bool:
    """Whether a source is an open data set or an array, and no path."""
    return isinstance(source, np.ndarray | rasterio.io.DatasetReaderBase | rasterio.vrt.WarpedVRT)


def as_file(source: Any, transform: Any, crs: str | None, folder: Path) -> str:
    """A path of a scene's pixels.

    source: a data set that rasterio has open for reading, of whatever kind (also in memory, or warped), or
    an array of (bands, rows, columns) or (rows, columns), masked where nothing is to be seen. transform:
    of an array's pixels to coordinates of crs; without them it is a picture. folder: for a file of the
    pixels, where no other process could open the data set by its name.

    Raises SettingsError for what is no scene, InputError where it cannot be read.
    """
    path = folder / "scene.tif"
    if isinstance(source, np.ndarray):
        _write_array(path, source, transform, crs)
        return str(path)
    if transform is not None or crs is not None:
        raise SettingsError("transform and crs are for arrays; a data set has its own")
    if source.mode != "r":
        raise SettingsError(f"{source.name}: is open for writing; close it first, and give its path")
    if not isinstance(source, rasterio.vrt.WarpedVRT) and _opens_alike(source):
        return str(source.name)
    try:
        rasterio.shutil.copy(source, path, driver="GTiff", BIGTIFF="IF_SAFER", TILED="YES")
    except RasterioError as error:
        raise InputError(f"{source.name}: cannot be read ({first_line(error)})") from error
    return str(path)


def _opens_alike(source: Any) -> bool:
    """Whether another process that opens a data set by its name sees the same."""
    if str(source.name).startswith("/vsimem/"):
        return False
    try:
        with open_file(source.name) as other:
            return str(dict(other.profile)) == str(dict(source.profile))
    except RasterioError:
        return False


def _write_array(path: Path, values: NDArray[Any], transform: Any, crs: str | None) -> None:
    bands = values[None] if values.ndim == 2 else values
    if bands.ndim != 3 or 0 in bands.shape:
        raise SettingsError(f"array of shape {values.shape}: use (bands, rows, columns) or (rows, columns)")
    if bands.shape[2] in _CHANNELS and bands.shape[0] > max(_CHANNELS):
        raise SettingsError(
            f"array of shape {values.shape}: bands come first, as rasterio reads them; use "
            "array.transpose(2, 0, 1)"
        )
    if bands.dtype.kind not in "uif":
        raise SettingsError(f"array of {values.dtype}: use whole numbers or floats")
    if crs is not None:
        require_crs(crs, "--crs")
    if (crs is None) != (transform is None):
        raise SettingsError("transform and crs need each other")
    place = {} if crs is None else {"crs": crs, "transform": _affine(transform)}
    count, height, width = bands.shape
    colour = {"photometric": "RGB"} if count in (3, 4) and bands.dtype == np.uint8 else {}
    try:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", dtype=bands.dtype, count=count, height=height, width=width,
                bigtiff="IF_SAFER", tiled=True, **place, **colour,
            ) as dataset,
        ):  # fmt: skip
            if isinstance(bands, np.ma.MaskedArray):
                dataset.write(bands.filled(0))
                dataset.write_mask(~np.ma.getmaskarray(bands).all(axis=0))
            else:
                dataset.write(bands)
    except (RasterioError, TypeError) as error:
        raise SettingsError(f"array of {values.dtype}: {first_line(error)}") from error


def _affine(transform: Any) -> Affine:
    if isinstance(transform, Affine):
        return transform
    try:
        return Affine(*(float(value) for value in tuple(transform)[:6]))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"transform {transform!r} is no affine transformation") from error
