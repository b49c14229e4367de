"""Training crops mixed: roofs in other colours, and roofs of one place laid into another.

Copy-paste (Ghiasi et al. 2021, arXiv 2012.07177), with the shadow that a building throws; what a roof looks
like and what stands around it are thereby learnt apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tilesegment.datasets.sample import IGNORE, Sample

# Roofs of at least so many square metres, and at most this share of a crop, are laid into others.
_LEAST_METRES2, _LARGEST_SHARE = 8.0, 0.2
_MOST_ROOFS, _TRIES = 6, 8
# Metres that stay free around a roof that is laid down.
_FREE_METRES = 0.6
_SHADOW_METRES = (0.5, 4.0)
_SHADOW_LEFT = (0.35, 0.75)
# The share of a crop's roofs that get another colour.
_RECOLOURED = 0.5
# Hue (degrees) and saturation of roofs: tiles, rust and brick; blue, green and grey sheets; anything.
_COLOURS = (
    ((0, 35), (0.2, 0.65)),
    ((190, 240), (0.1, 0.5)),
    ((90, 170), (0.1, 0.4)),
    ((0, 360), (0.0, 0.15)),
)


def recoloured(sample: Sample, rng: np.random.Generator) -> Sample:
    """A sample some of whose roofs have another colour and brightness, with their texture and shade."""
    if sample.values.shape[0] != 3:
        return sample
    numbers, count = _roofs(sample)
    values = sample.values.astype(np.float32)
    brightest = float(np.percentile(sample.values, 98)) or 1.0
    for number in range(1, count + 1):
        if rng.random() >= _RECOLOURED:
            continue
        where = numbers == number
        pixels = values[:, where]
        mean = pixels.mean(axis=1, keepdims=True)
        wanted = _colour(rng)[:, None] * brightest * rng.uniform(0.25, 0.95)
        factor = np.clip(wanted.mean() / max(1.0, float(mean.mean())), 0.5, 2.0)
        values[:, where] = wanted + (pixels - mean) * factor
    return replace(sample, values=_as(values, sample.values.dtype))


def laid_in(sample: Sample, donor: Sample, gsd: float, rng: np.random.Generator) -> Sample:
    """A sample with roofs of another one on its free ground, and their shadows. gsd: metres a pixel."""
    numbers, count = _roofs(donor)
    least, largest = _LEAST_METRES2 / gsd**2, _LARGEST_SHARE * numbers.size
    taken = []
    for number, box in enumerate(ndimage.find_objects(numbers, count), 1):
        mask = numbers[box] == number
        if not _at_rim(box, numbers.shape) and least <= np.count_nonzero(mask) <= largest:
            taken.append((box, mask))
    if not taken or donor.values.shape[0] != sample.values.shape[0]:
        return sample
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*_SHADOW_METRES) / gsd
    left = float(rng.uniform(*_SHADOW_LEFT))
    values, label = sample.values.astype(np.float32), sample.label.copy()
    contact = None if sample.contact is None else sample.contact.copy()
    # Nothing is laid where a roof is, or may be.
    free = ndimage.binary_erosion((label == 0) & sample.valid, iterations=max(1, round(_FREE_METRES / gsd)))
    for index in rng.permutation(len(taken))[:_MOST_ROOFS].tolist():
        box, mask = taken[index]
        place = _free_place(free, mask, rng)
        if place is None:
            continue
        roof = np.zeros(label.shape, np.bool_)
        roof[place] = mask
        shade = _shadow(roof, angle, length) & ~roof & (label != 1)
        values *= 1 - (1 - left) * ndimage.gaussian_filter(shade.astype(np.float32), 1.0)
        # The rim of a roof is as soft as a picture's own edges.
        soft = ndimage.gaussian_filter(roof.astype(np.float32), 0.7)[place] * mask
        under = values[(slice(None), *place)]
        under += soft * (donor.values[(slice(None), *box)] - under)
        label[roof], free[roof] = 1, False
        if contact is not None:
            contact[roof] = IGNORE if donor.contact is None else donor.contact[box][mask]
    return Sample(_as(values, sample.values.dtype), label, sample.valid, contact)


def _roofs(sample: Sample) -> tuple[NDArray[np.int32], int]:
    """Roofs by number from 1 on, apart where contact is known."""
    mask = (sample.label == 1) & sample.valid
    if sample.contact is not None:
        mask &= sample.contact != 1
    numbers, count = ndimage.label(mask)
    return numbers, int(count)


def _at_rim(box: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == whole for part, whole in zip(box, shape, strict=True))


def _free_place(
    free: NDArray[np.bool_], mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """A random place whose every pixel under a mask is free."""
    room = [whole - part for whole, part in zip(free.shape, mask.shape, strict=True)]
    for _ in range(_TRIES):
        row, col = (int(rng.integers(each + 1)) for each in room)
        place = slice(row, row + mask.shape[0]), slice(col, col + mask.shape[1])
        if free[place][mask].all():
            return place
    return None


def _shadow(roof: NDArray[np.bool_], angle: float, length: float) -> NDArray[np.bool_]:
    """What a shape covers while it is moved by so many pixels."""
    shade = roof.copy()
    for step in np.arange(1.0, length + 1.0):
        rows, cols = round(float(np.sin(angle) * step)), round(float(np.cos(angle) * step))
        shade |= _moved(roof, rows, cols)
    return shade


def _moved(mask: NDArray[np.bool_], rows: int, cols: int) -> NDArray[np.bool_]:
    found = np.zeros_like(mask)
    height, width = mask.shape
    found[max(0, rows) : height + min(0, rows), max(0, cols) : width + min(0, cols)] = mask[
        max(0, -rows) : height - max(0, rows), max(0, -cols) : width - max(0, cols)
    ]
    return found


def _colour(rng: np.random.Generator) -> NDArray[np.float32]:
    """Red, green and blue in 0..1 of one of the kinds of roofs, the strongest of them 1."""
    hues, saturations = _COLOURS[int(rng.integers(len(_COLOURS)))]
    hue, saturation = rng.uniform(*hues) / 60, rng.uniform(*saturations)
    # From hue, saturation and a value of 1 (Smith 1978).
    offsets = (np.array([5.0, 3.0, 1.0]) + hue) % 6
    found = 1 - saturation * np.clip(np.minimum(offsets, 4 - offsets), 0, 1)
    return np.asarray(found, np.float32)


def _as(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        return np.clip(np.rint(values), bounds.min, bounds.max).astype(dtype)
    return values.astype(dtype)
