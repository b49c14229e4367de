"""What values a data set's pictures hold: their type, and the range that is dark to bright."""

from __future__ import annotations

import numpy as np

from tilesegment.datasets.sample import Reader
from tilesegment.errors import InputError

# Pictures looked at, and pixels of each.
_PICTURES, _PIXELS = 32, 20_000
# As prediction stretches scenes of another type than the model's.
_PERCENTILES = (2.0, 98.0)
BYTES = (0.0, 255.0)


def values_of(reader: Reader, split: str = "train") -> tuple[str, tuple[float, float]]:
    """The type of a split's pictures, and the range that a model of them maps to 0..1: 0 to 255 for bytes,
    0 to 1 for floats that lie within, else the 2nd to 98th percentile of pictures spread over the split.

    Raises InputError where pictures are of several types.
    """
    count = len(reader.names(split))
    kinds: dict[str, str] = {}
    parts = []
    for index in np.unique(np.linspace(0, count - 1, min(count, _PICTURES)).astype(int)).tolist():
        sample = reader.read(split, index, np.random.default_rng([0, index]))
        kinds.setdefault(sample.values.dtype.name, reader.names(split)[index])
        values = sample.values[:, sample.valid]
        if values.size:
            parts.append(values[:, :: max(1, values.shape[1] // _PIXELS)].ravel())
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise InputError(f"{first} is {one} and {second} is {other}; pictures must be of one type")
    kind = next(iter(kinds), "uint8")
    if kind == "uint8":
        return kind, BYTES
    seen = np.concatenate(parts).astype(np.float64) if parts else np.zeros(1)
    if kind.startswith("float") and seen.min() >= 0 and seen.max() <= 1:
        return kind, (0.0, 1.0)
    low, high = np.percentile(seen, _PERCENTILES)
    return kind, (float(low), float(max(high, low + max(1e-6, abs(low) * 1e-6))))
