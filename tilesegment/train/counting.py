"""From logits to classes and counts, as prediction says them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilesegment.datasets.sample import IGNORE


def shares_of(logits: Tensor) -> Tensor:
    """Probabilities (n, classes, rows, columns); one channel stands for class 1 of two."""
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    positive = logits.sigmoid()
    return torch.cat([1 - positive, positive], dim=1)


def found_classes(probability: Tensor, threshold: float) -> Tensor:
    """The class of each pixel, as prediction says it: the most probable one; of two, class 1 where it has
    the threshold. probability: (n, classes, ...)."""
    if probability.shape[1] == 2:
        return (probability[:, 1] >= threshold).long()
    return probability.argmax(dim=1)


def count(
    logits: Tensor, label: Tensor, classes: int, threshold: float = 0.5
) -> tuple[NDArray[np.int64], float]:
    """Counted pixels (truth, prediction) and the sum of squared differences between probability and truth.
    logits: (n, channels, rows, columns); threshold: see `found_classes`."""
    known = label != IGNORE
    truth = label[known]
    probability = shares_of(logits).permute(0, 2, 3, 1)[known]
    found = found_classes(probability, threshold)
    cells = torch.bincount(truth * classes + found, minlength=classes**2)
    at_truth = probability.gather(1, truth[:, None])[:, 0]
    # sum over classes of (p - y)^2 = sum p^2 - 2 p_truth + 1.
    squared = float((probability**2).sum()) - 2 * float(at_truth.sum()) + len(truth)
    return cells.reshape(classes, classes).cpu().numpy(), squared
