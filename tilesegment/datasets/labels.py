"""From the pixels of a label file to class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.sample import IGNORE
from tilesegment.errors import InputError
from tilesegment.model.card import ModelClass

# Colours of a mask that was scaled or saved as JPEG are blended along borders; up to this Euclidean
# distance they count as the palette's colour.
COLOUR_DISTANCE = 50.0
# In the table of colours: met too far from all of the palette's, and not met yet.
_FAR, _UNSEEN = 254, 253


@dataclass(frozen=True)
class Indices:
    """Labels that are numbers. table: class index or IGNORE by value; other values are an error, but for
    the NaN of floating numbers, whose class is unknown."""

    table: tuple[tuple[int, int], ...]
    colours: ClassVar[bool] = False

    @classmethod
    def of(cls, table: Mapping[int, int]) -> Indices:
        """From a mapping of values to class indices."""
        return cls(tuple(sorted(table.items())))

    def __call__(self, values: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """Class indices (rows, columns) of a label file's bands. Raises InputError, naming `where`."""
        numbers = values[0]
        if len(values) > 1 and not (values[1:3] == numbers).all():
            raise InputError(f"{where}: holds colours, and class numbers were expected")
        lookup = np.full(65536, -1, np.int16)
        for value, index in self.table:
            lookup[value] = index
        unknown = np.isnan(numbers) if numbers.dtype.kind == "f" else None
        if numbers.dtype.kind != "u" or numbers.dtype.itemsize > 2:
            if unknown is not None:
                numbers = np.where(unknown, self.table[0][0], numbers)
            if numbers.dtype.kind == "f" and not (numbers == np.rint(numbers)).all():
                raise InputError(
                    f"{where}: holds fractions ({numbers.dtype}), and classes are whole numbers"
                )
            if numbers.size and (numbers.min() < 0 or numbers.max() > 65535):
                wrong_one = numbers.min() if numbers.min() < 0 else numbers.max()
                raise InputError(f"{where}: holds the value {wrong_one}, which is no class")
            numbers = numbers.astype(np.uint16)
        found = lookup[numbers]
        if unknown is not None:
            found[unknown] = IGNORE
        wrong = found < 0
        if wrong.any():
            values_found = sorted(set(numbers[wrong].tolist()))
            known = ", ".join(str(value) for value, _ in self.table[:8])
            raise InputError(
                f"{where}: holds the label {values_found[0]}, which is none of {known}"
                + (", ..." if len(self.table) > 8 else "")
            )
        return np.asarray(found, np.uint8)


@dataclass(frozen=True)
class Threshold:
    """Two classes in a file whose values were disturbed by JPEG: from 128 on it is class 1."""

    colours: ClassVar[bool] = True

    def __call__(self, values: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """See `Indices`."""
        return np.asarray(values[0] >= 128, np.uint8)


@dataclass(frozen=True)
class Roofs:
    """Class 1 against the rest: numbers 0 and 1 or 0 and 255, or black and one other colour."""

    colours: ClassVar[bool] = True

    def __call__(self, values: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """See `Indices`."""
        if len(values) < 3 or (values[1:3] == values[0]).all():
            return _ROOF_NUMBERS(values[:1], where)
        lit = values[:3].any(axis=0)
        distinct = np.unique(values[:3, lit], axis=1)
        if distinct.shape[1] > 1:
            shown = [tuple(column) for column in distinct.T[:2].tolist()]
            raise InputError(
                f"{where}: holds the colours {shown[0]} and {shown[1]} besides black, not one class"
            )
        return np.asarray(lit, np.uint8)


_ROOF_NUMBERS = Indices.of({0: 0, 1: 1, 255: 1, 65535: 1})


@dataclass(frozen=True)
class Colours:
    """Labels that are colours. palette: (red, green, blue, class index or IGNORE) of each; a pixel takes
    the nearest colour within `distance`, and none beyond it."""

    palette: tuple[tuple[int, int, int, int], ...]
    colours: ClassVar[bool] = True
    distance: float = COLOUR_DISTANCE

    def __call__(self, values: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """See `Indices`."""
        if len(values) < 3 or values.dtype != np.uint8:
            raise InputError(
                f"{where}: has {len(values)} bands of {values.dtype}, and colours were expected"
            )
        red, green, blue = values[:3].astype(np.uint32)
        codes = (red << 16) | (green << 8) | blue
        table = _colour_table(self.palette, self.distance)
        found: NDArray[np.uint8] = table[codes]
        unseen = found == _UNSEEN
        if unseen.any():
            new = np.unique(codes[unseen])
            table[new] = self._nearest(new)
            found = table[codes]
        far = found == _FAR
        if far.all():
            shown = tuple(int(band.flat[0]) for band in values[:3])
            raise InputError(f"{where}: none of its colours, such as {shown}, is one of the palette's")
        found[far] = IGNORE
        return found

    def _nearest(self, codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """The class of each colour, _FAR for those that are none's."""
        colours = np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], axis=1).astype(np.float32)
        best = np.full(len(codes), np.inf, np.float32)
        index = np.full(len(codes), _FAR, np.uint8)
        for row in np.array(self.palette, np.float32):
            squared = ((colours - row[:3]) ** 2).sum(axis=1)
            nearer = squared < best
            best[nearer], index[nearer] = squared[nearer], int(row[3])
        index[best > self.distance**2] = _FAR
        return index


@lru_cache(maxsize=2)
def _colour_table(palette: tuple[tuple[int, int, int, int], ...], distance: float) -> NDArray[np.uint8]:
    """The classes of all colours of 24 bits, filled as they are met: sorting a picture's takes longer than
    all of the rest."""
    return np.full(1 << 24, _UNSEEN, np.uint8)


def palette_of(classes: Sequence[ModelClass], distance: float = COLOUR_DISTANCE) -> Colours:
    """Each class's own colour. Where several share one, its pixels go to the first of them."""
    table: dict[tuple[int, int, int], int] = {}
    for index, entry in enumerate(classes):
        table.setdefault(entry.colour, index)
    return Colours(tuple((*colour, index) for colour, index in table.items()), distance)


def shared_colours(classes: Sequence[ModelClass]) -> list[str]:
    """A line for every colour that several classes share: masks cannot tell these apart."""
    by_colour: dict[tuple[int, int, int], list[str]] = {}
    for entry in classes:
        by_colour.setdefault(entry.colour, []).append(entry.name)
    return [
        f"{', '.join(names)} share the colour {colour}: its pixels count as {names[0]!r}"
        for colour, names in by_colour.items()
        if len(names) > 1
    ]


def merge_foreground(classes: Sequence[ModelClass], foreground: Sequence[str]) -> dict[int, int]:
    """Class indices as 1 where the class is among `foreground`, else 0.

    Raises InputError for a name that is no class.
    """
    names = [entry.name for entry in classes]
    for name in foreground:
        if name not in names:
            raise InputError(f"foreground {name!r} is no class of this data set ({', '.join(names)})")
    return {index: int(name in foreground) for index, name in enumerate(names)}
