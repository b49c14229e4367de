"""Regions that several buildings make up, split where the model says that they touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import shapely

from tilesegment.grid import Grid, Window
from tilesegment.run.saved import SavedPixels
from tilesegment.vector.instances import Planes, component, simplified_together, split
from tilesegment.vector.parallel import in_threads
from tilesegment.vector.seams import Features
from tilesegment.vector.trace import trace

# A region in a larger window stays one: so much is held in memory at once, some 20 bytes a pixel.
_MOST_PIXELS = 16_000_000
# Half the area of the smallest region that can be two buildings, in square metres.
_LEAST_AREA = 1.5


def split_features(
    joined: Iterator[Features], saved: SavedPixels, grid: Grid, least: int, tolerance: float
) -> Iterator[Features]:
    """Whole regions, and in the place of those that are several buildings their parts, in batches in the
    order of their first pixel. least: probability, 0..254, inside; tolerance: pixels of simplification.

    A region is looked at as a whole, so that blocks have no influence.
    """
    waiting = replace(Features.none(), plain=np.empty(0, object), group=np.empty(0, np.int64))
    for features in joined:
        if not len(features):
            continue
        found = in_threads(
            lambda k, whole=features: _parts(whole[k : k + 1], saved, grid, least, tolerance),  # type: ignore[misc]
            range(len(features)),
        )
        waiting = Features.concatenate([waiting, *found])
        waiting = waiting[np.argsort(waiting.first, kind="stable")]
        # Regions that are yet to come, and their parts, begin behind the last of these regions; a part of
        # these may begin behind regions that are yet to come.
        ready = int(np.searchsorted(waiting.first, features.first[-1], side="right"))
        yield waiting[:ready]
        waiting = waiting[ready:]
    yield waiting


def _parts(feature: Features, saved: SavedPixels, grid: Grid, least: int, tolerance: float) -> Features:
    """The parts of one region, or itself."""
    whole = replace(feature, plain=np.array([None], object), group=feature.first)
    left, top, right, bottom = (int(v) for v in shapely.bounds(feature.geometry)[0])
    window = Window(top, left, bottom - top, right - left)
    middle = np.array([[(left + right) / 2, (top + bottom) / 2]])
    metric = grid.metric_at(middle)[0]
    along_col, along_row = np.linalg.norm(metric, axis=0).tolist()
    if feature.pixels[0] * along_col * along_row < 2 * _LEAST_AREA or window.area > _MOST_PIXELS:
        return whole
    probability, contact = saved.window(window)
    mask = (probability >= least) & (probability <= 254)
    row, col = divmod(int(feature.first[0]), grid.width)
    region = component(mask, row - top, col - left)
    parts = split(Planes(region, probability, contact), (along_row, along_col))
    if parts is None:
        return whole
    fragments = trace(parts, probability, window, grid.width, 0)
    exact, plain = simplified_together(fragments.outlines, tolerance)
    return Features(
        exact,
        np.full(len(fragments), feature.value[0]),
        fragments.pixels,
        fragments.total,
        fragments.first,
        plain,
        np.full(len(fragments), feature.first[0]),
    )
