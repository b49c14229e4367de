"""What values a data set's pictures hold: their type, and the range that is dark to bright."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.sample import Reader
from tilesegment.errors import InputError
from tilesegment.model.look import look_of, summary_of
from tilesegment.model.preprocess import ValueRange, in_range

# Pictures looked at for their type, and for their range; pixels of each.
_FEW, _PICTURES, _PIXELS = 8, 32, 20_000
# Those whose looks are remembered.
_LOOKED = 200
# As prediction stretches scenes of another type than the model's.
_PERCENTILES = (2.0, 98.0)
BYTES = (0.0, 255.0)


def values_of(reader: Reader, split: str = "train") -> tuple[str, tuple[float, float]]:
    """The type of a split's pictures, and the range that a model of them maps to 0..1: 0 to 255 for bytes,
    0 to 1 for floats that lie within, else the 2nd to 98th percentile of pictures spread over the split.

    Raises InputError where pictures are of several types.
    """
    kind, _ = _look(reader, split, _FEW)
    if kind == "uint8":
        return kind, BYTES
    kind, seen = _look(reader, split, _PICTURES)
    if kind.startswith("float") and seen.min() >= 0 and seen.max() <= 1:
        return kind, (0.0, 1.0)
    low, high = np.percentile(seen, _PERCENTILES)
    return kind, (float(low), float(max(high, low + max(1e-6, abs(low) * 1e-6))))


def looks_of(
    reader: Reader, value_range: tuple[float, float], bands: tuple[str, ...] = ("red", "green", "blue")
) -> dict[str, tuple[float, float]]:
    """How the training pictures look (see `model.look`), of some spread over the split."""
    found = []
    names = reader.names("train")
    count = min(len(names), _LOOKED)
    for index in np.unique(np.linspace(0, len(names) - 1, count).astype(int)).tolist():
        sample = reader.read("train", index, np.random.default_rng([1, index]))
        pixels = in_range(sample.values, ValueRange.of_all(value_range, len(sample.values)))
        pixels = pixels[:, sample.valid]
        look = look_of(pixels, bands) if len(pixels) == len(bands) else None
        found += [look] if look is not None else []
    return summary_of(found)


def _look(reader: Reader, split: str, pictures: int) -> tuple[str, NDArray[np.float64]]:
    """The type of so many pictures spread over a split, and some of their valid values."""
    names = reader.names(split)
    kinds: dict[str, str] = {}
    parts = [np.zeros(0)]
    for index in np.unique(np.linspace(0, len(names) - 1, min(len(names), pictures)).astype(int)).tolist():
        sample = reader.read(split, index, np.random.default_rng([0, index]))
        kinds.setdefault(sample.values.dtype.name, names[index])
        values = sample.values[:, sample.valid]
        parts.append(values[:, :: max(1, values.shape[1] // _PIXELS)].ravel().astype(np.float64))
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise InputError(f"{first} is {one} and {second} is {other}; pictures must be of one type")
    seen = np.concatenate(parts)
    return next(iter(kinds), "uint8"), seen if len(seen) else np.zeros(1)
