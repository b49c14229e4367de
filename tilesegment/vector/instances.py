"""Instances: a region that several buildings make up, one part for each.

A network that was taught where buildings touch gives a probability of contact. What is surely roof and
surely no contact, deep enough inside, are seeds; they grow as water rises over contact (a watershed), until
they meet where it is highest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Shares of the largest probability.
_SURE_ROOF = 0.6
_SURE_CONTACT = 0.3
# Metres that a seed reaches from one of its pixels on all sides, and square metres that it has.
_DEPTH = 0.5
_AREA = 1.5
# Metres across what parts two buildings, where nothing but the shape says so.
_NECK = 3.0
# Heights of the relief that are flooded together.
_LEVEL = 8
_NO_PART = 2**31 - 1


@dataclass(frozen=True)
class Planes:
    """What is known of a window, (rows, columns): where the region is, and the probabilities of roof and
    contact, uint8 of 0..254."""

    region: NDArray[np.bool_]
    roof: NDArray[np.uint8]
    contact: NDArray[np.uint8]


def may_touch(contact: NDArray[np.uint8]) -> bool:
    """Whether a window has any contact at all, which is quicker to see than whose."""
    return bool((contact >= _SURE_CONTACT * 254).any())


def split(planes: Planes, metres: tuple[float, float]) -> NDArray[np.int32] | None:
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
    return _grown(seeds, deep & large, planes.region, planes.contact)


def split_by_depth(planes: Planes, metres: tuple[float, float]) -> NDArray[np.int32] | None:
    """As `split`, by the region's shape alone: at places narrower than 3 m between wider ones."""
    inside = np.pad(planes.region, 1)
    depth = ndimage.distance_transform_edt(inside, sampling=metres)[1:-1, 1:-1].astype(np.float32)
    seeds, count = ndimage.label(depth > _NECK / 2)
    large = np.bincount(seeds.ravel(), minlength=count + 1) * metres[0] * metres[1] >= _AREA
    # Where it is deeper than the seeds' edges there is no choice.
    relief = (255 * (1 - np.minimum(depth / (_NECK / 2), 1))).astype(np.uint8)
    return _grown(seeds, large, planes.region, relief)


def _grown(
    seeds: NDArray[Any], kept: NDArray[np.bool_], region: NDArray[np.bool_], relief: NDArray[np.uint8]
) -> NDArray[np.int32] | None:
    """A region's pixels by the seeds that reach them first as the water rises over a relief; None for one
    seed."""
    kept[0] = False
    if kept.sum() < 2:
        return None
    parts = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[seeds]
    return _flooded(np.pad(parts, 1), np.pad(region, 1), np.pad(relief // _LEVEL, 1))[1:-1, 1:-1]


def _flooded(
    parts: NDArray[np.int32], region: NDArray[np.bool_], level: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """Parts grown over all of a connected region, level by level, within each from all sides at once
    (Beucher and Meyer 1993). Arrays have a rim of one pixel outside of the region."""
    flat, dry = parts.ravel().copy(), (region & (parts == 0)).ravel()
    steps = np.array([-parts.shape[1], -1, 1, parts.shape[1]])
    waiting = np.flatnonzero(dry)
    of_level = level.ravel()[waiting]
    for height in np.unique(of_level).tolist():
        front = waiting[(of_level <= height) & dry[waiting]]
        wet = np.zeros(len(flat), np.bool_)
        wet[front] = True
        while len(front):
            beside = flat[front[:, None] + steps]
            # Of two parts that come at once the first one: a choice that no order of pixels changes.
            found = np.where(beside > 0, beside, np.int32(_NO_PART)).min(axis=1)
            reached = front[found < _NO_PART]
            flat[reached] = found[found < _NO_PART]
            dry[reached] = wet[reached] = False
            around = (reached[:, None] + steps).ravel()
            front = np.unique(around[wet[around]])
    return flat.reshape(parts.shape)


def component(mask: NDArray[np.bool_], row: int, col: int) -> NDArray[np.bool_]:
    """The 4-connected region of a pixel."""
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == labels[row, col], np.bool_)
