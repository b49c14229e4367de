"""Regular outlines of a run: what they are made of."""

from __future__ import annotations

import math

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid
from tilesegment.run.polygons.saved import SavedPixels
from tilesegment.settings import REGULARIZE, Measure, VectorSettings
from tilesegment.vector.regularize import Rules, most_pixels


def rules_of(
    settings: VectorSettings, grid: Grid, classes: int, read: SavedPixels | None, threshold: int
) -> Rules | None:
    """How outlines are regularised, None for not at all, which is meant where nobody says. threshold: least
    probability, 0..254, inside.

    Raises SettingsError where there are several classes, whose outlines are shared.
    """
    if settings.regularize not in REGULARIZE:
        raise SettingsError(f"--regularize {settings.regularize!r}: use one of {', '.join(REGULARIZE)}")
    if settings.regularize in ("auto", "none"):
        return None
    if classes > 1:
        raise SettingsError(f"--regularize {settings.regularize} is for one class; there are {classes}")
    return Rules(settings.regularize, in_metres(settings.tolerance, grid), read, threshold)


def in_metres(measure: Measure, grid: Grid) -> float:
    """A length in metres, or in pixels where there are none."""
    if not measure.pixels or grid.metres_per_pixel is None:
        return measure.value
    return measure.value * math.sqrt(math.prod(grid.metres_per_pixel))


def reach_of(rules: Rules, settings: VectorSettings, grid: Grid) -> float:
    """How many pixels an outline can lie outside of those that it was traced from."""
    # Pixels of a geographic grid are narrower further from the equator: twice as much is enough.
    size = min(grid.metres_per_pixel or (1.0, 1.0))
    return 2 * (most_pixels(rules.tolerance, size) + in_metres(settings.simplify, grid) / size)
