"""Whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilesegment.evaluate.pixels import Confusion

Floats = NDArray[np.float64]
_BINS = 10
# Temperatures that a fit is looked for in.
_COLDEST, _HOTTEST = 0.05, 20.0


def reliability(
    confidence: Floats, hit: NDArray[np.bool_], weight: Floats | None = None
) -> list[dict[str, float]]:
    """Ten bins of confidence 0..1: how much is in each, its mean confidence, and the share of hits."""
    weight = np.ones(len(confidence)) if weight is None else weight
    which = np.clip((confidence * _BINS).astype(np.int64), 0, _BINS - 1)
    total = np.bincount(which, weight, _BINS)
    said = np.bincount(which, weight * confidence, _BINS)
    right = np.bincount(which, weight * hit, _BINS)
    return [
        {
            "from": k / _BINS,
            "count": float(total[k]),
            "confidence": float(said[k] / total[k]),
            "hits": float(right[k] / total[k]),
        }
        for k in range(_BINS)
        if total[k]
    ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """Expected calibration error: the mean difference between confidence and hits over the bins, weighted
    by what is in them (Guo et al. 2017, arXiv 1706.04599, eq. 3). NaN for nothing."""
    total = sum(row["count"] for row in bins)
    if not total:
        return float("nan")
    return sum(row["count"] * abs(row["confidence"] - row["hits"]) for row in bins) / total


def squared_differences(counts: NDArray[np.int64]) -> float:
    """The sum over both classes of squared differences between probability and truth, as `Confusion` has
    it. counts: as for `threshold_curve`."""
    said = np.linspace(0, 1, counts.shape[1])
    return float(2 * ((said[None] - np.arange(2)[:, None]) ** 2 * counts).sum())


def threshold_curve(counts: NDArray[np.int64]) -> list[dict[str, float]]:
    """IoU, precision and recall of class 1 at thresholds 0.05, 0.10, ..., 0.95. counts: (2, steps + 1)
    pixels by truth and by probability in whole steps from 0 to 1."""
    steps = counts.shape[1] - 1
    rows = []
    for k in range(1, 20):
        threshold = k / 20
        least = int(np.ceil(threshold * steps - 1e-9))
        above = counts[:, least:].sum(axis=1)
        below = counts[:, :least].sum(axis=1)
        summary = Confusion(2, matrix=np.stack([below, above], axis=1)).summary()
        rows.append({"threshold": threshold, **{n: summary[n] for n in ("iou", "precision", "recall")}})
    return rows


def fit_temperature(scores: Floats, truth: NDArray[np.int64]) -> float:
    """The temperature T that makes softmax(scores / T) most likely (Guo et al. 2017, section 4.2).

    scores: (n, classes) logits, or logarithms of probabilities; truth: (n,) the classes. The likelihood is
    convex in 1 / T, so that a golden-section search finds its maximum.
    """
    from scipy.optimize import minimize_scalar

    at_truth = scores[np.arange(len(truth)), truth]

    def cost(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        scaled = scores * inverse
        top = scaled.max(axis=1)
        return float((np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top - at_truth * inverse).mean())

    found = minimize_scalar(
        cost, bounds=(-np.log(_HOTTEST), -np.log(_COLDEST)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(-found.x))
