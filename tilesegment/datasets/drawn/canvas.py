"""What crops are drawn on, in metres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Of metres or colours.
Points = NDArray[np.float64]


@dataclass
class Canvas:
    """A picture in the making; lengths are metres.

    picture: (rows, columns, 3) float32 0..255; numbers: (rows, columns) int32, of the building at each
    pixel, 0 where none is; taken: where something stands already. scale: pixels a metre. sun: where shadows
    fall, for each metre of height; left: the share of light that is left there.
    """

    rng: np.random.Generator
    picture: NDArray[np.float32]
    numbers: NDArray[np.int32]
    taken: NDArray[np.bool_]
    scale: float
    sun: Points
    left: float

    @property
    def extent(self) -> Points:
        """Metres across and down."""
        return np.array(self.numbers.shape[::-1]) / self.scale

    def mask(self, *outlines: Points) -> NDArray[np.bool_]:
        """Where some outlines (n, 2) in metres are, as one shape."""
        found = np.zeros(self.numbers.shape, np.uint8)
        for outline in outlines:
            cv2.fillPoly(found, [np.rint(outline * self.scale).astype(np.int32)], 1)
        return found.astype(np.bool_)

    def line(self, points: Points, width: float) -> NDArray[np.bool_]:
        """Where a line of some metres' width is."""
        found = np.zeros(self.numbers.shape, np.uint8)
        across = max(1, round(width * self.scale))
        cv2.polylines(found, [np.rint(points * self.scale).astype(np.int32)], False, 1, across)
        return found.astype(np.bool_)

    def paint(self, where: NDArray[np.bool_], colour: Any, grain: float = 4.0) -> None:
        """A colour with some grain."""
        count = int(np.count_nonzero(where))
        dust = self.rng.normal(0, grain, (count, 1)).astype(np.float32)
        self.picture[where] = np.asarray(colour, np.float32) + dust

    def shadow(self, outlines: Sequence[Points], height: float, own: NDArray[np.bool_]) -> None:
        """Darken the ground behind a body; `own` is where it stands itself."""
        moved = [np.vstack([outline, outline + self.sun * height]) for outline in outlines]
        hulls = [cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64) for points in moved]
        where = self.mask(*hulls) & ~own
        self.picture[where] *= self.left


def noise(rng: np.random.Generator, shape: tuple[int, int], pixels: Sequence[float]) -> NDArray[np.float32]:
    """Smooth random numbers about 0 +- 1, (rows, columns): octaves as coarse as `pixels` say."""
    total = np.zeros(shape, np.float32)
    for coarse in pixels:
        rows, cols = (max(2, int(length / coarse) + 2) for length in shape)
        octave = rng.standard_normal((rows, cols), np.float32)
        total += cv2.resize(octave, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(total / max(1e-6, float(total.std())), np.float32)


def rectangle(centre: Points, size: tuple[float, float], angle: float) -> Points:
    """The corners (4, 2) of a rectangle of `size` (along, across)."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return np.asarray(centre + signs[:, :1] * size[0] * along + signs[:, 1:] * size[1] * across)
