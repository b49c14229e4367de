"""Metrics by pixel, from a confusion matrix that is summed as pictures come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Confusion:
    """Counted pixels: matrix (classes, classes) int64, rows truth, columns prediction; squared: sum of
    squared differences between probability and truth, over all classes and counted pixels."""

    classes: int
    squared: float = 0.0
    matrix: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        if not self.matrix.size:
            self.matrix = np.zeros((self.classes, self.classes), np.int64)

    def add(self, matrix: NDArray[np.int64], squared: float = 0.0) -> None:
        """Count more pixels."""
        self.matrix = self.matrix + matrix
        self.squared += squared

    @property
    def total(self) -> int:
        """Pixels counted."""
        return int(self.matrix.sum())

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union by class, NaN for a class that is neither there nor predicted."""
        hit = np.diag(self.matrix).astype(np.float64)
        return _ratio(hit, self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - hit)

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 TP / (2 TP + FP + FN) by class, which is F1; NaN as for `iou`."""
        hit = 2.0 * np.diag(self.matrix)
        return _ratio(hit, self.matrix.sum(axis=0) + self.matrix.sum(axis=1))

    @property
    def precision(self) -> NDArray[np.float64]:
        """TP / (TP + FP) by class, NaN where it was never predicted."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """TP / (TP + FN) by class, the class-wise accuracy; NaN where it never occurs."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=1))

    def summary(self) -> dict[str, float]:
        """The figures of a line in a table. With two classes IoU, Dice (which is F1), precision and recall
        are those of class 1; with more they are means over the classes that occur. brier: mean of squared
        differences between probability and truth, over pixels and classes (Brier 1950); mse: the same of
        masks, which say 0 or 1 of each class: two are wrong wherever one is."""
        of = 1 if self.classes == 2 else slice(None)
        accuracy = float(_ratio(np.diag(self.matrix).sum(), self.matrix.sum()))
        return {
            "accuracy": accuracy,
            "class_accuracy": _mean(self.recall),
            "iou": _mean(self.iou[of]),
            "miou": _mean(self.iou),
            "dice": _mean(self.dice[of]),
            "precision": _mean(self.precision[of]),
            "recall": _mean(self.recall[of]),
            "brier": self.squared / (self.total * self.classes) if self.total else float("nan"),
            "mse": 2 * (1 - accuracy) / self.classes,
        }


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result


def _mean(values: Any) -> float:
    values = np.atleast_1d(values)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
