"""How much tiles must overlap: from what distance to a tile's rim on its answer can be relied on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import InputError
from tilesegment.grid import Window
from tilesegment.model.card import Card
from tilesegment.model.engines import Predictor
from tilesegment.raster.source import Scene
from tilesegment.raster.spec import Pixels
from tilesegment.tiling.blend import FINE_MAX
from tilesegment.tiling.plan import MOST_OVERLAP

_STEP = 8
_VALID_SHARE = 0.9
_TRIES_PER_SITE = 50
# Further in, this much more agreement is not worth the tiles.
_HARDLY_LESS = 0.0005


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    agreement: (distances,) share of the pixels at a distance of 0, 1, 2... from a tile's rim whose class is
    that of a tile in whose middle they lie. rim: the distance from which on it is at least the wanted
    share, or, where none is (not `reached`), hardly less than the best there is. overlap: pixels that
    neighbouring tiles must share; cost: how often it predicts each pixel. sites: places looked at.
    """

    agreement: NDArray[np.float64]
    rim: int
    overlap: int
    sites: int
    reached: bool
    cost: float


def calibrate(
    scene: Scene, predictor: Predictor, card: Card, *, sites: int = 24, wanted: float = 0.995, seed: int = 0
) -> Calibration:
    """Measure a model on a scene.

    At each random site a tile is predicted, and those half a tile further right and half a tile further
    down: what lies at one's rim lies in the other's middle. The overlap is twice the rim, so that every
    pixel is beyond the rim of at least one tile.

    Distances go up to 3/16 of a tile: further in, the other tile would be no better judge. Raises
    InputError where the scene has too little valid ground.
    """
    rows, cols = card.tile
    reach = min(rows, cols) * 3 // 16
    same, seen = np.zeros(reach), np.zeros(reach)
    found = 0
    size = rows * 3 // 2, cols * 3 // 2
    for window in tile_sites(scene, size, sites, np.random.default_rng(seed)):
        middle, right, below = (
            _classes(scene, predictor, card, Window(window.row + down, window.col + across, rows, cols))
            for down, across in ((0, 0), (0, cols // 2), (rows // 2, 0))
        )
        for one, other in ((middle, right), (middle.T, below.T)):
            half = one.shape[1] // 2
            # Columns from the rim inwards, in both tiles of the pair.
            equal = one[:, half:] == other[:, : one.shape[1] - half]
            for columns in (equal[:, ::-1], equal):
                same += columns[:, :reach].sum(axis=0)
                seen += len(columns)
        found += 1
    if not found:
        raise InputError(f"{scene.path}: no place with enough valid pixels for a tile of {rows}x{cols}")
    agreement = same / seen
    short = np.flatnonzero(agreement < wanted)
    rim = 0 if not len(short) else int(short[-1]) + 1
    reached = rim < reach
    if not reached:
        rim = int(np.flatnonzero(agreement >= agreement.max() - _HARDLY_LESS)[0])
    overlap = min(-(-2 * max(rim, _STEP) // _STEP) * _STEP, int(min(rows, cols) * MOST_OVERLAP))
    cost = rows * cols / ((rows - overlap) * (cols - overlap))
    return Calibration(agreement, rim, overlap, found, reached, cost)


def tile_sites(
    scene: Scene, size: tuple[int, int], count: int, rng: np.random.Generator, apart: bool = False
) -> list[Window]:
    """Random windows of a size that are nearly all valid, `count` of them or as many as are found. apart:
    none overlaps another. Raises InputError where the scene is smaller."""
    (height, width), grid = size, scene.grid
    if grid.height < height or grid.width < width:
        raise InputError(
            f"{scene.path}: {grid.height}x{grid.width} pixels at the model's pixel size, at least "
            f"{height}x{width} are needed"
        )
    found: list[Window] = []
    for _ in range(count * _TRIES_PER_SITE):
        row = int(rng.integers(0, grid.height - height + 1))
        col = int(rng.integers(0, grid.width - width + 1))
        window = Window(row, col, height, width)
        if apart and any(window.intersection(other) is not None for other in found):
            continue
        if scene.sample(window, 32, 32).valid.mean() >= _VALID_SHARE:
            found.append(window)
        if len(found) == count:
            break
    return found


def _classes(scene: Scene, predictor: Predictor, card: Card, window: Window) -> NDArray[np.int64]:
    return tile_classes(predictor, card, scene.read(window))


def tile_classes(predictor: Predictor, card: Card, pixels: Pixels) -> NDArray[np.int64]:
    """The class of each pixel of a tile, (rows, columns)."""
    counts: NDArray[np.uint16] = np.asarray(
        predictor.submit(pixels.values[None], pixels.valid[None]).result()
    )[0]
    if card.is_binary:
        return np.asarray(counts[0] >= card.threshold * FINE_MAX, np.int64)
    return np.asarray(counts.argmax(axis=0), np.int64)
