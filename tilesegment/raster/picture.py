"""Whole pictures and label files, as they are: PNG, JPEG, TIFF and whatever else GDAL opens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject
from rasterio.windows import Window as RasterioWindow

from tilesegment.errors import InputError
from tilesegment.grid import Window
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.opening import refuse_cut_short
from tilesegment.raster.source import open_scene
from tilesegment.raster.spec import Pixels
from tilesegment.raster.upright import upright

# GDAL resamples between grids of one CRS; which one does not matter.
_ANYWHERE = "EPSG:3857"


@dataclass(frozen=True)
class Part:
    """What is read of a picture: a window of its own pixels (None: all), at (rows, columns)."""

    window: Window | None
    shape: tuple[int, int]


def read_labels(path: Path, part: Part | None = None, colours: bool = False) -> NDArray[Any]:
    """The bands of a label file (bands, rows, columns) in its dtype, without an alpha band. colours: a
    palette's colours and not its numbers.

    part: resampled to the nearest pixel; None for the whole picture as it is. Raises InputError where the
    file is missing or damaged.
    """
    with _opened(path) as dataset:
        window, shape = _wanted(dataset, part)
        bands = [band for band in dataset.indexes if dataset.colorinterp[band - 1] != ColorInterp.alpha]
        values: NDArray[Any] = dataset.read(
            bands, window=window, out_shape=(len(bands), *shape), resampling=Resampling.nearest
        )
        if colours and dataset.colorinterp[0] == ColorInterp.palette:
            values = _coloured(dataset, values)
        if ColorInterp.alpha in dataset.colorinterp:
            # Drawn on nothing: what is transparent is black, whatever colour it would have.
            band = dataset.colorinterp.index(ColorInterp.alpha) + 1
            alpha = dataset.read(band, window=window, out_shape=shape, resampling=Resampling.nearest)
            values[:, alpha == 0] = 0
    return values


def read_colour(path: Path, part: Part | None = None) -> Pixels:
    """A picture as red, green and blue with its validity: one grey band is repeated, a palette is turned
    into its colours. part: as for `read_picture`, but averaging or bilinear, as scenes are read.

    Raises InputError."""
    with _opened(path) as dataset:
        bands = min(3, dataset.count)
        window, shape = _wanted(dataset, part)
        method = Resampling.average if shape[0] < window.height else Resampling.bilinear
        values = dataset.read(
            list(range(1, bands + 1)), window=window, out_shape=(bands, *shape), resampling=method
        )
        valid = dataset.dataset_mask(window=window, out_shape=shape) > 0
        if bands == 1 and dataset.colorinterp[0] == ColorInterp.palette:
            values = _coloured(dataset, values)
    if len(values) < 3:
        values = np.repeat(values[:1], 3, axis=0)
    return Pixels(values, valid)


def resampled(values: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """An array (bands, rows, columns) at another size, averaging or bilinear, as pictures are read."""
    bands, rows, cols = values.shape
    result = np.empty((bands, *shape), values.dtype)
    reproject(
        np.ascontiguousarray(values),
        result,
        src_transform=Affine.scale(1 / cols, 1 / rows),
        dst_transform=Affine.scale(1 / shape[1], 1 / shape[0]),
        src_crs=_ANYWHERE,
        dst_crs=_ANYWHERE,
        resampling=Resampling.average if shape[0] < rows else Resampling.bilinear,
    )
    return result


def nearest(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array (rows, columns) at another size, to the nearest element, as GDAL takes it."""
    rows, cols = (
        ((2 * np.arange(wanted) + 1) * there) // (2 * wanted)
        for wanted, there in zip(shape, values.shape, strict=True)
    )
    found: NDArray[Any] = values[np.ix_(rows, cols)]
    return found


def metres_of(path: Path) -> float | None:
    """Metres a pixel on the ground (the geometric mean of both directions), None without a CRS."""
    with open_scene(path, bands=1) as scene:
        metres = scene.native.metres_per_pixel
    return None if metres is None else math.sqrt(metres[0] * metres[1])


@lru_cache(maxsize=65536)
def picture_size(path: Path) -> tuple[int, int]:
    """(rows, columns), from the header, which is read once. Raises InputError."""
    with _opened(path) as dataset:
        return dataset.height, dataset.width


def is_coloured(path: Path) -> bool:
    """Whether a label file says classes by colours: three bands or more, or a palette. Raises
    InputError."""
    with _opened(path) as dataset:
        return bool(dataset.count >= 3 or dataset.colorinterp[0] == ColorInterp.palette)


def _coloured(dataset: Any, values: NDArray[Any]) -> NDArray[np.uint8]:
    """The colours (3, rows, columns) of a palette's numbers (1, rows, columns)."""
    table = np.zeros((256, 3), np.uint8)
    for value, colour in dataset.colormap(1).items():
        table[value] = colour[:3] if colour[3] else 0
    return np.ascontiguousarray(table[values[0]].transpose(2, 0, 1))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with gdal_environment(), rasterio.open(path) as dataset:
            refuse_cut_short(str(path), dataset)
            yield upright(dataset)
    except RasterioError as error:
        cause: BaseException = error.__cause__ or error
        raise InputError(f"{path}: cannot be read ({' '.join(str(cause).split())})") from error


def _wanted(dataset: Any, part: Part | None) -> tuple[RasterioWindow, tuple[int, int]]:
    whole = Window(0, 0, dataset.height, dataset.width)
    window = whole if part is None or part.window is None else part.window
    shape = (window.height, window.width) if part is None else part.shape
    return RasterioWindow(window.col, window.row, window.width, window.height), shape
