"""A run's record as notebooks show it: what was found, as a small map."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tilesegment.errors import InputError
from tilesegment.vector.files import is_vector
from tilesegment.vector.read import read_polygons

# Pixels of the map, polygons that it shows, and of how many it is made.
_WIDTH, _MOST, _MOST_READ = 480, 4000, 200_000


class Record(dict[str, Any]):
    """What `predict` returns: a run's record, which a notebook shows as a map."""

    def _repr_html_(self) -> str:
        counts, plan = self["counts"], self["plan"]
        words = [f"{plan['megapixels']:.1f} Mpx in {self['seconds']['wall']:.1f} s"]
        if "polygons" in counts:
            words.insert(0, f"{counts['polygons']} polygons")
        parts = [f"<p><b>{html.escape(str(plan['input']))}</b>: {', '.join(words)}</p>"]
        main = Path(self["outputs"][0])
        if is_vector(main) and main.exists() and counts["polygons"] <= _MOST_READ:
            try:
                parts.append(_drawn(main))
            except InputError as error:
                parts.append(f"<p>{html.escape(str(error))}</p>")
        parts += [f"<p>{html.escape(line)}</p>" for line in self["warnings"]]
        return "".join(parts)


def _drawn(path: Path) -> str:
    """The largest polygons of a layer as an SVG."""
    frame = read_polygons(path)
    if not len(frame):
        return "<p>no polygon</p>"
    shapes = frame.geometry.to_numpy()
    left, bottom, right, top = frame.total_bounds
    if len(shapes) > _MOST:
        shapes = shapes[np.argsort(-shapely.area(shapes), kind="stable")[:_MOST]]
    scale = _WIDTH / max(right - left, top - bottom, 1e-9)
    placed = shapely.transform(
        shapes, lambda xy: np.column_stack([(xy[:, 0] - left) * scale, (top - xy[:, 1]) * scale])
    )
    rings = shapely.get_rings(placed)
    ways = (
        "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in shapely.get_coordinates(ring)) + "z" for ring in rings
    )
    wide, high = round((right - left) * scale) + 1, round((top - bottom) * scale) + 1
    style = 'fill="#00c8ff55" stroke="#0077aa" stroke-width=".7" fill-rule="evenodd"'
    return f'<svg width="{wide}" height="{high}"><path d="{"".join(ways)}" {style}/></svg>'
