"""From a scene's own values to 0..1: which range counts as dark and bright, decided once a scene."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import SettingsError
from tilesegment.grid import Window
from tilesegment.model.preprocess import ValueRange
from tilesegment.raster.source import Scene
from tilesegment.raster.spec import Pixels

# Where a scene has no overviews: this many windows of this size, spread evenly, are looked at.
_SAMPLES_A_SIDE = 8
_FEW_A_SIDE = 3
_SAMPLE = 192
_SAMPLE_OVERVIEW = 1536
# A scene of so many pixels is sooner read whole than looked at in windows.
_SMALL = 1024 * 1024
_BLANK_RUN = 32
# Of a scene's pixels: fewer are nothing to speak of.
_BLANK_SHARE = 0.005


def value_range(
    scene: Scene, stretch: str | None, card_dtype: str, card_range: tuple[float, float]
) -> ValueRange:
    """The range of a scene: `stretch` ("0,4000" or "2%,98%"), else the card's where the dtype is the one
    the model was trained on, else the scene's own 2-98 percentiles.

    Raises SettingsError for an unusable stretch.
    """
    if stretch is None and scene.dtype.name == card_dtype:
        return ValueRange.of_all(card_range, scene.bands, "model")
    first, second, percent = _parse_stretch(stretch or "2%,98%")
    if not percent:
        return ValueRange.of_all((first, second), scene.bands, "given")
    lows, highs = _percentiles(scene, first, second)
    return ValueRange(lows, highs, f"percentiles {first:g}-{second:g} of the scene")


def _parse_stretch(text: str) -> tuple[float, float, bool]:
    parts = [part.strip() for part in text.split(",")]
    percent = all(part.endswith("%") for part in parts)
    try:
        first, second = (float(part.removesuffix("%")) for part in parts)
    except ValueError:
        raise SettingsError(
            f"--stretch {text!r} is not MIN,MAX; write two values (0,4000) or percentiles (2%,98%)"
        ) from None
    if not (-math.inf < first < second < math.inf) or (percent and not (first >= 0 and second <= 100)):
        raise SettingsError(f"--stretch {text!r}: the first must be below the second")
    return first, second, percent


def _percentiles(scene: Scene, low: float, high: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    parts = [pixels.values[:, pixels.valid] for pixels in _samples(scene)]
    values = np.concatenate(parts, axis=1) if parts else np.empty((scene.bands, 0))
    if values.shape[1] == 0:
        # Nothing valid was met, so no percentile exists; any range serves the pixels that may remain.
        return (0.0,) * scene.bands, (1.0,) * scene.bands
    lows, highs = np.percentile(values.astype(np.float64), [low, high], axis=1)
    # A flat band has no contrast to stretch; one grey level keeps the division defined.
    highs = np.maximum(highs, lows + max(1e-6, np.abs(lows).max() * 1e-6))
    return tuple(map(float, lows)), tuple(map(float, highs))


def few_windows(scene: Scene) -> Iterator[Pixels]:
    """Nine windows spread over a scene, which are quick to read also across a network; all of a small
    one."""
    grid = scene.grid
    if grid.window.area <= _SMALL:
        yield scene.read(grid.window)
        return
    height, width = min(_SAMPLE, grid.height), min(_SAMPLE, grid.width)
    for row in _spread(grid.height, _FEW_A_SIDE):
        for col in _spread(grid.width, _FEW_A_SIDE):
            yield scene.read(Window(row, col, height, width))


def _samples(scene: Scene) -> Iterator[Pixels]:
    grid = scene.grid
    if scene.has_overviews or grid.window.area <= _SAMPLE_OVERVIEW**2:
        scale = max(1.0, max(grid.height, grid.width) / _SAMPLE_OVERVIEW)
        yield scene.sample(
            grid.window, max(1, round(grid.height / scale)), max(1, round(grid.width / scale))
        )
        return
    for row in _spread(grid.height):
        for col in _spread(grid.width):
            height, width = min(_SAMPLE, grid.height), min(_SAMPLE, grid.width)
            yield scene.read(Window(row, col, height, width))


def _spread(size: int, count: int = _SAMPLES_A_SIDE) -> list[int]:
    last = max(0, size - _SAMPLE)
    return sorted({round(last * k / (count - 1)) for k in range(count)})


@dataclass(frozen=True)
class Look:
    """What samples of a scene show. valid: share of pixels; blank: shares of valid ones that are all black
    or all white in every band, by value; percentiles: (2nd, 50th, 98th) of each band, None where nothing is
    valid."""

    valid: float
    blank: dict[int, float]
    percentiles: tuple[tuple[float, float, float] | None, ...]


def looked_at(scene: Scene) -> Look:
    """A look at a scene as a whole where that is cheap, else at windows spread over it."""
    valid, count, parts = 0, 0, [np.empty((scene.bands, 0), scene.dtype)]
    for pixels in _samples(scene):
        count += pixels.valid.size
        valid += int(pixels.valid.sum())
        parts.append(pixels.values[:, pixels.valid])
    values = np.concatenate(parts, axis=1)
    if not valid:
        return Look(0.0, {}, (None,) * scene.bands)
    blank = {}
    if values.dtype.kind in "ui":
        for extreme in sorted({0, 255, int(np.iinfo(values.dtype).max)}):
            share = float((values == extreme).all(axis=0).mean())
            if share >= _BLANK_SHARE:
                blank[extreme] = share
    low, middle, high = np.percentile(values.astype(np.float64), [2, 50, 98], axis=1).tolist()
    return Look(valid / count, blank, tuple(zip(low, middle, high, strict=True)))


def blank_value(values: NDArray[Any], valid: NDArray[np.bool_]) -> int | None:
    """The value of a window that is wholly valid and all black or all white, else None.

    values: (bands, rows, columns) integers; white is 255, or the dtype's largest value.
    """
    if values.dtype.kind not in "ui":
        return None
    first = int(values.flat[0])
    if first not in (0, 255, int(np.iinfo(values.dtype).max)) or not valid.all():
        return None
    return first if bool((values == first).all()) else None


def blank_edge(scene: Scene) -> int | None:
    """The value of an undeclared blank area at the scene's edge (all black or all white), else None.

    Squares of 32 pixels are looked at along all four edges.
    """
    grid, side = scene.grid, _BLANK_RUN
    if min(grid.height, grid.width) < 2 * side:
        return None
    whole = scene.read(grid.window) if grid.window.area <= _SMALL else None
    for row, col in _edge_squares(grid.height, grid.width, side):
        window = Window(row, col, side, side)
        pixels = scene.read(window) if whole is None else whole.part(window)
        value = blank_value(pixels.values, pixels.valid)
        if value is not None:
            return value
    return None


def _edge_squares(height: int, width: int, side: int) -> list[tuple[int, int]]:
    rows = [round((height - side) * k / 7) for k in range(8)]
    cols = [round((width - side) * k / 7) for k in range(8)]
    border = {(row, col) for row in rows for col in (cols[0], cols[-1])}
    border |= {(row, col) for row in (rows[0], rows[-1]) for col in cols}
    return sorted(border)
