"""Boundary IoU: how well masks agree near their outlines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def boundary_region(mask: Mask, reach: tuple[int, int]) -> Mask:
    """The pixels of a mask (rows, columns) within `reach` (rows, columns) pixels of its outline, what lies
    beyond the array being outside of it: the mask less its erosion by a rectangle, as the authors' program
    takes it (Cheng et al. 2021, arXiv 2103.16562, github.com/bowenc0221/boundary-iou-api)."""
    rows, cols = reach
    inner = ndimage.minimum_filter(
        mask.view(np.uint8), (2 * rows + 1, 2 * cols + 1), mode="constant", cval=0
    )
    return np.asarray(mask & (inner == 0), np.bool_)


def boundary_counts(
    truth: NDArray[np.uint8], found: NDArray[np.uint8], known: Mask, classes: int, reach: tuple[int, int]
) -> NDArray[np.int64]:
    """Pixels of the boundary regions of each class, (classes, 2) of intersection and union, counted where
    `known`. truth, found: class numbers (rows, columns)."""
    counts = np.zeros((classes, 2), np.int64)
    for value in range(classes):
        one, other = truth == value, found == value
        if not one.any() and not other.any():
            continue
        one, other = boundary_region(one, reach) & known, boundary_region(other, reach) & known
        counts[value] = (one & other).sum(), (one | other).sum()
    return counts
