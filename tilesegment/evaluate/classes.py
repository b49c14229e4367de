"""Which classes of a prediction and of a truth are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import InputError
from tilesegment.model.card import BACKGROUND_NAMES
from tilesegment.raster.labels import UNKNOWN

_WHITE = 255
BACKGROUND = "background"


@dataclass(frozen=True)
class Named:
    """The classes of one side. path: for messages; names: by value, of a raster; or a layer's names under
    the values 1, 2, ...; empty for a layer without a column of classes. by_number: nobody named them."""

    path: str
    names: Mapping[int, str]
    by_number: bool

    @property
    def foreground(self) -> list[str]:
        """All names but a background's."""
        return [name for name in self.names.values() if not is_background(name)]


def is_background(name: str) -> bool:
    """Whether a class of that name is what objects lie on."""
    return name.lower() in BACKGROUND_NAMES


def of_raster(path: str, values: Sequence[int], names: Mapping[int, str]) -> Named:
    """The classes of a raster from the values in it and the names it has for some. A mask of 0 and 255, as
    image programs write them, has one class."""
    if not names and set(values) <= {0, _WHITE}:
        return Named(path, {0: BACKGROUND, _WHITE: str(_WHITE)}, by_number=True)
    found = {value: names.get(value) or (BACKGROUND if value == 0 else str(value)) for value in values}
    return Named(path, found, by_number=not names)


def of_layer(path: str, names: Sequence[str] | None) -> Named:
    """The classes of a polygon layer from the names in its column `class`."""
    distinct = [] if names is None else sorted(names)
    return Named(path, dict(enumerate(distinct, 1)), by_number=all(name.isdigit() for name in distinct))


@dataclass(frozen=True)
class Shared:
    """Common classes. names: 0 is the background, which may be nobody's; predicted, truth: the number of
    each side's names."""

    names: tuple[str, ...]
    predicted: Mapping[str, int]
    truth: Mapping[str, int]

    def table(self, side: Named, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        """Class numbers by a raster's values, (256,); UNKNOWN for others."""
        table = np.full(256, UNKNOWN, np.uint8)
        for value, name in side.names.items():
            table[value] = numbers[name]
        return table


def shared_classes(predicted: Named, truth: Named) -> Shared:
    """The classes of both sides as one list. One class on either side is the same class, whatever it is
    called; several are matched by name, or by value where one side has no names.

    Raises InputError where they cannot be related.
    """
    one, other = predicted.foreground, truth.foreground
    for side, more in ((predicted, truth), (truth, predicted)):
        if not side.names and len(more.foreground) > 1:
            raise InputError(
                f"{side.path}: has no column 'class', and {more.path} has the classes "
                f"{', '.join(more.foreground[:5])}"
            )
    if len(one) <= 1 and len(other) <= 1:
        named = [name for name in (*one, *other) if not name.isdigit()] or [*one, *other] or ["object"]
        return Shared(
            (BACKGROUND, named[0]), _numbered(predicted, dict.fromkeys(one, 1)),
            _numbered(truth, dict.fromkeys(other, 1)),
        )  # fmt: skip
    of_truth, of_predicted = _renamed(truth, predicted), _renamed(predicted, truth)
    names = list(dict.fromkeys([*of_truth.values(), *of_predicted.values()]))
    if of_truth and of_predicted and not set(of_truth.values()) & set(of_predicted.values()):
        raise InputError(
            f"{predicted.path} has the classes {', '.join(one[:5])} and {truth.path} has "
            f"{', '.join(other[:5])}: none in common"
        )
    numbers = {name: number for number, name in enumerate(names, 1)}
    return Shared(
        (BACKGROUND, *names),
        _numbered(predicted, {name: numbers[new] for name, new in of_predicted.items()}),
        _numbered(truth, {name: numbers[new] for name, new in of_truth.items()}),
    )


def _numbered(side: Named, numbers: dict[str, int]) -> dict[str, int]:
    return {name: numbers.get(name, 0) for name in side.names.values()}


def _renamed(side: Named, other: Named) -> dict[str, str]:
    """A side's foreground names as both sides call them: in small letters, or as the other side calls the
    same values."""
    found = {}
    for value, name in side.names.items():
        if not is_background(name):
            borrowed = other.names.get(value, name) if side.by_number and not other.by_number else name
            found[name] = borrowed.lower()
    return found
