"""Metrics by object: predicted polygons matched to true ones.

Matching and average precision are those of COCO (Lin et al. 2014, as pycocotools computes them, with no
limit to the number of objects): predictions in order of confidence, each takes the free true object of the
same class that it overlaps most, where their intersection over union (IoU) reaches the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.polygons import Floats, Ints, Polygons, in_order_of_place
from tilesegment.tiling.memory import give_back_memory

# COCO's ten: 0.50, 0.55, ..., 0.95.
THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
_RECALLS = np.linspace(0.0, 1.0, 101)
# Polygons whose pairs are intersected in one go.
_CHUNK = 10_000
# A building lies in another polygon where more than this share of its area does.
_MOSTLY = 0.5


@dataclass(frozen=True)
class Pairs:
    """Overlapping objects of two sets: indices into them, and their intersection over union.

    predicted, truth: (n,); shared: area of the intersection; iou: (n,).
    """

    predicted: Ints
    truth: Ints
    shared: Floats
    iou: Floats


@dataclass(frozen=True)
class Objects:
    """One set of polygons, valid, on a plane whose unit is the metre (or the pixel, for pictures).

    polygons: n of them; label: (n,) class numbers; confidence: (n,), None where the layer has none.
    """

    polygons: Polygons
    label: Ints
    confidence: Floats | None = None

    def __len__(self) -> int:
        return len(self.polygons)

    @property
    def area(self) -> Floats:
        """Areas, (n,)."""
        return self.polygons.area

    @property
    def order(self) -> Ints:
        """Indices by falling confidence; equal ones, and sets without confidence, in their own order."""
        if self.confidence is None:
            return np.arange(len(self))
        return np.argsort(-self.confidence, kind="stable")


def overlapping(predicted: Objects, truth: Objects) -> Pairs:
    """All pairs of the same class that share some area, in order of the predictions. Memory grows with the
    pairs, and holds the geometries of one neighbourhood."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    order = in_order_of_place(predicted.polygons.centres)
    for begin in range(0, len(order), _CHUNK):
        mine = order[begin : begin + _CHUNK]
        low, high = predicted.polygons.bounds[mine, :2], predicted.polygons.bounds[mine, 2:]
        near = truth.polygons.touching((*low.min(axis=0), *high.max(axis=0)))
        of_mine, of_near = predicted.polygons.take(mine), truth.polygons.take(near)
        one, other = shapely.STRtree(of_near).query(of_mine)
        same = predicted.label[mine[one]] == truth.label[near[other]]
        one, other = one[same], other[same]
        shared = shapely.area(shapely.intersection(of_mine[one], of_near[other]))
        some = shared > 0
        parts.append((mine[one[some]], near[other[some]], shared[some]))
        del of_mine, of_near
        give_back_memory()
    first, second, area = (np.concatenate(column) for column in zip(*parts, strict=True))
    by_place = np.lexsort((second, first))
    first, second, area = first[by_place], second[by_place], area[by_place]
    both = predicted.area[first] + truth.area[second] - area
    return Pairs(first, second, area, np.minimum(area / both, 1.0))


@dataclass(frozen=True)
class Matching:
    """Which objects belong together at a threshold. truth_of: (predictions,) index of the true object, -1
    for none; iou: (predictions,) of the match, 0 for none; truths: how many true objects there are."""

    truth_of: Ints
    iou: Floats
    truths: int

    @property
    def hits(self) -> int:
        """Matched pairs."""
        return int((self.truth_of >= 0).sum())

    @property
    def false(self) -> int:
        """Predictions without a true object."""
        return len(self.truth_of) - self.hits

    @property
    def missed(self) -> int:
        """True objects without a prediction."""
        return self.truths - self.hits

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which true objects were matched, (truths,)."""
        found = np.zeros(self.truths, np.bool_)
        found[self.truth_of[self.truth_of >= 0]] = True
        return found


def match(pairs: Pairs, order: Ints, truths: int, threshold: float) -> Matching:
    """Match 1:1 in the order of the predictions (`Objects.order`), by the rule of COCO."""
    count = len(order)
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    good = np.flatnonzero(pairs.iou >= min(threshold, 1 - 1e-10))
    # Among equal overlaps the last true object is taken, as pycocotools does.
    good = good[np.lexsort((-pairs.truth[good], -pairs.iou[good], rank[pairs.predicted[good]]))]
    one, other, iou = pairs.predicted[good], pairs.truth[good], pairs.iou[good]
    truth_of, of_match = np.full(count, -1, np.int64), np.zeros(count)
    # Pairs that nobody else has a claim to are most of them, and need no loop.
    alone = (np.bincount(one, minlength=count)[one] == 1) & (
        np.bincount(other, minlength=truths)[other] == 1
    )
    truth_of[one[alone]], of_match[one[alone]] = other[alone], iou[alone]
    taken: set[int] = set()
    for k in np.flatnonzero(~alone).tolist():
        if truth_of[one[k]] < 0 and int(other[k]) not in taken:
            taken.add(int(other[k]))
            truth_of[one[k]], of_match[one[k]] = other[k], iou[k]
    return Matching(truth_of, of_match, truths)


def average_precision(matching: Matching, order: Ints) -> float:
    """Precision averaged over 101 recalls from 0 to 1, each the best at that recall or beyond (COCO). NaN
    where nothing is true; 0 where nothing is predicted."""
    if not matching.truths:
        return float("nan")
    if not len(order):
        return 0.0
    hit = matching.truth_of[order] >= 0
    hits = np.cumsum(hit)
    recall = hits / matching.truths
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(at < len(best), best[np.minimum(at, len(best) - 1)], 0.0).mean())


def scores(hits: float, false: float, missed: float) -> dict[str, float]:
    """Precision (NaN where nothing was predicted), recall (NaN where nothing is true) and F1, which is 0
    where only one of both sets is empty and NaN where both are."""
    nothing = float("nan")
    return {
        "precision": hits / (hits + false) if hits + false else nothing,
        "recall": hits / (hits + missed) if hits + missed else nothing,
        "f1": 2 * hits / (2 * hits + false + missed) if hits + false + missed else nothing,
    }


def panoptic_quality(matching: Matching) -> dict[str, float]:
    """Panoptic quality and its factors, segmentation and recognition quality (Kirillov et al. 2019,
    arXiv 1801.00868), where only an IoU above 0.5 makes a match. NaN where both sets are empty."""
    matched = matching.iou > 0.5
    hits, summed = int(matched.sum()), float(matching.iou[matched].sum())
    total = hits + (len(matching.truth_of) - hits) / 2 + (matching.truths - hits) / 2
    nothing = float("nan")
    return {
        "pq": summed / total if total else nothing,
        "sq": summed / hits if hits else nothing,
        "rq": hits / total if total else nothing,
    }


@dataclass(frozen=True)
class Tolerant:
    """Matches that forgive merging and splitting.

    found: (truths,), right: (predictions,) bool: matched 1:1, or part of one of these: a merge, one
    prediction that reaches the threshold with the union of several true objects that lie mostly in it; a
    split, several predictions that lie mostly in one true object and reach it together.
    merging, merged: predictions and true objects in merges; split, splitting: true objects and predictions
    in splits.
    """

    found: NDArray[np.bool_]
    right: NDArray[np.bool_]
    merging: int
    merged: int
    split: int
    splitting: int

    def scores(self) -> dict[str, float]:
        """Precision, recall and F1, as the harmonic mean of both."""
        precision = float(self.right.mean()) if len(self.right) else float("nan")
        recall = float(self.found.mean()) if len(self.found) else float("nan")
        either = len(self.right) + len(self.found)
        both = np.nan_to_num(precision) + np.nan_to_num(recall)
        product = 2 * np.nan_to_num(precision) * np.nan_to_num(recall)
        f1 = (product / both if both else 0.0) if either else float("nan")
        return {"precision": precision, "recall": recall, "f1": float(f1)}


def match_tolerantly(
    pairs: Pairs, matching: Matching, predicted: Objects, truth: Objects, threshold: float = 0.5
) -> Tolerant:
    """See `Tolerant`; `matching` is that of the same threshold. The area of a union is taken for the sum of
    areas: objects of one set hardly overlap."""
    found, right = matching.found, matching.truth_of >= 0
    merging, merged = _groups(
        pairs.predicted, pairs.truth, pairs.shared, predicted.area, truth.area, threshold
    )
    split, splitting = _groups(
        pairs.truth, pairs.predicted, pairs.shared, truth.area, predicted.area, threshold
    )
    found[merged], found[split] = True, True
    right[merging], right[splitting] = True, True
    return Tolerant(found, right, len(merging), len(merged), len(split), len(splitting))


def _groups(
    whole: Ints, part: Ints, shared: Floats, whole_area: Floats, part_area: Floats, threshold: float
) -> tuple[Ints, Ints]:
    """The wholes that several parts lie mostly in and that reach the threshold with them; these parts."""
    mostly = shared > _MOSTLY * part_area[part]
    whole, part, shared = whole[mostly], part[mostly], shared[mostly]
    count = len(whole_area)
    parts = np.bincount(whole, minlength=count)
    inside = np.bincount(whole, shared, count)
    summed = np.bincount(whole, part_area[part], count)
    iou = inside / np.maximum(whole_area + summed - inside, np.finfo(float).tiny)
    groups = (parts > 1) & (iou >= threshold)
    return np.flatnonzero(groups), np.unique(part[groups[whole]])


def by_size(
    matching: Matching, predicted: Objects, truth: Objects, edges: Sequence[float]
) -> list[dict[str, float | None]]:
    """Scores of the size classes [0, edges[0]), [edges[0], edges[1]), ..., and from edges[-1] on, whose
    `to_m2` is None: a hit and a miss count by the true object's area, a false object by its own."""
    limits = [0.0, *edges, float("inf")]
    found, false = matching.found, matching.truth_of < 0
    rows = []
    for low, high in pairwise(limits):
        of_truth = (truth.area >= low) & (truth.area < high)
        of_false = (predicted.area >= low) & (predicted.area < high) & false
        hits = int((found & of_truth).sum())
        row: dict[str, float | None] = {"from_m2": low, "to_m2": None if high == limits[-1] else high}
        row["truth"] = int(of_truth.sum())
        row.update(scores(hits, int(of_false.sum()), int(of_truth.sum()) - hits))
        rows.append(row)
    return rows


def overlapping_share(objects: Objects, tolerance: float = 1e-3) -> float:
    """Share of the objects that share more than `tolerance` m2 with another of their set; NaN for none."""
    if not len(objects):
        return float("nan")
    pairs = overlapping(objects, objects)
    others = (pairs.predicted != pairs.truth) & (pairs.shared > tolerance)
    return len(np.unique(pairs.predicted[others])) / len(objects)
