"""From counts and matches to the figures that are shown, as plain values: numbers, None for what cannot be
said, and [low, high] for 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilesegment.evaluate import shapes
from tilesegment.evaluate.confidence import calibration_error, reliability, threshold_curve
from tilesegment.evaluate.intervals import interval
from tilesegment.evaluate.masks import MaskCounts
from tilesegment.evaluate.objects import (
    THRESHOLDS,
    Matching,
    Objects,
    Pairs,
    Tolerant,
    average_precision,
    by_size,
    match,
    match_tolerantly,
    overlapping,
    overlapping_share,
    panoptic_quality,
    scores,
)
from tilesegment.evaluate.pixels import Confusion
from tilesegment.tiling.blend import PROBABILITY_MAX

# Matched pairs whose outlines are compared; of more, so many are drawn.
_MOST_SHAPES = 20_000
# The intervals of objects are drawn from the cells of a lattice of so many a side.
_LATTICE = 20


@dataclass(frozen=True)
class ObjectResult:
    """Objects of both sides with their ids, overlapping pairs, the matching at 0.5 and the tolerant one."""

    predicted: Objects
    truth: Objects
    predicted_ids: NDArray[Any]
    truth_ids: NDArray[Any]
    pairs: Pairs
    matching: Matching
    tolerant: Tolerant


def compare_objects(
    predicted: tuple[Objects, NDArray[Any]], truth: tuple[Objects, NDArray[Any]]
) -> ObjectResult:
    """Match two sets of objects, each with its ids."""
    pairs = overlapping(predicted[0], truth[0])
    matching = match(pairs, predicted[0].order, len(truth[0]), 0.5)
    tolerant = match_tolerantly(pairs, matching, predicted[0], truth[0])
    return ObjectResult(*_both(predicted, truth), pairs, matching, tolerant)


def _both(
    predicted: tuple[Objects, NDArray[Any]], truth: tuple[Objects, NDArray[Any]]
) -> tuple[Objects, Objects, NDArray[Any], NDArray[Any]]:
    return predicted[0], truth[0], predicted[1], truth[1]


def pixel_summary(confusion: Confusion, names: Sequence[str]) -> dict[str, Any]:
    """Figures of a confusion matrix. brier is None without probabilities."""
    figures: dict[str, Any] = {name: _plain(value) for name, value in confusion.summary().items()}
    figures["pixels"] = confusion.total
    figures["by_class"] = [
        {
            "class": name,
            "iou": _plain(confusion.iou[k]),
            "dice": _plain(confusion.dice[k]),
            "precision": _plain(confusion.precision[k]),
            "recall": _plain(confusion.recall[k]),
        }
        for k, name in enumerate(names)
    ]
    figures["confusion"] = confusion.matrix.tolist()
    return figures


def pixel_intervals(units: NDArray[np.float64]) -> dict[str, Any]:
    """95 % intervals of figures, from the confusion matrices of tiles, pictures or places (units, classes,
    classes)."""

    def figure(name: str) -> Any:
        return lambda summed: Confusion(len(summed), matrix=summed.round().astype(np.int64)).summary()[name]

    return {name: _plain(interval(units, figure(name))) for name in ("iou", "precision", "recall")}


def mask_summary(
    counts: MaskCounts, names: Sequence[str], distances: Sequence[float], with_probability: bool
) -> dict[str, Any]:
    """Figures of a scene's pixels."""
    figures = pixel_summary(counts.confusion, names)
    units = counts.matrix[counts.known].astype(np.float64)
    figures["intervals"] = {"units": len(units), **pixel_intervals(units)}
    boundary = counts.boundary.sum(axis=0)
    figures["boundary"] = []
    for k, metres in enumerate(distances):
        with np.errstate(invalid="ignore", divide="ignore"):
            by_class = boundary[k, :, 0] / boundary[k, :, 1]
        known = by_class[1:][~np.isnan(by_class[1:])]
        of_class = {name: _plain(value) for name, value in zip(names, by_class, strict=True)}
        mean = float(known.mean()) if len(known) else None
        figures["boundary"].append({"metres": metres, "iou": mean, "by_class": of_class})
    if with_probability:
        figures["thresholds"] = threshold_curve(counts.probability)
        figures["reliability"] = reliability_of_pixels(counts.probability)
        figures["calibration_error"] = _plain(calibration_error(figures["reliability"]))
    else:
        figures["brier"] = None
    return figures


def reliability_of_pixels(counts: NDArray[np.int64]) -> list[dict[str, float]]:
    """Reliability of the probability of class 1. counts: as `MaskCounts.probability`."""
    steps = np.arange(PROBABILITY_MAX + 1) / PROBABILITY_MAX
    said, hit = np.tile(steps, 2), np.repeat([False, True], len(steps))
    return reliability(said, hit, counts.ravel().astype(np.float64))


def object_summary(result: ObjectResult, sizes: Sequence[float]) -> dict[str, Any]:
    """Figures of a scene's objects."""
    predicted, truth, matching = result.predicted, result.truth, result.matching
    tolerant = result.tolerant
    figures: dict[str, Any] = {
        "predicted": len(predicted),
        "truth": len(truth),
        "count_error": len(predicted) - len(truth),
        "hits": matching.hits,
        "false": matching.false,
        "missed": matching.missed,
        **scores(matching.hits, matching.false, matching.missed),
        "intervals": _intervals(result),
        "tolerant": {
            **tolerant.scores(),
            "merging": tolerant.merging,
            "merged": tolerant.merged,
            "split": tolerant.split,
            "splitting": tolerant.splitting,
        },
        **panoptic_quality(matching),
        **_precisions(result),
        "by_size": by_size(matching, predicted, truth, sizes),
        "shape": _shape_figures(result),
        "overlapping": overlapping_share(predicted),
        "orthogonality": {
            "prediction": shapes.orthogonality(predicted.polygons),
            "truth": shapes.orthogonality(truth.polygons),
        },
    }
    if predicted.confidence is not None:
        bins = reliability(predicted.confidence, matching.truth_of >= 0)
        figures["reliability"] = bins
        figures["calibration_error"] = calibration_error(bins)
    plain: dict[str, Any] = _plain(figures)
    return plain


def _precisions(result: ObjectResult) -> dict[str, Any]:
    """Average precision at 0.5, at 0.75 and over COCO's thresholds, each the mean over the classes that
    occur, and F1 by threshold. Without confidences there is no order to average over."""
    predicted, truth, pairs = result.predicted, result.truth, result.pairs
    found: dict[str, Any] = {"f1_by_iou": {}}
    averages = []
    for threshold in THRESHOLDS:
        matching = match(pairs, predicted.order, len(truth), threshold)
        f1 = scores(matching.hits, matching.false, matching.missed)["f1"]
        found["f1_by_iou"][f"{threshold:.2f}"] = f1
        if predicted.confidence is not None or not len(predicted):
            averages.append(_mean_precision(matching, predicted, truth))
    means = dict(zip((f"{t:.2f}" for t in THRESHOLDS), averages, strict=False))
    values = np.array(averages)
    overall = float(values.mean()) if len(values) else None
    return found | {"ap50": means.get("0.50"), "ap75": means.get("0.75"), "ap": overall}


def _mean_precision(matching: Matching, predicted: Objects, truth: Objects) -> float:
    order = predicted.order
    of_class = []
    for label in np.unique(truth.label):
        mine = predicted.label == label
        part = Matching(matching.truth_of[mine], matching.iou[mine], int((truth.label == label).sum()))
        ranks = np.cumsum(mine) - 1
        of_class.append(average_precision(part, ranks[order[mine[order]]]))
    return float(np.mean(of_class)) if of_class else float("nan")


def _shape_figures(result: ObjectResult) -> dict[str, Any]:
    """How well the outlines of matched pairs agree; of very many pairs, of 20,000 drawn ones."""
    hits = np.flatnonzero(result.matching.truth_of >= 0)
    if len(hits) > _MOST_SHAPES:
        hits = np.sort(np.random.default_rng(0).choice(hits, _MOST_SHAPES, replace=False))
    if not len(hits):
        return {"pairs": 0}
    one = result.predicted.polygons.take(hits)
    other = result.truth.polygons.take(result.matching.truth_of[hits])
    angles = shapes.tangent_angle(one, other)
    known = angles[~np.isnan(angles)]
    return {
        "pairs": len(hits),
        "iou": float(result.matching.iou[hits].mean()),
        "c_iou": float(shapes.complexity_iou(one, other, result.matching.iou[hits]).mean()),
        "n_ratio": shapes.vertex_ratio(one, other),
        "polis_m": float(shapes.polis(one, other).mean()),
        "max_tangent_angle": float(known.mean()) if len(known) else None,
    }


def _intervals(result: ObjectResult) -> dict[str, Any]:
    """95 % intervals from cells of a lattice of 20 a side; an object belongs to that of its centre."""
    units = _units(result)

    def figure(name: str) -> Any:
        return lambda counts: scores(*counts.tolist())[name]

    found = {name: interval(units, figure(name)) for name in ("precision", "recall", "f1")}
    return {"units": len(units), **found}


def _units(result: ObjectResult) -> NDArray[np.float64]:
    """(cells in use, 3): hits, false and missed objects."""
    centres = np.concatenate([result.predicted.polygons.centres, result.truth.polygons.centres])
    if not len(centres):
        return np.zeros((0, 3))
    low = centres.min(axis=0)
    size = max(float((centres.max(axis=0) - low).max()) / _LATTICE, 1e-9)
    cell = np.minimum(((centres - low) / size).astype(np.int64), _LATTICE - 1) @ np.array([1, _LATTICE])
    split = len(result.predicted)
    hit = result.matching.truth_of >= 0
    missed = ~result.matching.found
    counts = np.zeros((_LATTICE**2, 3))
    np.add.at(counts[:, 0], cell[:split][hit], 1)
    np.add.at(counts[:, 1], cell[:split][~hit], 1)
    np.add.at(counts[:, 2], cell[split:][missed], 1)
    return counts[counts.any(axis=1)]


def _plain(value: Any) -> Any:
    """Numbers as Python's, None for what is no number."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
