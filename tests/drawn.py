"""Drawn roofs, and the noisy probabilities that a network might make of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter, label

from tilesegment.grid import Window
from tilesegment.vector.rings import canonical
from tilesegment.vector.trace import trace

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


def terrace(rng: np.random.Generator) -> list[shapely.Polygon]:
    """Three to six houses in a row at any angle, around the origin, in metres: widths of 5 to 8 m, depths
    of 8 to 11 m; every third one, about, is set back by 1.2 to 2.5 m."""
    depth, edge, houses = rng.uniform(8, 11), 0.0, []
    for _ in range(rng.integers(3, 7)):
        width, back = rng.uniform(5, 8), rng.uniform(1.2, 2.5) * (rng.random() < 0.35)
        houses.append(shapely.box(edge, back, edge + width, depth))
        edge += width
    whole = shapely.GeometryCollection(houses)
    whole = shapely.affinity.rotate(whole, rng.uniform(0, 90), origin="centroid")
    middle = shapely.centroid(shapely.envelope(whole))
    return list(shapely.affinity.translate(whole, -middle.x, -middle.y).geoms)


def parts(houses: list[shapely.Polygon], noise: float, rng: np.random.Generator, cells: int) -> tuple:
    """Houses in metres from the corner of a square of cells x cells CELLs as parts of a mask: labels from
    1, int64, and probabilities, uint8 of 0..254. Borders between them are off by a pixel or two."""
    side = CELL * cells
    transform = Affine.scale(GSD / _FINE)
    shapes = [(house, number) for number, house in enumerate(houses, start=1)]
    fine = rasterize(shapes, (side * _FINE, side * _FINE), transform=transform, dtype="uint8")
    soft = (fine > 0).reshape(side, _FINE, side, _FINE).mean((1, 3), np.float32)
    soft = gaussian_filter(soft, 1.5)
    wave = gaussian_filter(rng.normal(size=(side, side)), 2.5)
    edge = np.clip(6 * soft * (1 - soft), 0, 1)
    probability = np.rint(254 * np.clip(soft + noise * wave / wave.std() * edge, 0, 1)).astype(np.uint8)
    rows, cols = np.mgrid[:side, :side] + 0.5
    for axis in (rows, cols):
        off = gaussian_filter(rng.normal(size=(side, side)), 4)
        axis += 5 * noise * off / off.std()
    centres = shapely.points(cols.ravel() * GSD, rows.ravel() * GSD)
    away = np.stack([shapely.distance(house, centres) for house in houses])
    labels = away.argmin(axis=0).reshape(side, side) + 1
    return np.where(probability >= 127, labels, 0), probability


@cache
def terraces(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of houses: polygons in pixels, labels of the largest piece of each, and probabilities."""
    rng = np.random.default_rng(seed)
    middle = 3 * CELL * GSD / 2
    houses = [shapely.affinity.translate(house, middle, middle) for house in terrace(rng)]
    labels, probability = parts(houses, 0.3, rng, 3)
    region = largest(labels > 0)
    kept = np.zeros_like(labels)
    for house in range(1, len(houses) + 1):
        kept[largest((labels == house) & region)] = house
    return shapely.transform(np.array(houses), lambda p: p / GSD), kept, probability


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected piece of a mask."""
    found, _ = label(mask)
    return np.asarray(found == np.bincount(found.ravel())[1:].argmax() + 1)


def traced(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts along pixel edges, with a vertex wherever three meet, and the label of each."""
    fragments = trace(labels, None, Window(0, 0, *labels.shape), labels.shape[1], 0)
    outlines = fragments.outlines.with_vertices(fragments.coords, fragments.coords)
    return canonical(outlines.geometries(), keep_vertices=True), fragments.value
