"""Instances: a region that several buildings make up, one part for each.

A network that was taught where buildings touch gives a probability of contact. What is surely roof and
surely no contact, deep enough inside, are seeds; a watershed on contact (the image foresting transform of
Falcao et al. 2004, in scipy) lets them grow until they meet, which they do where contact is highest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Shares of the largest probability.
_SURE_ROOF = 0.6
_SURE_CONTACT = 0.3
# Metres that a seed reaches from one of its pixels on all sides, and square metres that it has.
_DEPTH = 0.5
_AREA = 1.5


@dataclass(frozen=True)
class Planes:
    """What is known of a window, (rows, columns): where the region is, and the probabilities of roof and
    contact, uint8 of 0..254."""

    region: NDArray[np.bool_]
    roof: NDArray[np.uint8]
    contact: NDArray[np.uint8]


def split(planes: Planes, metres: tuple[float, float]) -> NDArray[np.int64] | None:
    """The part of each pixel of a region, from 1, 0 outside; None where it is one building. metres: of a
    pixel along rows and columns."""
    sure = planes.region & (planes.contact < _SURE_CONTACT * 254)
    if np.array_equal(sure, planes.region):
        return None
    seeds, count = ndimage.label(sure & (planes.roof > _SURE_ROOF * 254))
    if count < 2:
        return None
    # Pixels with seeds only around them, as far as a seed is deep; beyond the window's edge there are none.
    inner = (seeds > 0).view(np.uint8)
    for axis, metre in enumerate(metres):
        size = 2 * math.ceil(_DEPTH / metre) + 1
        inner = ndimage.minimum_filter1d(inner, size, axis, mode="constant", cval=0)
    deep = np.bincount(seeds[inner > 0], minlength=count + 1) > 0
    large = np.bincount(seeds.ravel(), minlength=count + 1) * metres[0] * metres[1] >= _AREA
    kept = deep & large
    kept[0] = False
    if kept.sum() < 2:
        return None
    markers = np.where(kept, np.cumsum(kept), 0)[seeds].astype(np.int32)
    # The ground around has a marker too, and a step to it that is higher than any in the region.
    markers[~planes.region] = -1
    relief = np.where(planes.region, planes.contact // 2, np.uint8(255))
    return np.asarray(np.maximum(ndimage.watershed_ift(relief, markers), 0), np.int64)


def component(mask: NDArray[np.bool_], row: int, col: int) -> NDArray[np.bool_]:
    """The 4-connected region of a pixel."""
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == labels[row, col], np.bool_)
