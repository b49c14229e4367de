"""Roofs that are drawn: gabled, hipped, flat or of one slope, of tiles, sheets, slate or concrete."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tilesegment.datasets.drawn.canvas import Canvas, Points, noise, rectangle

# Red, green and blue by what a roof is made of.
_TILES = ((168, 92, 72), (150, 80, 66), (188, 116, 84), (128, 74, 62), (176, 130, 96), (110, 62, 52))
_SHEETS = ((196, 200, 204), (150, 154, 158), (120, 84, 62), (64, 92, 140), (60, 110, 88), (150, 60, 50))
_SLATE = ((98, 100, 108), (72, 74, 80), (120, 118, 116), (84, 78, 74))
_CONCRETE = (
    (170, 168, 162),
    (140, 140, 140),
    (206, 204, 198),
    (124, 116, 106),
    (150, 138, 124),
    (90, 92, 94),
)
_KINDS = {"tiles": _TILES, "sheets": _SHEETS, "slate": _SLATE, "concrete": _CONCRETE}
_FORMS = {
    "tiles": ("gable", "gable", "hip"),
    "sheets": ("gable", "shed", "shed"),
    "slate": ("gable", "hip", "hip"),
    "concrete": ("flat",),
}


@dataclass(frozen=True)
class Roof:
    """parts: the rectangles (4, 2) in metres that it consists of, one for each wing, along and across as
    `sizes` say. step: metres between its seams or rows of tiles, 0 for none."""

    parts: tuple[Points, ...]
    form: str
    colour: NDArray[np.float64]
    height: float
    step: float
    rust: float


def random_roof(
    rng: np.random.Generator,
    centre: Points,
    size: tuple[float, float],
    angle: float,
    *,
    like: Roof | None = None,
    whole: bool = False,
) -> Roof:
    """A roof on a rectangle of `size` (along, across) metres; some have a wing. like: of the same kind and
    colour as another one; whole: without a wing."""
    parts = [rectangle(centre, size, angle)]
    if not whole and min(size) > 6 and rng.random() < 0.35:
        first = parts[0]
        wing = float(rng.uniform(0.4, 0.6)) * size[0], size[1] * float(rng.uniform(1.4, 1.9))
        middle = centre + (first[1] - first[0]) * rng.uniform(-0.2, 0.2)
        middle = middle + (first[3] - first[0]) * (wing[1] / size[1] - 1) / 2
        parts.append(rectangle(middle, wing, angle))
    if like is not None:
        return replace(like, parts=tuple(parts), colour=like.colour * rng.uniform(0.93, 1.07))
    kind = str(rng.choice(list(_KINDS)))
    colours = _KINDS[kind]
    colour = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.75, 1.25)
    form = str(rng.choice(_FORMS[kind]))
    return Roof(
        tuple(parts),
        form,
        colour * (1 + rng.normal(0, 0.05, 3)),
        float(rng.uniform(2.4, 9)),
        0.0 if form == "flat" else float(rng.uniform(0.3, 1.1)),
        float(rng.uniform(0, 0.5)) if kind == "sheets" and rng.random() < 0.5 else 0.0,
    )


def drawn_roof(canvas: Canvas, roof: Roof, own: NDArray[np.bool_]) -> None:
    """Draw a roof on its place `own`."""
    rng = canvas.rng
    for part in roof.parts:
        _planes(canvas, roof, part)
    if roof.rust:
        _stains(canvas, own, np.array([120, 72, 44]), roof.rust)
    if roof.form == "flat":
        _stains(canvas, own, roof.colour * rng.uniform(0.6, 1.1), 0.3)
        _flat_things(canvas, roof)
    else:
        _small_things(canvas, roof.parts[0])


def _planes(canvas: Canvas, roof: Roof, part: Points) -> None:
    """The slopes of one rectangle, each in its own light, and the lines between them."""
    rng = canvas.rng
    if np.linalg.norm(part[1] - part[0]) < np.linalg.norm(part[3] - part[0]):
        part = np.roll(part, -1, axis=0)
    along, across = part[1] - part[0], part[3] - part[0]
    if roof.form in ("flat", "shed"):
        # One slope: its own light, and rows along it.
        light = 1.0 if roof.form == "flat" else float(rng.uniform(0.85, 1.15))
        _slope(canvas, roof, part, across, light)
        return
    inset = 0.0
    if roof.form == "hip":
        inset = min(0.48, 0.5 * float(np.linalg.norm(across) / np.linalg.norm(along)))
    start = part[0] + across / 2 + along * inset
    end = part[1] + across / 2 - along * inset
    _slope(canvas, roof, np.array([part[0], part[1], end, start]), across, _light(canvas, -across))
    _slope(canvas, roof, np.array([part[3], part[2], end, start]), across, _light(canvas, across))
    if inset:
        _slope(canvas, roof, np.array([part[0], start, part[3]]), along, _light(canvas, -along))
        _slope(canvas, roof, np.array([part[1], end, part[2]]), along, _light(canvas, along))
        for corner, peak in ((0, start), (3, start), (1, end), (2, end)):
            canvas.paint(canvas.line(np.array([part[corner], peak]), 0.2), roof.colour * 1.1)
    canvas.paint(canvas.line(np.array([start, end]), 0.25), roof.colour * rng.uniform(0.8, 1.3))


def _light(canvas: Canvas, outwards: Points) -> float:
    """How bright a slope is that falls towards a side: shadows fall away from the sun."""
    return 1 - 0.4 * float(outwards @ canvas.sun) / float(np.linalg.norm(outwards))


def _slope(canvas: Canvas, roof: Roof, outline: Points, down: Points, light: float) -> None:
    """One plane with its rows of tiles or seams of sheets."""
    where = canvas.mask(outline)
    rows, cols = np.nonzero(where)
    if not rows.size:
        return
    colour = np.broadcast_to(roof.colour * light, (rows.size, 3)).copy()
    if roof.step:
        # Rows of tiles lie along the ridge, seams of sheets run down from it.
        ahead = down if roof.step < 0.6 else np.array([-down[1], down[0]])
        metres = (np.stack([cols, rows], 1) / canvas.scale) @ (ahead / np.linalg.norm(ahead))
        colour *= 1 + 0.08 * np.sin(2 * np.pi * metres / roof.step)[:, None]
    grain = canvas.rng.normal(0, 3, (rows.size, 1))
    canvas.picture[rows, cols] = np.clip(colour + grain, 0, 255)


def _stains(canvas: Canvas, own: NDArray[np.bool_], colour: NDArray[np.float64], share: float) -> None:
    rows, cols = np.nonzero(own)
    box = slice(rows.min(), rows.max() + 1), slice(cols.min(), cols.max() + 1)
    shape = own[box].shape
    spots = np.clip(noise(canvas.rng, shape, [2.5 * canvas.scale, 0.8 * canvas.scale]) - 0.4, 0, 1) * share
    spots = (spots * own[box])[..., None]
    under = canvas.picture[box]
    under += spots * (colour - under)


def _flat_things(canvas: Canvas, roof: Roof) -> None:
    """A parapet, and what stands on flat roofs."""
    rng = canvas.rng
    if rng.random() < 0.7:
        rim = roof.colour * rng.uniform(0.7, 1.4)
        for part in roof.parts[:1] if len(roof.parts) > 1 else roof.parts:
            canvas.paint(canvas.line(np.vstack([part, part[:1]]), 0.25) & canvas.mask(part), rim)
    part = roof.parts[0]
    angle = float(np.arctan2(*(part[1] - part[0])[::-1]))
    for _ in range(int(rng.integers(0, 5))):
        share = rng.uniform(0.2, 0.8, 2)
        centre = part[0] + share[0] * (part[1] - part[0]) + share[1] * (part[3] - part[0])
        size = float(rng.uniform(0.8, 3)), float(rng.uniform(0.8, 2.5))
        body = rectangle(centre, size, angle)
        own = canvas.mask(body) & canvas.mask(part)
        canvas.shadow([body], 1.0, own)
        canvas.paint(own, np.full(3, rng.uniform(40, 235)))


def _small_things(canvas: Canvas, part: Points) -> None:
    """Chimneys, roof windows and panels on a sloped roof."""
    rng = canvas.rng
    angle = float(np.arctan2(*(part[1] - part[0])[::-1]))
    for _ in range(int(rng.integers(0, 4))):
        share = rng.uniform(0.2, 0.8, 2)
        centre = part[0] + share[0] * (part[1] - part[0]) + share[1] * (part[3] - part[0])
        size = ((0.7, 0.7), (0.8, 1.2), (3.3, 1.7))[int(rng.integers(3))]
        own = canvas.mask(rectangle(centre, size, angle)) & canvas.mask(part)
        canvas.paint(own, (30, 36, 52) if size[0] > 0.7 else np.full(3, rng.uniform(60, 200)))
