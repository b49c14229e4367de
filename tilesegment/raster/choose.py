"""What of a scene is read, and at which size: bands, nodata, the working grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from tilesegment.errors import InputError, SettingsError
from tilesegment.grid import Grid

# A scene this much finer or coarser than the model's pixel is resampled to it.
GSD_TOLERANCE = 0.15
# Beyond this the ground holds no such detail, and a warped plan would be enormous.
MOST_UPSAMPLING = 8.0
_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def has_named_colours(dataset: Any) -> bool:
    """Whether red, green and blue are known, in any order."""
    return dataset.colorinterp[0] == ColorInterp.palette or all(
        colour in dataset.colorinterp for colour in _COLOURS
    )


def choose_bands(name: str, dataset: Any, wanted: int | tuple[int, ...], raw: bool) -> tuple[int, ...]:
    """The 1-based bands to read: those that are wanted, or as many of the fitting ones. Raises
    SettingsError for bands that are not there, InputError where there are too few."""
    if dataset.dtypes[0].startswith("complex"):
        raise InputError(f"{name}: complex values ({dataset.dtypes[0]}) are not an image")
    palette = dataset.colorinterp[0] == ColorInterp.palette and not raw
    count = 3 if palette else dataset.count
    if isinstance(wanted, tuple):
        outside = [band for band in wanted if not 1 <= band <= count]
        if outside:
            raise SettingsError(f"{name} has {count} bands, so --bidx {outside[0]} does not exist")
        return wanted
    if wanted == 3 and not palette and all(colour in dataset.colorinterp for colour in _COLOURS):
        return tuple(dataset.colorinterp.index(colour) + 1 for colour in _COLOURS)
    usable = list(range(1, count + 1))
    if not palette:
        usable = [b for b in usable if dataset.colorinterp[b - 1] != ColorInterp.alpha]
    if len(usable) >= wanted:
        return tuple(usable[:wanted])
    if len(usable) == 1:
        return (usable[0],) * wanted
    raise InputError(f"{name} has {len(usable)} bands, the model reads {wanted}; name {wanted} with --bidx")


def fitting_nodata(name: str, dataset: Any, nodata: float | None) -> float | None:
    """A nodata value of the user's, which must be one of the scene's type. Raises SettingsError."""
    if nodata is None or np.dtype(dataset.dtypes[0]).kind == "f":
        return nodata
    limits = np.iinfo(dataset.dtypes[0])
    if not np.isfinite(nodata) or nodata != int(nodata) or not limits.min <= nodata <= limits.max:
        raise SettingsError(
            f"--nodata {nodata:g} is no {dataset.dtypes[0]} value; {name} holds {limits.min} to "
            f"{limits.max}"
        )
    return nodata


def working_shape(
    path: str, native: Grid, gsd: float | None, size: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The working grid's size, or None to read the scene as it is."""
    try:
        metres = native.metres_per_pixel
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if size is not None and metres is None:
        return None if size == (native.height, native.width) else size
    if gsd is None or metres is None:
        return None
    ratios = [metre / gsd for metre in metres]
    if all(1 / (1 + GSD_TOLERANCE) <= ratio <= 1 + GSD_TOLERANCE for ratio in ratios):
        return None
    if max(ratios) > MOST_UPSAMPLING:
        raise InputError(
            f"{path}: its pixels are {max(metres):.3g} m, the model's are {gsd:.3g} m, so it shows "
            f"nothing the model knows; predict anyway with --gsd {max(metres):.3g}"
        )
    height = max(1, round(native.height * ratios[0]))
    width = max(1, round(native.width * ratios[1]))
    return height, width
