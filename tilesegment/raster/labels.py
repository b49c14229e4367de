"""Class numbers on a grid, from a class raster of any grid and CRS, or from polygons."""

from __future__ import annotations

import html
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from tilesegment.errors import InputError
from tilesegment.grid import Grid, Window
from tilesegment.polygons import Polygons
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.opening import open_file
from tilesegment.raster.source import Scene, open_scene

# What `read` gives where nothing is known.
UNKNOWN = 255


class Labels(Protocol):
    """Class numbers on a grid."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Numbers of a window (rows, columns), UNKNOWN where there is none."""
        ...


def category_names(path: str) -> dict[int, str]:
    """Class names by value from a raster's `.aux.xml`, the place that GDAL keeps them in; empty without."""
    sidecar = Path(path + ".aux.xml")
    if not sidecar.is_file():
        return {}
    found = re.findall(r"<Category>(.*?)</Category>", sidecar.read_text(encoding="utf-8", errors="replace"))
    return {value: html.unescape(name) for value, name in enumerate(found)}


def distinct_values(scene: Scene, rows: int = 1024) -> list[int]:
    """All values of a class raster's valid pixels, ascending. Raises InputError where they are not whole
    numbers of 0 to 255."""
    found: set[int] = set()
    grid = scene.grid
    for row in range(0, grid.height, rows):
        pixels = scene.read(Window(row, 0, min(rows, grid.height - row), grid.width))
        values = pixels.values[0][pixels.valid]
        distinct = np.flatnonzero(np.bincount(values)) if values.dtype == np.uint8 else np.unique(values)
        wrong = [v for v in distinct.tolist() if v != int(v) or not 0 <= v <= 255]
        if wrong:
            raise InputError(f"{scene.path}: holds the value {wrong[0]:g}, and classes are 0 to 255")
        found.update(int(v) for v in distinct.tolist())
    return sorted(found)


@dataclass
class RasterLabels:
    """The `Labels` of a class raster on a grid, its own or another: nearest neighbours there. table: (256,)
    class number or UNKNOWN by value."""

    path: str
    grid: Grid
    table: NDArray[np.uint8]

    def __post_init__(self) -> None:
        self._open = ExitStack()
        with gdal_environment():
            self._scene = self._open.enter_context(open_scene(self.path, bands=1, raw=True))
            self._warped: Any = None
            if self._scene.grid != self.grid:
                self._warped = _warped(self._open, self.path, self._scene, self.grid)

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def read(self, window: Window) -> NDArray[np.uint8]:
        """See `Labels`. Raises InputError where the file is damaged."""
        if self._warped is None:
            with gdal_environment():
                pixels = self._scene.read(window)
            values, valid = pixels.values[0], pixels.valid
        else:
            values, valid = self._read_warped(window)
        found: NDArray[np.uint8] = self.table[values.astype(np.uint8)]
        found[~valid] = UNKNOWN
        return found

    def _read_warped(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        values = np.zeros((window.height, window.width), np.uint8)
        valid = np.zeros(values.shape, np.bool_)
        inside = window.intersection(self.grid.window)
        if inside is not None:
            source = RasterioWindow(inside.col, inside.row, inside.width, inside.height)
            try:
                with gdal_environment():
                    read = self._warped.read([1, self._warped.count], window=source)
            except RasterioError as error:
                raise InputError(f"{self.path}: damaged ({' '.join(str(error).split())})") from error
            rows, cols = inside.relative_to(window).slices
            values[rows, cols], valid[rows, cols] = read[0], read[1] > 0
        return values, valid


def _warped(stack: ExitStack, path: str, scene: Scene, grid: Grid) -> Any:
    if scene.grid.crs is None or grid.crs is None:
        raise InputError(
            f"{path}: {scene.grid.width}x{scene.grid.height} pixels do not fit the other's "
            f"{grid.width}x{grid.height}, and without a CRS they cannot be related"
        )
    return stack.enter_context(
        WarpedVRT(
            stack.enter_context(open_file(path)),
            crs=grid.crs,
            transform=grid.transform,
            width=grid.width,
            height=grid.height,
            add_alpha=True,
            resampling=Resampling.nearest,
        )
    )


@dataclass
class PolygonLabels:
    """The `Labels` of polygons in the CRS of a grid: a pixel has the class of the last polygon that holds
    its centre, and 0 outside of all. labels: (n,) class numbers."""

    polygons: Polygons
    labels: NDArray[np.int64]
    grid: Grid

    def close(self) -> None:
        """Nothing is open."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """See `Labels`."""
        shape = (window.height, window.width)
        here = self.grid[window]
        corners = here.to_world(
            np.array([[0, 0], [window.width, 0], [0, window.height], [window.width, window.height]], float)
        )
        found = self.polygons.touching((*corners.min(axis=0), *corners.max(axis=0)))
        if not len(found):
            return np.zeros(shape, np.uint8)
        shapes = zip(self.polygons.take(found), self.labels[found].tolist(), strict=True)
        return np.asarray(rasterize(shapes, shape, transform=here.transform, dtype="uint8"), np.uint8)
