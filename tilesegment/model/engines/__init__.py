"""Engines run a network over batches of tiles, behind one protocol."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Predictor(Protocol):
    """A loaded model.

    name: engine, version, device and precision; two runs with equal names give equal values.
    batch: tiles a call; lanes: calls that may run at the same time, each in a thread.
    """

    name: str
    batch: int
    lanes: int

    def __call__(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (tiles, channels, rows, columns) of normalised tiles (tiles, bands, rows,
        columns); one channel, that of class 1, for two classes."""
        ...
