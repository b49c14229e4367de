"""What every reader gives: pictures with their labels, by split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilesegment.model.card import ModelClass

# The label of pixels whose class is unknown: no loss and no metric counts them.
IGNORE = 255
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One picture and its labels.

    values: (bands, rows, columns) in the dtype of the file; label: (rows, columns) uint8, a class's place
    in `Reader.classes` or IGNORE; valid: (rows, columns) bool, False where the picture has no ground.
    contact: (rows, columns) uint8, 1 between two buildings that touch or nearly do, IGNORE where it is not
    known; None where the reader knows nothing of it.
    """

    values: NDArray[Any]
    label: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    contact: NDArray[np.uint8] | None = None


class Reader(Protocol):
    """A data set, opened. Plain values inside, so that it travels to worker processes.

    classes: in the order of the network's channels. gsd: metres a pixel, None for pictures.
    notes: what the user should know, a line each.
    """

    classes: tuple[ModelClass, ...]
    gsd: float | None
    notes: tuple[str, ...]

    def names(self, split: str) -> Sequence[str]:
        """The pictures of a split, by name, in a fixed order."""
        ...

    def read(self, split: str, index: int, rng: np.random.Generator | None) -> Sample:
        """One picture. rng: where the reader draws a part of a large scene, None for its fixed part.

        Raises InputError where a file is damaged or its labels are not what they should be.
        """
        ...
