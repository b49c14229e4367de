"""Regular outlines of a run: what they are made of, and the features that come out."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid
from tilesegment.run.scene.saved import SavedPixels
from tilesegment.settings import REGULARIZE, Measure, VectorSettings
from tilesegment.vector.apart import Candidates, kept_apart
from tilesegment.vector.clean import clean_regular
from tilesegment.vector.parallel import chunks, in_threads
from tilesegment.vector.regularize import Rules, most_pixels
from tilesegment.vector.seams import Features


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


def regular_features(
    joined: Iterator[Features], grid: Grid, settings: VectorSettings, rules: Rules
) -> Iterator[Features]:
    """Whole regions as regular polygons, none overlapping another, in batches in the order of their id."""
    # Pixels of a geographic grid are narrower further from the equator: twice as much is enough.
    size = min(grid.metres_per_pixel or (1.0, 1.0))
    reach = 2 * (most_pixels(rules.tolerance, size) + in_metres(settings.simplify, grid) / size)
    return kept_apart(_candidates(joined, grid, settings, rules), grid.width, reach)


def _candidates(
    joined: Iterator[Features], grid: Grid, settings: VectorSettings, rules: Rules
) -> Iterator[Candidates]:
    for features in joined:
        if len(features):
            yield Candidates.concatenate(
                in_threads(
                    lambda part, whole=features: clean_regular(  # type: ignore[misc]
                        whole[part], grid, settings.min_area, settings.simplify, settings.fill_holes, rules
                    ),
                    chunks(len(features)),
                )
            )
