"""Instances: a region that several buildings make up, one part for each.

A network that was taught where buildings touch gives a probability of contact. What is surely roof and
surely no contact, deep enough inside, are seeds; they grow as water rises over contact (a watershed), until
they meet where it is highest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
# Pixels of a band.
_TOGETHER = 1_000_000
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
    sure &= planes.roof > _SURE_ROOF * 254
    seeds, count = ndimage.label(sure)
    if count < 2:
        return None
    # Pixels with seeds only around them, as far as a seed is deep; beyond the window's edge there are none.
    inner = sure.view(np.uint8)
    for axis, metre in enumerate(metres):
        size = 2 * math.ceil(_DEPTH / metre) + 1
        inner = ndimage.minimum_filter1d(inner, size, axis, mode="constant", cval=0)
    deep = np.bincount(seeds[inner > 0], minlength=count + 1) > 0
    return _grown(seeds, deep & _are_large(seeds, count, metres), planes.region, planes.contact)


def split_by_depth(planes: Planes, metres: tuple[float, float]) -> NDArray[np.int32] | None:
    """As `split`, by the region's shape alone: at places narrower than 3 m between wider ones."""
    inside = np.pad(planes.region, 1)
    depth = ndimage.distance_transform_edt(inside, sampling=metres)[1:-1, 1:-1].astype(np.float32)
    seeds, count = ndimage.label(depth > _NECK / 2)
    large = _are_large(seeds, count, metres)
    # Where it is deeper than the seeds' edges there is no choice.
    relief = (255 * (1 - np.minimum(depth / (_NECK / 2), 1))).astype(np.uint8)
    return _grown(seeds, large, planes.region, relief)


def _are_large(seeds: NDArray[np.int32], count: int, metres: tuple[float, float]) -> NDArray[np.bool_]:
    """By number, from 0, which seeds are large enough."""
    pixels = np.zeros(count + 1, np.int64)
    for rows in _bands(seeds):
        pixels += np.bincount(seeds[rows].ravel(), minlength=count + 1)
    return np.asarray(pixels * metres[0] * metres[1] >= _AREA)


def _bands(array: NDArray[Any]) -> Iterator[slice]:
    """Rows that are looked at together: numpy counts, and picks by number, in eight bytes a pixel."""
    height = max(1, _TOGETHER // array.shape[1])
    for row in range(0, len(array), height):
        yield slice(row, row + height)


def _grown(
    seeds: NDArray[np.int32], kept: NDArray[np.bool_], region: NDArray[np.bool_], relief: NDArray[np.uint8]
) -> NDArray[np.int32] | None:
    """A region's pixels by the seeds that reach them first as the water rises over a relief; None for one
    seed."""
    kept[0] = False
    if kept.sum() < 2:
        return None
    number = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    parts = np.zeros((region.shape[0] + 2, region.shape[1] + 2), np.int32)
    for rows in _bands(seeds):
        parts[1:-1, 1:-1][rows] = number[seeds[rows]]
    _flood(parts, np.pad(region, 1), np.pad(relief // _LEVEL, 1))
    return parts[1:-1, 1:-1]


def _flood(parts: NDArray[np.int32], region: NDArray[np.bool_], level: NDArray[np.uint8]) -> None:
    """Grow parts over all of a connected region, level by level, within each from all sides at once
    (Beucher and Meyer 1993). Arrays have a rim of one pixel outside of the region."""
    flat, dry = parts.reshape(-1), (region & (parts == 0)).ravel()
    steps = np.array([-parts.shape[1], -1, 1, parts.shape[1]])
    waiting = np.flatnonzero(dry)
    of_level = level.ravel()[waiting]
    wet = np.zeros(len(flat), np.bool_)
    for height in np.unique(of_level).tolist():
        wet[waiting[of_level < height]] = False
        front = waiting[(of_level <= height) & dry[waiting]]
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


def covered(mask: NDArray[np.bool_], parts: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """The part of every pixel of a mask, from 1: what no part has, as where there are none (None), is parts
    as far as it is 4-connected."""
    left = mask if parts is None else mask & (parts == 0)
    pieces, _ = ndimage.label(left)
    if parts is not None:
        pieces[left] += parts.max()
        pieces += parts
    return np.asarray(pieces, np.int32)


def component(mask: NDArray[np.bool_], row: int, col: int) -> NDArray[np.bool_]:
    """The 4-connected region of a pixel."""
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == labels[row, col], np.bool_)
