"""95 % intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_DRAWS = 1000
_BATCH = 50


def interval(
    units: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], float], seed: int = 0
) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentile of a statistic over 1,000 draws of as many units as there are, with
    replacement (Efron 1979); None for less than two units.

    units: (n, ...) what each tile, picture or place counted; statistic: of their sum.
    """
    count = len(units)
    if count < 2:
        return None
    rng = np.random.default_rng(seed)
    flat = units.reshape(count, -1)
    found: list[float] = []
    for _ in range(0, _DRAWS, _BATCH):
        times = rng.multinomial(count, np.full(count, 1 / count), size=_BATCH)
        found += [statistic(row.reshape(units.shape[1:])) for row in times @ flat]
    values = np.array(found)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
