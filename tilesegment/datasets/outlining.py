"""Outlines of buildings of which only boxes are known, drawn where a model and the colours agree."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.buildings import Box, label_of_boxes
from tilesegment.datasets.sample import IGNORE

# Around a box so much of its longer side is looked at, and at least so many pixels, for the ground's looks.
_MARGIN, _LEAST_MARGIN = 0.3, 12
# A model's answer that colours start from is surer than the one that is believed in the end.
_SURE = 0.1
_LEAST_SURE = 20
_ROUNDS = 4
# A building touches all four sides of its box: an outline that stays further away than this share of the
# box's height or width, or so many pixels, is of a part of it.
_AWAY, _LEAST_AWAY = 0.2, 5


def label_of_outlines(
    picture: NDArray[np.uint8], probability: NDArray[np.float32], boxes: tuple[Box, ...], threshold: float
) -> NDArray[np.uint8]:
    """The label of a picture whose buildings have boxes: 0 outside of them; inside, 1 and 0 where the model
    and the picture's colours say the same, IGNORE where they do not. A box whose outline does not reach
    its four sides keeps its core, see `buildings.label_of_boxes`.

    picture: (3, rows, columns); probability: of roof, (rows, columns); threshold: of the model. Colours are
    told apart by GrabCut (Rother, Kolmogorov and Blake 2004) from what the model is sure of.
    """
    rows, cols = probability.shape
    plain = np.ascontiguousarray(picture.transpose(1, 2, 0))
    colours = np.asarray(cv2.cvtColor(plain, cv2.COLOR_RGB2LAB), np.uint8)
    inside = np.zeros((rows, cols), np.bool_)
    for col, row, width, height in boxes:
        inside[max(0, row) : max(0, row + height), max(0, col) : max(0, col + width)] = True
    label, kept = np.where(inside, IGNORE, 0).astype(np.uint8), []
    for box in boxes:
        col, row, width, height = box
        margin = max(_LEAST_MARGIN, round(_MARGIN * max(width, height)))
        view = (
            slice(max(0, row - margin), max(0, row + height + margin)),
            slice(max(0, col - margin), max(0, col + width + margin)),
        )
        own = np.zeros((rows, cols), np.bool_)[view]
        top, left = view[0].start, view[1].start
        own[max(0, row - top) : row + height - top, max(0, col - left) : col + width - left] = True
        said = probability[view] >= threshold
        found = _by_colour(colours[view], probability[view], threshold, own, inside[view])
        if found is None or not _touches(found & said, box, (top, left), (rows, cols)):
            kept.append(box)
            continue
        here = label[view]
        here[own & ~found & ~said & (here == IGNORE)] = 0
        here[found & said] = 1
    cores = label_of_boxes(tuple(kept), (rows, cols)) == 1
    label[cores & (label == IGNORE)] = 1
    return label


def _by_colour(
    colours: NDArray[np.uint8],
    probability: NDArray[np.float32],
    threshold: float,
    own: NDArray[np.bool_],
    inside: NDArray[np.bool_],
) -> NDArray[np.bool_] | None:
    """What is roof in a box by its colours; None where the model is sure of nothing."""
    sure = probability >= threshold + _SURE
    state = np.full(own.shape, cv2.GC_PR_BGD, np.uint8)
    state[sure & inside] = cv2.GC_PR_FGD
    state[~inside] = cv2.GC_BGD
    if np.count_nonzero(sure & own) < _LEAST_SURE or not (state == cv2.GC_BGD).any():
        return None
    # Colours are put into groups at random.
    cv2.setRNGSeed(0)
    ground, roofs = np.zeros((1, 65)), np.zeros((1, 65))
    whole = (0, 0, 1, 1)  # not looked at, since there is a mask
    picture = np.ascontiguousarray(colours)
    cv2.grabCut(picture, state, whole, ground, roofs, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    roof = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    return np.asarray(cv2.medianBlur(roof, 5) > 0) & own


def _touches(found: NDArray[np.bool_], box: Box, origin: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether a shape reaches the four sides of its box, or the picture's rim where that cuts it."""
    if not found.any():
        return False
    for axis, (first, length) in enumerate(((box[1], box[3]), (box[0], box[2]))):
        reached = np.flatnonzero(found.any(axis=1 - axis)) + origin[axis]
        away = max(_LEAST_AWAY, _AWAY * length)
        begin, end = max(0, first), min(first + length, shape[axis])
        if reached[0] - begin > away or end - 1 - reached[-1] > away:
            return False
    return True
