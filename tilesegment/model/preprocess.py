"""The one way from pixels to the tensor that a network sees, in training and in prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.model.card import Card
from tilesegment.tiling.plan import WHOLE


def normalise(
    values: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    low: tuple[float, ...],
    high: tuple[float, ...],
    card: Card,
) -> NDArray[np.float32]:
    """Pixels as float32 (bands, rows, columns): the range [low, high] mapped to 0..1 and clipped, then
    (x - mean) / std by band. Pixels that are not valid become 0, the mean: one fill for nodata and for
    what lies outside the scene.

    values: (bands, rows, columns) of any real dtype; valid: (rows, columns), None where all are.
    """
    result = in_range(values, low, high)
    result -= np.asarray(card.mean, np.float32)[:, None, None]
    result /= np.asarray(card.std, np.float32)[:, None, None]
    if valid is not None and not valid.all():
        result[:, ~valid] = 0
    return result


def in_range(values: NDArray[Any], low: tuple[float, ...], high: tuple[float, ...]) -> NDArray[np.float32]:
    """Pixels (bands, rows, columns) as float32, the range [low, high] by band mapped to 0..1 and
    clipped."""
    lo = np.asarray(low, np.float32)[:, None, None]
    result = values.astype(np.float32)
    result -= lo
    result /= np.asarray(high, np.float32)[:, None, None] - lo
    np.clip(result, 0, 1, out=result)
    return result


def padded_tile(tile: tuple[int, int]) -> tuple[int, int]:
    """The size that a network is given for tiles of (rows, columns): encoders halve five times at most.
    What the padding adds is cut off again."""
    return tile[0] + -tile[0] % WHOLE, tile[1] + -tile[1] % WHOLE
