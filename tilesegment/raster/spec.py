"""What a scene is opened with, and what is read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.grid import Window


@dataclass(frozen=True)
class SceneSpec:
    """How to open a scene, in values that travel to workers.

    shape: (rows, columns) of the working grid where it is not the scene's own.
    raw: read a palette's indices and not its colours. crs: instead of the scene's own.
    """

    path: str
    bands: tuple[int, ...]
    nodata: float | None = None
    shape: tuple[int, int] | None = None
    gdal: tuple[tuple[str, str], ...] = ()
    raw: bool = False
    crs: str | None = None


@dataclass(frozen=True)
class Pixels:
    """values: (bands, rows, columns) in the scene's dtype; valid: (rows, columns) bool. Values are
    arbitrary where not valid."""

    values: NDArray[Any]
    valid: NDArray[np.bool_]

    def part(self, window: Window) -> Pixels:
        """Those of a window, counted from the first row and column."""
        rows, cols = window.slices
        return Pixels(self.values[:, rows, cols], self.valid[rows, cols])
