"""Weighted blending of overlapping tiles in a strip, in whole numbers.

Probabilities are counted in 1/16256 and weights in whole steps, so a blended value is a quotient of two
exact integer sums: the same whatever the order of the tiles, and exactly the model's own value wherever
the overlapping tiles agree. A constant model therefore gives a constant scene, to the last pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import SettingsError

BlendMode = Literal["linear", "cosine", "gauss"]
BLEND_MODES: tuple[BlendMode, ...] = ("linear", "cosine", "gauss")

# Saved probabilities: 0..254 for 0..1; 255 is nodata.
PROBABILITY_MAX = 254
NODATA = 255
# Finer steps inside the strip. Sums stay below 2**32: 16 tiles a pixel (overlap <= 3/4) times
# weights of at most 63 * 63 times FINE_MAX is 1.03e9.
_FINE = 64
FINE_MAX = PROBABILITY_MAX * _FINE
# Of one class, contact is saved where its probability is at least this, and 0 elsewhere: nobody asks what
# touches where nothing is.
CONTACT_FROM = 25
_WEIGHT_STEPS = 63
_REDUCE_ROWS = 4


def axis_weights(length: int, overlap: int, mode: BlendMode) -> NDArray[np.uint32]:
    """Weights along one axis of a tile, (length,), from 1 to 63, symmetric; never zero, so a scene's rim,
    covered by one tile alone, keeps its value.

    linear: a ramp over the overlap; cosine: sin^2 over the overlap (with the neighbour's cos^2 a
    partition of unity); gauss: exp(-x^2 / 2 s^2) with s = length / 4 over the whole tile.

    Raises SettingsError for another mode.
    """
    inside = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    ramp = np.minimum(1.0, inside / max(overlap, 1))
    if mode == "linear":
        weights = ramp
    elif mode == "cosine":
        weights = np.sin(ramp * np.pi / 2) ** 2
    elif mode == "gauss":
        weights = np.exp(-(((length / 2 - inside) / (length / 4)) ** 2) / 2)
    else:
        raise SettingsError(f"unknown blend mode {mode!r}; use one of {', '.join(BLEND_MODES)}")
    return np.asarray(np.maximum(1, np.rint(weights * _WEIGHT_STEPS)), np.uint32)


def tile_weights(tile: tuple[int, int], overlap: int, mode: BlendMode) -> NDArray[np.uint32]:
    """Weights of a whole tile, (rows, columns)."""
    return np.outer(axis_weights(tile[0], overlap, mode), axis_weights(tile[1], overlap, mode))


def quantise(probability: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Probabilities 0..1 as whole steps of 1/16256."""
    return np.asarray(np.rint(probability * np.float32(FINE_MAX)), np.uint16)


# Finished rows: class, probability and, where it is wanted, contact; uint8, NODATA where no tile was added.
Blended = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8] | None]


class Blender(Protocol):
    """Running sums over a band of rows as wide as a block. Tiles are added row by row, left to right.

    top: the band's first row.
    """

    top: int

    def add(self, col: int, counts: Any) -> None:
        """Add one tile's probabilities in whole steps of 1/16256 (channels, rows, columns), whose first
        column is `col` of the strip and whose first row is `top`. Columns outside the strip are cut off."""
        ...

    def advance(self, top: int) -> Blended:
        """Finish the rows from the present `top` to the new one, which no later tile can touch. With one
        channel, class is 0 everywhere that was predicted and probability is that of class 1: the threshold
        is applied later, by whoever needs it."""
        ...


@dataclass
class Accumulator:
    """The `Blender` of arrays in memory: sums (channels, rows, columns) and weights (rows, columns),
    uint32. contact: tiles have one channel more, that of contact."""

    weights: NDArray[np.uint32]
    channels: int
    width: int
    top: int = 0
    contact: bool = False

    def __post_init__(self) -> None:
        rows = self.weights.shape[0]
        self._sums = np.zeros((self.channels + self.contact, rows, self.width), np.uint32)
        self._weight = np.zeros((rows, self.width), np.uint32)

    def add(self, col: int, counts: NDArray[np.uint16]) -> None:
        """See `Blender`."""
        begin, end = max(col, 0), min(col + self.weights.shape[1], self.width)
        part = slice(begin - col, end - col)
        weights = self.weights[:, part]
        self._weight[:, begin:end] += weights
        self._sums[:, :, begin:end] += np.multiply(counts[:, :, part], weights, dtype=np.uint32)

    def advance(self, top: int) -> Blended:
        """See `Blender`."""
        rows = min(top - self.top, self._weight.shape[0])
        weight = self._weight[:rows]
        classes, probability = _reduce(self._sums[: self.channels, :rows], weight)
        contact = self._contact(rows, probability) if self.contact else None
        for array in (self._sums, self._weight):
            kept = array.shape[-2] - rows
            array[..., :kept, :] = array[..., rows:, :].copy()
            array[..., kept:, :] = 0
        self.top = top
        return classes, probability, contact

    def _contact(self, rows: int, probability: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = _reduce(self._sums[self.channels :, :rows], self._weight[:rows])[1]
        if self.channels == 1:
            found *= probability >= CONTACT_FROM
        return found


def _reduce(
    sums: NDArray[np.uint32], weight: NDArray[np.uint32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    classes = np.zeros(weight.shape, np.uint8)
    probability = np.empty(weight.shape, np.uint8)
    # A few rows at a time stay in the processor's cache.
    for row in range(0, len(weight), _REDUCE_ROWS):
        rows = slice(row, row + _REDUCE_ROWS)
        winner = sums[0, rows]
        if len(sums) > 1:
            # The first of equal classes wins, as in argmax everywhere.
            classes[rows] = sums[:, rows].argmax(axis=0)
            winner = sums[:, rows].max(axis=0)
        # The sums are exact, so the quotient depends on nothing else. Where tiles agree it is a multiple of
        # 1/64 but for rounding, which the small addition keeps from deciding a half.
        quotient = np.maximum(weight[rows], 1).astype(np.float32)
        quotient *= np.float32(_FINE)
        np.divide(winner.astype(np.float32), quotient, out=quotient)
        quotient += np.float32(0.5 + 1 / 256)
        probability[rows] = quotient
    empty = weight == 0
    if empty.any():
        classes[empty] = NODATA
        probability[empty] = NODATA
    return classes, probability
