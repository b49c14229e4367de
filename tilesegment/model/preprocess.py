"""The one way from pixels to the tensor that a network sees, in training and in prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.model.card import Card
from tilesegment.tiling.plan import WHOLE


@dataclass(frozen=True)
class ValueRange:
    """Per band, the value that becomes 0 and the one that becomes 1, and where they come from."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    source: str = ""

    @classmethod
    def of_all(cls, value_range: tuple[float, float], bands: int, source: str = "") -> ValueRange:
        """The same for every band."""
        low, high = value_range
        return cls((low,) * bands, (high,) * bands, source)


def normalise(
    values: NDArray[Any], valid: NDArray[np.bool_] | None, value_range: ValueRange, card: Card
) -> NDArray[np.float32]:
    """Pixels as float32 (bands, rows, columns): the range mapped to 0..1 and clipped, then
    (x - mean) / std by band. Pixels that are not valid become 0, the mean: one fill for nodata and for
    what lies outside the scene.

    values: (bands, rows, columns) of any real dtype; valid: (rows, columns), None where all are.
    """
    result = in_range(values, value_range)
    result -= np.asarray(card.mean, np.float32)[:, None, None]
    result /= np.asarray(card.std, np.float32)[:, None, None]
    if valid is not None and not valid.all():
        result[:, ~valid] = 0
    return result


def in_range(values: NDArray[Any], value_range: ValueRange) -> NDArray[np.float32]:
    """Pixels (bands, rows, columns) as float32, the range by band mapped to 0..1 and clipped."""
    low = np.asarray(value_range.low, np.float32)[:, None, None]
    result = values.astype(np.float32)
    result -= low
    result /= np.asarray(value_range.high, np.float32)[:, None, None] - low
    np.clip(result, 0, 1, out=result)
    return result


def padded_tile(tile: tuple[int, int]) -> tuple[int, int]:
    """The size that a network is given for tiles of (rows, columns): encoders halve five times at most.
    What the padding adds is cut off again."""
    return tile[0] + -tile[0] % WHOLE, tile[1] + -tile[1] % WHOLE
