"""Ground and what lies on it that is no roof: streets, car parks, courts, yards, pools, fields, walls,
trees."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.drawn.canvas import Canvas, Points, noise, rectangle

# Red, green and blue of ground: grass, dry grass, earth, sand, gravel, soil, laterite, concrete.
_GROUND = (
    (86, 104, 62),
    (60, 80, 48),
    (128, 122, 84),
    (150, 132, 104),
    (186, 168, 136),
    (140, 138, 132),
    (92, 76, 60),
    (158, 104, 76),
    (168, 166, 160),
)
_PAVED = ((92, 92, 95), (112, 112, 112), (140, 136, 128), (168, 164, 156), (150, 120, 98), (128, 110, 92))
_COURTS = ((64, 108, 84), (70, 96, 140), (150, 80, 66), (176, 112, 72), (120, 124, 128))
_CARS = ((230, 230, 230), (20, 20, 24), (120, 124, 130), (160, 30, 30), (40, 60, 120), (190, 186, 170))


def ground(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> NDArray[np.float32]:
    """Two or three kinds of ground that go over into each other."""
    chosen = rng.choice(len(_GROUND), 3, replace=False)
    first, second, third = (np.array(_GROUND[k], np.float32) * rng.uniform(0.75, 1.2) for k in chosen)
    share = np.clip(noise(rng, shape, [20 * scale, 5 * scale]) * 0.6 + 0.5, 0, 1)[..., None]
    spots = np.clip(noise(rng, shape, [9 * scale, 2 * scale]) * 1.5 - rng.uniform(0.8, 3), 0, 1)[..., None]
    colour = (first * share + second * (1 - share)) * (1 - spots) + third * spots
    dust = noise(rng, shape, [1.2 * scale, 0.5 * scale, 2])[..., None]
    return np.asarray(colour + dust * rng.uniform(3, 11), np.float32)


def streets(canvas: Canvas, turn: float) -> None:
    """No street to three of them, of asphalt, dust or concrete, some with markings and cars."""
    rng = canvas.rng
    for _ in range(int(rng.integers(0, 4))):
        angle = turn + rng.integers(2) * np.pi / 2 + rng.normal(0, 0.05)
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        middle = rng.uniform(0, 1, 2) * canvas.extent
        steps = np.linspace(-90, 90, 13)[:, None]
        line = middle + steps * along + np.cumsum(rng.normal(0, 0.8, (13, 1)), axis=0) * across
        width = float(rng.choice([2.5, 4, 6, 7, 9, 13]))
        if rng.random() < 0.4:
            canvas.paint(canvas.line(line, width + 3), np.array(_PAVED[int(rng.integers(6))]) * 1.1)
        asphalt = np.array(_PAVED[int(rng.integers(6))]) * rng.uniform(0.8, 1.15)
        road = canvas.line(line, width)
        canvas.paint(road, asphalt, rng.uniform(2, 8))
        canvas.taken |= canvas.line(line, width + 3)
        if width >= 6 and rng.random() < 0.6:
            _markings(canvas, line, width)
        for _ in range(int(rng.integers(0, 5))):
            k = rng.uniform(5, 7)
            place = line[int(k)] + (k % 1) * (line[int(k) + 1] - line[int(k)])
            _car(canvas, place + across * width * 0.25 * rng.choice([-1, 1]), angle)


def _markings(canvas: Canvas, line: Points, width: float) -> None:
    """A dashed middle, and edges."""
    white = np.full(3, canvas.rng.uniform(170, 245))
    steps = np.diff(line, axis=0)
    along = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    across = np.vstack([along, along[-1:]])[:, ::-1] * [-1, 1]
    for begin, way in zip(line[:-1], along, strict=True):
        for start in np.arange(0, 15, 6):
            dash = np.array([begin + way * start, begin + way * (start + 3)])
            canvas.paint(canvas.line(dash, 0.15), white)
    for side in (-1, 1):
        canvas.paint(canvas.line(line + across * side * (width / 2 - 0.3), 0.12), white)


def _car(canvas: Canvas, centre: Points, angle: float) -> None:
    rng = canvas.rng
    size = float(rng.uniform(3.6, 5.2)), float(rng.uniform(1.6, 2.0))
    body = rectangle(centre, size, angle)
    own = canvas.mask(body)
    if (own & (canvas.numbers > 0)).any():
        return
    canvas.shadow([body], 1.4, own)
    colour = np.array(_CARS[int(rng.integers(len(_CARS)))])
    canvas.paint(own, colour, 3)
    canvas.paint(canvas.mask(rectangle(centre, (size[0] * 0.5, size[1] * 0.8), angle)), colour * 0.5, 3)
    canvas.paint(canvas.mask(rectangle(centre, (size[0] * 0.28, size[1] * 0.75), angle)), colour, 3)


def _placed(canvas: Canvas, size: tuple[float, float], turn: float) -> Points | None:
    """A free rectangle somewhere, which is then taken."""
    for _ in range(4):
        outline = rectangle(canvas.rng.uniform(0, 1, 2) * canvas.extent, size, turn)
        own = canvas.mask(outline)
        if own.any() and not canvas.taken[own].any():
            canvas.taken[own] = True
            return outline
    return None


def _car_park(canvas: Canvas, turn: float) -> None:
    rng = canvas.rng
    bays = int(rng.integers(4, 14))
    outline = _placed(canvas, (bays * 2.5 + 1, 16), turn)
    if outline is None:
        return
    canvas.paint(canvas.mask(outline), np.array(_PAVED[int(rng.integers(3))]) * rng.uniform(0.8, 1.2))
    along, across = (outline[1] - outline[0]) / (bays * 2.5 + 1), (outline[3] - outline[0]) / 16
    for bay in range(bays + 1):
        for row in (0.5, 10.5):
            start = outline[0] + along * (bay * 2.5 + 0.5) + across * row
            canvas.paint(canvas.line(np.array([start, start + across * 5]), 0.12), (215, 215, 210))
            if bay < bays and rng.random() < 0.55:
                _car(canvas, start + along * 1.25 + across * 2.5, float(np.arctan2(across[1], across[0])))


def _court(canvas: Canvas, turn: float) -> None:
    rng = canvas.rng
    size = ((28.0, 15.0), (24.0, 11.0), (18.0, 9.0))[int(rng.integers(3))]
    outline = _placed(canvas, (size[0] + 4, size[1] + 4), turn)
    if outline is None:
        return
    first, second = rng.choice(len(_COURTS), 2, replace=False)
    canvas.paint(canvas.mask(outline), _COURTS[first])
    centre = outline.mean(axis=0)
    inner = rectangle(centre, size, turn)
    canvas.paint(canvas.mask(inner), _COURTS[second] if rng.random() < 0.6 else _COURTS[first])
    white = np.full(3, rng.uniform(190, 245))
    middle = np.array([inner[[0, 1]].mean(axis=0), inner[[3, 2]].mean(axis=0)])
    for line in (np.vstack([inner, inner[:1]]), middle):
        canvas.paint(canvas.line(line, 0.12), white)
    for end in ((0, 3), (1, 2)):
        box = rectangle(centre + (inner[list(end)].mean(axis=0) - centre) * 0.8, (size[0] * 0.2, 4.9), turn)
        canvas.paint(canvas.line(np.vstack([box, box[:1]]), 0.12), white)


def _yard(canvas: Canvas, turn: float) -> None:
    """Paving, slabs or a terrace: flat, without a shadow."""
    rng = canvas.rng
    size = float(rng.uniform(3, 22)), float(rng.uniform(3, 14))
    outline = _placed(canvas, size, turn + float(rng.normal(0, 0.1)))
    if outline is None:
        return
    colour = np.array(_PAVED[int(rng.integers(6))]) * rng.uniform(0.8, 1.35)
    canvas.paint(canvas.mask(outline), colour, rng.uniform(2, 9))
    if rng.random() < 0.5:
        step = float(rng.uniform(0.6, 4))
        along = (outline[1] - outline[0]) / size[0]
        for far in np.arange(step, size[0], step):
            seam = np.array([outline[0] + along * far, outline[3] + along * far])
            canvas.paint(canvas.line(seam, 0.06), colour * 0.8)


def _pool(canvas: Canvas, turn: float) -> None:
    rng = canvas.rng
    size = float(rng.uniform(4, 14)), float(rng.uniform(3, 7))
    outline = _placed(canvas, (size[0] + 2, size[1] + 2), turn)
    if outline is not None:
        canvas.paint(canvas.mask(outline), np.full(3, rng.uniform(150, 215)))
        water = np.array([70, 160, 190]) * rng.uniform(0.6, 1.2)
        canvas.paint(canvas.mask(rectangle(outline.mean(axis=0), size, turn)), water)


def _field(canvas: Canvas, turn: float) -> None:
    """Rows of a field or a garden."""
    rng = canvas.rng
    size = float(rng.uniform(8, 40)), float(rng.uniform(6, 25))
    outline = _placed(canvas, size, turn)
    if outline is None:
        return
    colour, step = (
        np.array(_GROUND[int(rng.integers(8))]) * rng.uniform(0.8, 1.1),
        float(rng.uniform(0.5, 2)),
    )
    canvas.paint(canvas.mask(outline), colour, 7)
    along = (outline[1] - outline[0]) / size[0]
    for far in np.arange(step / 2, size[0], step):
        furrow = np.array([outline[0] + along * far, outline[3] + along * far])
        canvas.paint(canvas.line(furrow, step * 0.45), colour * rng.uniform(0.75, 0.9), 7)


def _wall(canvas: Canvas, turn: float) -> None:
    """A compound's wall, with a gate."""
    rng = canvas.rng
    size = float(rng.uniform(10, 35)), float(rng.uniform(10, 30))
    ring = rectangle(rng.uniform(0, 1, 2) * canvas.extent, size, turn)
    own = canvas.line(
        np.vstack([ring, ring[:1] + (ring[3] - ring[0]) * 0.15]), float(rng.uniform(0.15, 0.35))
    )
    own &= canvas.numbers == 0
    moved = np.roll(own, tuple(np.rint(canvas.sun[::-1] * 2 * canvas.scale).astype(int)), (0, 1))
    canvas.picture[moved & ~own & (canvas.numbers == 0)] *= canvas.left
    canvas.paint(own, np.full(3, rng.uniform(110, 230)))


def tree(canvas: Canvas) -> None:
    """A crown of many clumps of leaves, and its shadow; not on a roof."""
    rng = canvas.rng
    centre, radius = rng.uniform(0, 1, 2) * canvas.extent, float(rng.uniform(0.8, 4.5))
    around = np.linspace(0, 2 * np.pi, 14)
    ring = centre + np.stack([np.cos(around), np.sin(around)], 1) * radius
    own = canvas.mask(ring)
    if canvas.numbers[own].any():
        return
    canvas.shadow([ring], radius * 1.3, own)
    base = np.array([52, 74, 40]) * rng.uniform(0.6, 1.4) * (1 + rng.normal(0, 0.1, 3))
    for _ in range(int(14 * radius)):
        angle, far = rng.uniform(0, 2 * np.pi), radius * rng.random() ** 0.5 * 0.95
        leaf = np.array([np.cos(angle), np.sin(angle)]) * far
        light = 1 - 0.35 * float(leaf @ canvas.sun) / radius
        place = np.rint((centre + leaf) * canvas.scale).astype(int)
        colour = np.clip(base * light * rng.uniform(0.8, 1.25), 0, 255)
        cv2.circle(
            canvas.picture, place.tolist(), round(rng.uniform(0.3, 0.8) * canvas.scale), colour.tolist(), -1
        )


# Yards are what is taken for roofs most.
THINGS = (_car_park, _court, _yard, _yard, _pool, _field, _wall)
