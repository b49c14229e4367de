"""Pictures that were hard in one epoch are seen again in the next.

What is seen again is a function of seed and epoch, as everything that a run does: the scores are a part of
its saved state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tilesegment.datasets.sample import IGNORE
from tilesegment.train.counting import found_classes, shares_of

# (epoch, index) of a picture, and for one that is seen again those with which it was first read.
Key = tuple[int, ...]
# What tells the draw of places from others with the same seed and epoch.
_DRAW = 1


def scores_of(logits: Tensor, label: Tensor, threshold: float) -> list[float]:
    """How hard each picture of a batch was, 0..1: of two classes the share of known pixels that were taken
    for the second one and are not, a false alarm; of more, the share that was wrong. logits: (n, channels,
    rows, columns); label: (n, rows, columns)."""
    found = found_classes(shares_of(logits), threshold)
    known = label != IGNORE
    wrong = known & (found != label)
    if logits.shape[1] <= 2:
        wrong &= label == 0
    shares = wrong.sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)
    return [float(share) for share in shares]


def hardest(scores: Sequence[tuple[Key, float]], share: float) -> list[Key]:
    """Of an epoch's pictures the hardest `share`, each once, without those that had no fault."""
    best: dict[Key, float] = {}
    for key, score in scores:
        best[key[-2:]] = max(score, best.get(key[-2:], 0.0))
    order = sorted((key for key, score in best.items() if score > 0), key=lambda key: (-best[key], key))
    return order[: round(share * len(scores))]


def seen_again(batches: list[list[Key]], hard: Sequence[Sequence[int]], seed: int) -> list[list[Key]]:
    """An epoch's batches with the pictures of `hard` in places of others, which are drawn."""
    found = [list(batch) for batch in batches]
    places = [(row, col) for row, batch in enumerate(found) for col in range(len(batch))]
    if not hard or not places:
        return found
    rng = np.random.default_rng([seed, found[0][0][0], _DRAW])
    for origin, place in zip(hard, rng.permutation(len(places)).tolist(), strict=False):
        row, col = places[place]
        found[row][col] = (*found[row][col], *origin)
    return found
