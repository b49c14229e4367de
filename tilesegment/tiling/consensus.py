"""How far tiles that overlap disagree: what a pixel's answer owes to the tile that it happens to lie in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.tiling.blend import FINE_MAX, NODATA, PROBABILITY_MAX


class Disagreement:
    """Largest and least probability that tiles gave a pixel, over a band of rows as wide as a block; moves
    along with the `Blender` of the same tiles. channels: of probabilities; what else tiles hold is passed
    over. Order and blocks cannot matter: extremes are those of all tiles that touch a pixel."""

    def __init__(self, tile: tuple[int, int], channels: int, width: int) -> None:
        self._channels, self._width = channels, width
        self._high = np.zeros((channels, tile[0], width), np.uint16)
        self._low = np.full_like(self._high, np.iinfo(np.uint16).max)

    def add(self, col: int, counts: Any) -> None:
        """See `Blender.add`."""
        # Those of a GPU lie there.
        found = np.asarray(counts.cpu() if hasattr(counts, "cpu") else counts)[: self._channels]
        begin, end = max(col, 0), min(col + found.shape[2], self._width)
        part = found[:, :, begin - col : end - col]
        np.maximum(self._high[:, :, begin:end], part, out=self._high[:, :, begin:end], casting="unsafe")
        np.minimum(self._low[:, :, begin:end], part, out=self._low[:, :, begin:end], casting="unsafe")

    def advance(self, rows: int) -> NDArray[np.uint8]:
        """Finish the first rows: the largest difference of any class's probability, 0..254; NODATA where no
        tile was added."""
        rows = min(rows, self._high.shape[1])
        high, low = self._high[:, :rows], self._low[:, :rows]
        empty = (high < low).all(axis=0)
        steps = np.where(high >= low, high - low, 0).max(axis=0)
        found: NDArray[np.uint8] = np.rint(steps * (PROBABILITY_MAX / FINE_MAX)).astype(np.uint8)
        found[empty] = NODATA
        for array, blank in ((self._high, 0), (self._low, np.iinfo(np.uint16).max)):
            kept = array.shape[1] - rows
            array[:, :kept] = array[:, rows:].copy()
            array[:, kept:] = blank
        return found
