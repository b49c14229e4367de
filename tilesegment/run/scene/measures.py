"""Lengths and areas of the settings, as a grid and a model can answer them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tilesegment.errors import SettingsError
from tilesegment.grid import Grid, require_crs
from tilesegment.model.card import Card
from tilesegment.settings import Measure, VectorSettings


def resolve_measures(
    vector: VectorSettings, grid: Grid, gsd: float | None
) -> tuple[VectorSettings, list[str]]:
    """Vector settings that a grid can answer: without a CRS there are no metres, so defaults count
    pixels of the model's size, and what was asked for in metres is refused."""
    if grid.crs is not None:
        if vector.dst_crs is not None:
            require_crs(vector.dst_crs, "--dst-crs")
        return vector, []
    if vector.dst_crs is not None:
        raise SettingsError("--dst-crs needs an input with a CRS")
    defaults = VectorSettings()
    resolved: dict[str, Any] = {}
    for name, power in (("min_area", 2), ("fill_holes", 2), ("simplify", 1), ("tolerance", 1)):
        measure: Measure = getattr(vector, name)
        if measure.pixels or measure.value == 0:
            continue
        if measure != getattr(defaults, name):
            option = name.replace("_", "-")
            raise SettingsError(
                f"--{option} {measure} needs metres, and the input has no CRS; write {measure}px"
            )
        resolved[name] = Measure(0 if gsd is None else measure.value / gsd**power, pixels=True)
    notes = ["no CRS: area_m2 and perimeter_m are left empty"]
    return replace(vector, **resolved), notes


def as_drawn(vector: VectorSettings, card: Card) -> VectorSettings:
    """With `auto` as the card says it, but for whoever asks for every pixel corner."""
    if vector.regularize != "auto":
        return vector
    return replace(vector, regularize=card.drawn if vector.simplify.value > 0 else "none")


def shared_tolerance(simplify: Measure, grid: Grid) -> tuple[float, float] | None:
    """A simplification tolerance in pixels of (rows, columns); None for none."""
    if simplify.value == 0:
        return None
    if simplify.pixels or grid.metres_per_pixel is None:
        return simplify.value, simplify.value
    along_row, along_col = grid.metres_per_pixel
    return simplify.value / along_row, simplify.value / along_col
