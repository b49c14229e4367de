"""Drawn roofs, and the noisy probabilities that a network might make of them."""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter

# Metres a pixel, and pixels of the square that each roof stands in.
GSD = 0.15
CELL = 140
_FINE = 4


def roof(rng: np.random.Generator) -> shapely.Polygon:
    """A rectangle, an L, a U or a house with a court, at any angle, around the origin, in metres; walls of
    2.5 m and more."""
    w, h = rng.uniform(6, 13, 2)
    whole = shapely.box(0, 0, w, h)
    kind = rng.integers(4)
    if kind == 1:
        whole -= shapely.box(rng.uniform(2.5, w - 2.5), rng.uniform(2.5, h - 2.5), w, h)
    elif kind == 2 and w > 9:
        left, right = rng.uniform(2.5, w / 2 - 1.5), w - rng.uniform(2.5, w / 2 - 1.5)
        whole -= shapely.box(left, rng.uniform(2.5, h - 2.5), right, h)
    elif kind == 3 and min(w, h) > 9:
        whole -= shapely.box(3, 3, w - 3, h - 3)
    turned = shapely.affinity.rotate(whole, rng.uniform(0, 90), origin="centroid")
    middle = shapely.centroid(shapely.envelope(turned))
    return shapely.affinity.translate(turned, -middle.x, -middle.y)


def probabilities(shape: shapely.Polygon, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Probabilities, uint8 of 0..254 (CELL, CELL), of a roof in metres from its square's corner: blurred
    over 1.5 pixels, with noise of 2.5 pixels' width along the outline."""
    fine = rasterize(
        [shape], (CELL * _FINE, CELL * _FINE), transform=Affine.scale(GSD / _FINE), dtype="uint8"
    )
    soft = gaussian_filter(fine.reshape(CELL, _FINE, CELL, _FINE).mean((1, 3), np.float32), 1.5)
    wave = gaussian_filter(rng.normal(size=(CELL, CELL)), 2.5)
    edge = np.clip(6 * soft * (1 - soft), 0, 1)
    return np.rint(254 * np.clip(soft + noise * wave / wave.std() * edge, 0, 1)).astype(np.uint8)


def roofs(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Roofs (count,) in pixels, row by row on a square scene, and its probabilities."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    scene = np.zeros((side * CELL, side * CELL), np.uint8)
    truth = []
    for k in range(count):
        row, col = divmod(k, side)
        shape = shapely.affinity.translate(roof(rng), CELL * GSD / 2, CELL * GSD / 2)
        here = slice(row * CELL, (row + 1) * CELL), slice(col * CELL, (col + 1) * CELL)
        scene[here] = probabilities(shape, noise, rng)
        scaled = shapely.affinity.scale(shape, 1 / GSD, 1 / GSD, origin=(0, 0))
        truth.append(shapely.affinity.translate(scaled, col * CELL, row * CELL))
    return np.array(truth), scene
