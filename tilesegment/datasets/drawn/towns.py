"""Training crops that are drawn: what photographed places have little of.

Roads, car parks, courts and yards are no roofs, however flat and grey; roofs that touch are two; and roofs
have more colours and shapes than a few places show.
"""

from __future__ import annotations

import cv2
import numpy as np

from tilesegment.datasets.buildings import contact_of_numbers
from tilesegment.datasets.drawn.canvas import Canvas, noise
from tilesegment.datasets.drawn.ground import THINGS, ground, streets, tree
from tilesegment.datasets.drawn.roofs import Roof, drawn_roof, random_roof
from tilesegment.datasets.sample import Sample

# A building stands where no more than this share of its place is taken: neighbours share a row of pixels.
_TAKEN = 0.08


def drawn(size: tuple[int, int], gsd: float, rng: np.random.Generator) -> Sample:
    """A drawn crop: values (3, rows, columns) uint8, the label 1 on roofs, contact where two are near.

    size: (rows, columns); gsd: metres a pixel.
    """
    angle = rng.uniform(0, 2 * np.pi)
    canvas = Canvas(
        rng,
        ground(rng, size, 1 / gsd),
        np.zeros(size, np.int32),
        np.zeros(size, np.bool_),
        1 / gsd,
        np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.15, 0.9),
        float(rng.uniform(0.35, 0.8)),
    )
    kind = rng.choice(3, p=[0.35, 0.35, 0.3])
    turn = float(rng.uniform(0, np.pi))
    streets(canvas, turn)
    if kind == 0:
        _houses(canvas, turn)
    elif kind == 1:
        _terraces(canvas, turn)
    for _ in range(int(rng.integers(2, 7))):
        THINGS[int(rng.integers(len(THINGS)))](canvas, turn)
    for _ in range(int(rng.integers(0, 26))):
        tree(canvas)
    return _photographed(canvas, size, gsd)


def _built(canvas: Canvas, roof: Roof) -> None:
    """A building, if its place is free; a terrace's stand wall to wall."""
    place = canvas.mask(*roof.parts)
    own = place & ~canvas.taken
    if np.count_nonzero(own) <= (1 - _TAKEN) * np.count_nonzero(place):
        return
    canvas.taken[own] = True
    canvas.shadow(roof.parts, roof.height, place | (canvas.numbers > 0))
    canvas.numbers[own] = canvas.numbers.max() + 1
    drawn_roof(canvas, roof, own)


def _houses(canvas: Canvas, turn: float) -> None:
    """Houses that stand alone, most of them in line with the streets."""
    rng = canvas.rng
    for _ in range(int(rng.integers(3, 26))):
        angle = turn + rng.integers(2) * np.pi / 2 + rng.normal(0, 0.08 if rng.random() < 0.8 else 0.6)
        size = float(rng.uniform(4, 22)), float(rng.uniform(3.5, 13))
        _built(canvas, random_roof(rng, rng.uniform(0, 1, 2) * canvas.extent, size, float(angle)))


def _terraces(canvas: Canvas, turn: float) -> None:
    """Rows of houses that share their walls, back to back in some towns."""
    rng = canvas.rng
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    alike = random_roof(rng, np.zeros(2), (6, 8), turn) if rng.random() < 0.3 else None
    far, gap = -60.0, float(rng.choice([0.0, 1.5, 6.0, 12.0]))
    while far < 60:
        depth, at = float(rng.uniform(5, 13)), -60.0
        while at < 60:
            width = float(rng.uniform(3.5, 11))
            back = float(rng.uniform(0, 1.5)) if rng.random() < 0.4 else 0.0
            centre = canvas.extent / 2 + along * (at + width / 2) + across * (far + (depth - back) / 2)
            if rng.random() < 0.88:
                size = width, depth - back
                _built(canvas, random_roof(rng, centre, size, turn, like=alike, whole=True))
            at += width + (float(rng.uniform(0.3, 5)) if rng.random() < 0.15 else 0.0)
        far += depth + (gap if rng.random() < 0.6 else 0.0)


def _photographed(canvas: Canvas, size: tuple[int, int], gsd: float) -> Sample:
    """As a camera sees it: softer, with haze, a cast and grain."""
    rng = canvas.rng
    picture = cv2.GaussianBlur(np.clip(canvas.picture, 0, 255), (0, 0), float(rng.uniform(0.4, 0.9)))
    cast = 1 + rng.normal(0, 0.05, 3)
    low, high = rng.uniform(0, 40), rng.uniform(190, 260)
    picture = low + picture * cast * (high - low) / 255
    picture += noise(rng, size, [300, 70])[..., None] * rng.uniform(0, 6)
    picture += rng.normal(0, rng.uniform(0.5, 5), picture.shape)
    return Sample(
        np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8).transpose(2, 0, 1)),
        (canvas.numbers > 0).astype(np.uint8),
        np.ones(size, np.bool_),
        contact_of_numbers(canvas.numbers, gsd),
    )
