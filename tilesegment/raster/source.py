"""Scenes: anything GDAL opens, read as pixels and one validity mask on a working grid.

Resampled and warped reads are made in fixed *cells* of the working grid and then cut: GDAL's resamplers
give slightly different values for overlapping windows, and a pixel must not depend on who asks for it.
"""

from __future__ import annotations

import os
import reprlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid, Window, require_crs
from tilesegment.raster.choose import choose_bands, fitting_nodata, has_named_colours, working_shape
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.network import forget, is_across_network, tried_again
from tilesegment.raster.opening import Additions, first_line, opened
from tilesegment.raster.spec import Pixels, SceneSpec
from tilesegment.raster.upright import Upright

_CELL = 512


def open_scene(
    path: str | os.PathLike[str],
    *,
    bands: int | tuple[int, ...] = 3,
    nodata: float | None = None,
    gsd: float | None = None,
    size: tuple[int, int] | None = None,
    gdal: tuple[tuple[str, str], ...] = (),
    raw: bool = False,
    crs: str | None = None,
) -> Scene:
    """Open a scene for reading on the grid that a model wants.

    path: whatever GDAL opens (a file, URL, `/vsi...` path, VRT).
    bands: the 1-based bands to read, or how many to choose (red, green, blue where they are named; one
    grey band is repeated; otherwise the first).
    nodata: a value that marks invalid pixels, in addition to the scene's own marks.
    gsd: metres a pixel to read at; a scene within 15 % of it is read as it is.
    size: (rows, columns) to read a picture without a CRS at.
    raw: read a palette's indices and not its colours, as class rasters need.
    crs: instead of the scene's own, which may be missing or unknown.

    Raises InputError where the file cannot be used, SettingsError where bands or nodata do not fit it.
    """
    if not isinstance(path, str | os.PathLike):
        raise SettingsError(f"{reprlib.repr(path)} is neither a path nor a URI")
    name = os.fspath(path)
    if crs is not None:
        require_crs(crs, "--src-crs")
    with gdal_environment(gdal):
        with opened(name, Additions(colours=False)) as (dataset, _):
            chosen = choose_bands(name, dataset, bands, raw)
            fitting = fitting_nodata(name, dataset, nodata)
            spec = SceneSpec(name, chosen, fitting, None, gdal, raw, crs)
        scene = Scene(spec)
        shape = working_shape(name, scene.native, gsd, size)
        if shape is not None:
            scene.close()
            scene = Scene(replace(spec, shape=shape))
    return scene


class Scene:
    """An open scene. Not shared between threads or processes: each opens its own from `spec`.

    native: the scene's own grid; grid: the working grid that windows are counted in.
    """

    def __init__(self, spec: SceneSpec) -> None:
        self.spec = spec
        self._open()
        self.native = _grid(self._dataset)
        self.grid = self.native if spec.shape is None else self.native.resized(*spec.shape)
        self._by_cells = spec.shape is not None or isinstance(self._dataset, WarpedVRT)
        self._cells: OrderedDict[tuple[int, int], Pixels] = OrderedDict()

    def _open(self) -> None:
        spec = self.spec
        self._opened = opened(spec.path, Additions(spec.nodata, spec.crs, colours=not spec.raw))
        self._dataset, self._masks = self._opened.__enter__()
        # Of the data sets that were open before.
        for name in ("_mask_bands", "_nodata_bands"):
            self.__dict__.pop(name, None)

    def _reopen(self) -> None:
        self.close()
        forget(self._remote_files or ())
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._opened.__exit__(None, None, None)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> str:
        """As it was given."""
        return self.spec.path

    @property
    def bands(self) -> int:
        """Number of bands that are read."""
        return len(self.spec.bands)

    @property
    def band_count(self) -> int:
        """Bands of the file, but for an alpha band."""
        return sum(colour != ColorInterp.alpha for colour in self._dataset.colorinterp)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the values as they are read."""
        found: np.dtype[Any] = np.dtype(self._dataset.dtypes[self.spec.bands[0] - 1])
        return found

    @property
    def files(self) -> tuple[str, ...]:
        """Every file behind the scene: a VRT's sources and sidecars too."""
        return tuple(self._masks[0].files) or (self.path,)

    @property
    def driver(self) -> str:
        """GDAL's name of the format."""
        return str(self._masks[0].driver)

    @property
    def has_overviews(self) -> bool:
        """Whether decimated reads are cheap."""
        return bool(self._masks[0].overviews(1))

    def colours(self) -> dict[int, tuple[int, int, int]]:
        """The colour table of the first band that is read, by value; empty without one."""
        try:
            table = self._dataset.colormap(self.spec.bands[0])
        except ValueError:
            return {}
        return {value: (red, green, blue) for value, (red, green, blue, _) in table.items()}

    def notes(self, scaled: bool = True) -> list[str]:
        """What a user should know about how this scene is read; one line each. scaled: metres matter."""
        notes = []
        dataset = self._masks[0]
        if len(set(self.spec.bands)) < len(self.spec.bands):
            notes.append(f"one band stands for {self.bands}: expect less than with colour")
        elif dataset.count > self.bands and not has_named_colours(dataset):
            used = ",".join(map(str, self.spec.bands))
            notes.append(f"bands {used} of {dataset.count} are read; choose others with --bidx")
        if scaled and not self.native.has_georeference:
            notes.append("no CRS: the pixel size is unknown, so the scene is read as it is")
        if isinstance(self._dataset, Upright):
            notes.append("turned upright, as its EXIF orientation says")
        if isinstance(self._dataset, WarpedVRT):
            notes.append("only ground control points: the scene is warped to their CRS")
        return notes

    def read(self, window: Window) -> Pixels:
        """Pixels of a window of the working grid, which may reach beyond it (invalid there).

        Raises InputError where the file is damaged.
        """
        shape = (self.bands, window.height, window.width)
        inside = window.intersection(self.grid.window)
        if inside == window:
            return self._read_inside(window)
        result = Pixels(np.zeros(shape, self.dtype), np.zeros(shape[1:], np.bool_))
        if inside is not None:
            part = self._read_inside(inside)
            rows, cols = inside.relative_to(window).slices
            result.values[:, rows, cols] = part.values
            result.valid[rows, cols] = part.valid
        return result

    def sample(self, window: Window, height: int, width: int) -> Pixels:
        """A decimated read (nearest, overviews where there are any) of a window of the working grid."""
        return self._fetch(self._source_window(window), height, width, Resampling.nearest)

    def _read_inside(self, window: Window) -> Pixels:
        if not self._by_cells:
            source = RasterioWindow(window.col, window.row, window.width, window.height)
            return self._fetch(source, window.height, window.width, Resampling.nearest)
        values = np.empty((self.bands, window.height, window.width), self.dtype)
        valid = np.empty((window.height, window.width), np.bool_)
        for cell in _cells_of(window):
            part = cell.intersection(window)
            if part is None:
                continue
            pixels = self._cell(cell)
            from_rows, from_cols = part.relative_to(cell).slices
            to_rows, to_cols = part.relative_to(window).slices
            values[:, to_rows, to_cols] = pixels.values[:, from_rows, from_cols]
            valid[to_rows, to_cols] = pixels.valid[from_rows, from_cols]
        return Pixels(values, valid)

    def _cell(self, cell: Window) -> Pixels:
        key = (cell.row, cell.col)
        if key not in self._cells:
            inside = cell.intersection(self.grid.window)
            if inside is None:
                raise ValueError(f"cell {cell} lies outside the grid")
            method = self._resampling()
            self._cells[key] = self._fetch(self._source_window(inside), inside.height, inside.width, method)
            # The strip below asks for the same row of cells again; more would not be asked for.
            if len(self._cells) > self.grid.width // _CELL + 2:
                self._cells.popitem(last=False)
        return self._cells[key]

    def _resampling(self) -> Resampling:
        """Averaging where pixels are thrown away, bilinear where they are made up."""
        shrinks = self.native.width > self.grid.width or self.native.height > self.grid.height
        return Resampling.average if shrinks else Resampling.bilinear

    def _source_window(self, window: Window) -> RasterioWindow:
        down = self.native.height / self.grid.height
        across = self.native.width / self.grid.width
        return RasterioWindow(
            window.col * across, window.row * down, window.width * across, window.height * down
        )

    @cached_property
    def _remote_files(self) -> tuple[str, ...] | None:
        """All files, where some of the scene is read across a network."""
        return self.files if is_across_network(self.driver, self.files) else None

    def _fetch(self, source: RasterioWindow, height: int, width: int, method: Resampling) -> Pixels:
        if self._remote_files is None:
            return self._fetch_once(source, height, width, method)

        def read() -> Pixels:
            return self._fetch_once(source, height, width, method)

        return tried_again(self.path, read, self._reopen, InputError)

    def _fetch_once(self, source: RasterioWindow, height: int, width: int, method: Resampling) -> Pixels:
        shape = (height, width)
        try:
            valid = self._valid(source, shape)
            if not valid.any():
                # Large empty areas are common, and their values need not be decoded and resampled.
                return Pixels(np.zeros((self.bands, *shape), self.dtype), valid)
            values = self._dataset.read(
                list(self.spec.bands),
                window=source,
                out_shape=(self.bands, *shape),
                resampling=method,
            )
        except (RasterioError, ValueError) as error:
            begin, end = int(source.row_off), int(source.row_off + source.height)
            what = "damaged, rows" if self._remote_files is None else "rows"
            raise InputError(
                f"{self.path}: {what} {begin} to {end} cannot be read ({first_line(error)})"
            ) from error
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=0)
            valid &= finite
            values[:, ~finite] = 0
        return Pixels(values, valid)

    def _valid(self, source: RasterioWindow, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which pixels pass every mark. Nearest: a pixel is ground where the one at its centre is."""
        valid = np.ones(shape, np.bool_)
        for dataset, band in self._mask_bands:
            valid &= dataset.read_masks(band, window=source, out_shape=shape) > 0
        if self._nodata_bands:
            bands = self._nodata_bands
            masks = self._dataset.read_masks(bands, window=source, out_shape=(len(bands), *shape))
            valid &= masks.any(axis=0)
        if self._compared is not None:
            bands = list(self.spec.bands)
            raw = self._dataset.read(bands, window=source, out_shape=(len(bands), *shape))
            valid &= (raw != self._compared).any(axis=0)
        return valid

    @cached_property
    def _compared(self) -> Any:
        """The value that the user gave, in the scene's own type, where GDAL does not look for it: because
        an internal mask or alpha hides it, or because the file declares another one."""
        given = self.spec.nodata
        if given is None or (self._nodata_bands and all(v is None for v in self._masks[0].nodatavals)):
            return None
        return self.dtype.type(given)

    @cached_property
    def _mask_bands(self) -> list[tuple[Any, int]]:
        """Masks of the whole data set (alpha, internal mask), each read by itself: GDAL shows a declared
        nodata value *instead* of them, and a pixel must pass every test."""
        found: list[tuple[Any, int]] = []
        for dataset in self._masks:
            if MaskFlags.per_dataset in dataset.mask_flag_enums[0]:
                found.append((dataset, 1))
            elif ColorInterp.alpha in dataset.colorinterp:
                found.append((_AlphaBand(dataset), dataset.colorinterp.index(ColorInterp.alpha) + 1))
        return found

    @cached_property
    def _nodata_bands(self) -> list[int]:
        flags = self._dataset.mask_flag_enums
        bands = sorted(set(self.spec.bands))
        return [band for band in bands if MaskFlags.nodata in flags[band - 1]]


@dataclass(frozen=True)
class _AlphaBand:
    """An alpha band read as a mask where GDAL does not offer it as one."""

    dataset: Any

    def read_masks(self, band: int, **options: Any) -> NDArray[Any]:
        return np.asarray(self.dataset.read(band, **options))


def _grid(dataset: Any) -> Grid:
    crs = dataset.crs.to_wkt() if dataset.crs else None
    if dataset.transform.determinant == 0:
        raise InputError(f"{dataset.name}: its geotransform gives pixels no size")
    return Grid(crs or None, dataset.transform, dataset.height, dataset.width)


def _cells_of(window: Window) -> Iterator[Window]:
    for row in range(window.row // _CELL * _CELL, window.row_end, _CELL):
        for col in range(window.col // _CELL * _CELL, window.col_end, _CELL):
            yield Window(row, col, _CELL, _CELL)
