"""Regular outlines of a run: what they are made of, and the features that come out."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid
from tilesegment.run.blockfile import read_rows
from tilesegment.settings import REGULARIZE, Measure, VectorSettings
from tilesegment.tiling.blend import NODATA
from tilesegment.tiling.plan import Block, Plan
from tilesegment.vector.apart import Candidates, kept_apart
from tilesegment.vector.clean import clean_regular
from tilesegment.vector.parallel import chunks, in_threads
from tilesegment.vector.regularize import Rules, most_pixels
from tilesegment.vector.seams import Features

# Rows that single pixels are read in, and bytes of such bands that are kept.
_BAND, _KEPT_BYTES = 256, 64_000_000


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


@dataclass
class SavedPixels:
    """The probabilities of single pixels of saved blocks, of which some bands are kept in memory."""

    plan: Plan
    path: Callable[[Block], Path]

    def __post_init__(self) -> None:
        self._bands: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._turn = threading.Lock()

    def __call__(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Probabilities of pixels of the working grid, (n,); NODATA outside of the blocks."""
        result = np.full(len(rows), NODATA, np.uint8)
        for block in self.plan.blocks:
            window = block.window
            inside = (rows >= window.row) & (rows < window.row_end)
            inside &= (cols >= window.col) & (cols < window.col_end)
            index = np.flatnonzero(inside)
            band = (rows[index] - window.row) // _BAND
            order = np.argsort(band, kind="stable")
            for part in np.split(index[order], np.flatnonzero(np.diff(band[order])) + 1):
                if len(part):
                    number = int(rows[part[0]] - window.row) // _BAND
                    found = self._band(block, number)
                    result[part] = found[rows[part] - window.row - number * _BAND, cols[part] - window.col]
        return result

    def _band(self, block: Block, number: int) -> NDArray[np.uint8]:
        key = block.index, number
        with self._turn:
            if key not in self._bands:
                first = number * _BAND
                last = min(first + _BAND, block.window.height)
                self._bands[key] = read_rows(self.path(block), first, last).probability
                while len(self._bands) > 1 and sum(b.nbytes for b in self._bands.values()) > _KEPT_BYTES:
                    self._bands.popitem(last=False)
            self._bands.move_to_end(key)
            return self._bands[key]
