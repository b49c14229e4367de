"""Regions that several buildings make up, split where the model says that they touch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.grid import Grid, Window
from tilesegment.run.polygons.saved import SavedPixels
from tilesegment.settings import VectorSettings
from tilesegment.tiling.memory import SPLIT_PIXELS
from tilesegment.vector.cells import parts_by_cells
from tilesegment.vector.clean import fill_holes, pixel_metric
from tilesegment.vector.gate import State
from tilesegment.vector.instances import Planes, component, covered, may_touch, split, split_by_depth
from tilesegment.vector.parallel import in_threads
from tilesegment.vector.regularize import Rules
from tilesegment.vector.rings import Ragged, canonical
from tilesegment.vector.row import Row
from tilesegment.vector.seams import Features
from tilesegment.vector.shared import regularize_row
from tilesegment.vector.trace import trace

# A region in a larger window than the first is looked at cell by cell. Of those in larger ones than the
# second, one at a time is looked at, by whatever number of threads.
_MOST_PIXELS, _MANY_PIXELS = SPLIT_PIXELS, 500_000
# Regions that are looked at at a time, whatever the number of cores.
_THREADS = 4
# Half the area of the smallest region that can be two buildings, in square metres.
_LEAST_AREA = 1.5


@dataclass(frozen=True)
class Splitting:
    """What regions are split by. saved: their probabilities; least: probability, 0..254, inside; rules: how
    outlines are regularised, None for not at all; by_depth: where regions are narrow, and not where the
    model says that buildings touch; unit: metres of the grid's, which is a pixel where there is no CRS;
    turn: of whoever looks at a large one."""

    saved: SavedPixels
    grid: Grid
    settings: VectorSettings
    least: int
    rules: Rules | None
    by_depth: bool = False
    unit: float = 1.0
    turn: threading.Lock = field(default_factory=threading.Lock)

    def features(self, joined: Iterator[Features]) -> Iterator[Features]:
        """Whole regions, and in the place of those that are several buildings their parts, in batches in
        the order of their first pixel.

        A region is looked at as a whole, so that blocks have no influence.
        """
        waiting = self._whole(Features.none())
        for features in joined:
            if not len(features):
                continue
            metric = pixel_metric(features.geometry, self.grid)
            large = self._can_be_several(features, metric)
            parts = in_threads(
                lambda k, whole=features, metric=metric: self._parts(whole[k : k + 1], metric[k]),  # type: ignore[misc]
                large.tolist(),
                _THREADS,
            )
            stays = np.ones(len(features), np.bool_)
            stays[large] = [part is None for part in parts]
            kept = self._whole(features[stays])
            waiting = Features.concatenate([waiting, kept, *(part for part in parts if part is not None)])
            waiting = waiting[np.argsort(waiting.first_pixel, kind="stable")]
            # Regions that are yet to come, and their parts, begin behind the last of these regions; a part
            # of these may begin behind regions that are yet to come.
            ready = int(np.searchsorted(waiting.first_pixel, features.first_pixel[-1], side="right"))
            yield waiting[:ready]
            waiting = waiting[ready:]
        yield waiting

    def _can_be_several(self, features: Features, metric: NDArray[np.float64]) -> NDArray[np.int64]:
        """The numbers of regions that are large enough."""
        area = features.pixels * np.abs(np.linalg.det(metric)) * self.unit**2
        return np.flatnonzero(area >= 2 * _LEAST_AREA)

    def _parts(self, feature: Features, metric: NDArray[np.float64]) -> Features | None:
        """The parts of one region, None where it is one building."""
        left, top, right, bottom = (int(v) for v in shapely.bounds(feature.geometry)[0])
        window = Window(top, left, bottom - top, right - left)
        with self.turn if window.area > _MANY_PIXELS else nullcontext():
            return self._instances(feature, metric, window)

    def _instances(self, feature: Features, metric: NDArray[np.float64], window: Window) -> Features | None:
        along_col, along_row = (np.linalg.norm(metric, axis=0) * self.unit).tolist()
        find = self._small if window.area <= _MOST_PIXELS else self._large
        found = find(feature, window, (along_row, along_col))
        if found is None:
            return None
        count = len(found)
        # A vertex wherever three of them meet.
        outlines = Ragged.of(found.geometry)
        corners = np.rint(outlines.coords).astype(np.int64)
        noded = replace(outlines, coords=corners).with_vertices(corners, corners)
        exact = canonical(noded.geometries(), keep_vertices=True)
        metrics = np.repeat(metric[None], count, axis=0)
        filled = fill_holes(exact, (self.settings.fill_holes, self.settings.min_area), metrics)
        # A part may lie in the hole of another.
        if shapely.coverage_is_valid(filled):
            exact = filled
        value, group = np.full(count, feature.value[0]), np.full(count, feature.first_pixel[0])
        found = replace(found, geometry=exact, value=value, plain=exact, regular=exact, group=group)
        found = self._with_states(found)
        together = Row.of(exact, metric, self.settings.simplify)
        if together is None:
            return found
        plain = together.simplified()
        if self.rules is None:
            return replace(found, plain=plain, regular=plain)
        drawn = regularize_row(together, self.rules)
        return replace(
            found, plain=plain, regular=drawn.geometry, state=drawn.state, deviation=drawn.deviation
        )

    def _small(self, feature: Features, window: Window, metres: tuple[float, float]) -> Features | None:
        """The parts of a region that is looked at whole."""
        probability, contact = self.saved.window(window)
        if not (self.by_depth or may_touch(contact)):
            return None
        row, col = divmod(int(feature.first_pixel[0]), self.grid.width)
        region = component(self._inside(probability), row - window.row, col - window.col)
        parts = self._split(Planes(region, probability, contact), metres)
        if parts is None:
            return None
        found = trace(parts, probability, window, self.grid.width, 0)
        return Features(
            found.outlines.geometries(), found.value, found.pixels, found.probability_sum, found.first_pixel
        )

    def _large(self, feature: Features, window: Window, metres: tuple[float, float]) -> Features | None:
        """The parts of a region that is not."""

        def look(part: Window) -> NDArray[np.int32]:
            probability, contact = self.saved.window(part)
            inside = self._inside(probability)
            parts = None
            if self.by_depth or may_touch(contact):
                parts = self._split(Planes(inside, probability, contact), metres)
            return covered(inside, parts)

        def read(part: Window) -> NDArray[np.uint8]:
            return self.saved.window(part)[0]

        found = parts_by_cells(window, look, read, self.grid.width)
        # There may be other regions between.
        row, col = np.divmod(found.first_pixel, self.grid.width)
        shapely.prepare(feature.geometry)
        own = shapely.contains_xy(feature.geometry[0], col + 0.5, row + 0.5)
        return found[own] if own.sum() > 1 else None

    def _inside(self, probability: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.asarray((probability >= self.least) & (probability <= 254))

    def _split(self, planes: Planes, metres: tuple[float, float]) -> NDArray[np.int32] | None:
        return (split_by_depth if self.by_depth else split)(planes, metres)

    def _whole(self, features: Features) -> Features:
        none = np.full(len(features), None)
        return self._with_states(replace(features, plain=none, regular=none, group=features.first_pixel))

    def _with_states(self, features: Features) -> Features:
        if self.rules is None:
            return features
        state = np.full(len(features), State.SHARED, np.uint8)
        return replace(features, state=state, deviation=np.zeros(len(features)))
