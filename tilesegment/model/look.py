"""How pictures look: brightness, contrast and tint, of what a model learnt from and of what it is shown.

A scene whose looks lie several standard deviations from those of the training pictures is one that the
model knows little about (a shift of covariates): its answer may be far off, and the user should hear so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Standard deviations among training pictures from which on a scene is another kind of picture.
MOST_OFF = 3.0
# Fewer pixels say nothing.
_LEAST_PIXELS = 500
# More say no more.
_MOST_PIXELS = 50_000
# Differences of a hundredth of the range are nothing, however alike the training pictures are.
_LEAST_SPREAD = 0.01
_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "harsher in its contrasts"),
}

Looks = dict[str, float]


def enough_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """As many of pixels (bands, n) as a look is taken of."""
    return pixels[:, :: max(1, pixels.shape[1] // _MOST_PIXELS)]


def look_of(pixels: NDArray[np.float32], bands: Sequence[str]) -> Looks | None:
    """The look of valid pixels (bands, n) in 0..1; None for too few of them. brightness: mean over all;
    contrast: standard deviation of their grey; and for each band its mean against that of all."""
    if pixels.shape[1] < _LEAST_PIXELS:
        return None
    pixels = enough_of(pixels)
    means = pixels.mean(axis=1, dtype=np.float64)
    looks = {"brightness": float(means.mean()), "contrast": float(pixels.mean(axis=0).std())}
    if len(bands) > 1:
        looks |= {name: float(mean - means.mean()) for name, mean in zip(bands, means, strict=True)}
    return looks


def summary_of(looks: Iterable[Looks]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation among pictures, by name; empty for less than two."""
    found = list(looks)
    if len(found) < 2:
        return {}
    table = {name: [look[name] for look in found] for name in found[0]}
    return {name: (float(np.mean(each)), float(np.std(each))) for name, each in table.items()}


def drift_of(
    looks: Sequence[Looks], known: dict[str, tuple[float, float]]
) -> tuple[dict[str, float], list[str]]:
    """How far the mean of looks lies from those of training, in standard deviations by name, and in words
    what is further than `MOST_OFF`. Nothing where either is not known."""
    if not looks or not known:
        return {}, []
    off = {}
    for name, (mean, spread) in known.items():
        here = float(np.mean([look[name] for look in looks]))
        off[name] = round((here - mean) / max(spread, _LEAST_SPREAD), 2)
    words = []
    for name, value in off.items():
        if abs(value) > MOST_OFF:
            down, up = _WORDS.get(name, (f"less {name}", f"more {name}"))
            words.append(up if value > 0 else down)
    return off, words
