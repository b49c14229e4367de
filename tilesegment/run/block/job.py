"""A job: everything a worker must know to predict any block of a run. Paths and plain values only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tilesegment.grid import Grid, Window
from tilesegment.model.engines.choose import EngineChoice
from tilesegment.model.engines.several import turns_of
from tilesegment.model.preprocess import ValueRange
from tilesegment.model.store import ModelFile
from tilesegment.raster.spec import SceneSpec
from tilesegment.run.block.file import BlockPixels
from tilesegment.settings import VectorSettings
from tilesegment.tiling.blend import NODATA, PROBABILITY_MAX, BlendMode
from tilesegment.tiling.plan import Block, Plan
from tilesegment.vector.trace import Fragments, Traceable, trace_bands


@dataclass(frozen=True)
class TraceSettings:
    """How class pixels become fragments.

    threshold: least probability of class 1, for two classes. values: classes that become polygons.
    tolerance: pixels of (rows, columns) that outlines shared by several classes may move; None to
    simplify later, polygon by polygon. trace: False where no polygons are wanted.
    """

    threshold: float
    values: tuple[int, ...]
    tolerance: tuple[float, float] | None = None
    trace: bool = True

    @property
    def least(self) -> int:
        """The least saved probability, 0..254, of class 1."""
        return math.ceil(self.threshold * PROBABILITY_MAX - 1e-9)

    @property
    def key(self) -> str:
        """Equal for settings that give equal fragments, and versions that save them alike."""
        names = [part.name for part in fields(Fragments)]
        return hashlib.sha256(json.dumps([*vars(self).values(), names]).encode()).hexdigest()[:16]

    def classes(
        self, classes: NDArray[np.uint8] | None, probability: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """The class of each pixel from what a block has saved; 255 where nothing was predicted."""
        if classes is not None:
            return classes
        result = self._is_foreground(probability).view(np.uint8)
        result[probability == NODATA] = NODATA
        return result

    @property
    def outside(self) -> int:
        """The label of what does not become polygons."""
        return NODATA if 0 in self.values else 0

    def labels(
        self, classes: NDArray[np.uint8] | None, probability: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """As `classes`, with `outside` for all but the classes that become polygons."""
        if classes is None and self.values == (1,):
            return self._is_foreground(probability).view(np.uint8)
        table = np.full(256, self.outside, np.uint8)
        table[list(self.values)] = self.values
        return table[self.classes(classes, probability)]

    def _is_foreground(self, probability: NDArray[np.uint8]) -> NDArray[np.bool_]:
        # Unsigned differences wrap around, so that this says least <= probability < NODATA at once.
        return (probability - np.uint8(self.least)) < np.uint8(NODATA - self.least)


@dataclass(frozen=True)
class Drawing:
    """How traced regions become polygons. grid: the plan's; settings: with every unit resolved; by_depth:
    regions are split where they are narrow."""

    grid: Grid
    settings: VectorSettings
    by_depth: bool = False


@dataclass(frozen=True)
class Job:
    """One run's work, the same for all of its blocks.

    dtype: of the scene's values; range: what of them becomes 0 and 1. aoi: WKB in pixel coordinates of the
    working grid, or None. batch: tiles a call, None for the engine's own. streams: forward passes at a time
    in a process. contact: save it too, to split buildings that touch. others: models whose probabilities
    are averaged with the model's; tta: one of `settings.TTA`. consensus: save how far tiles disagree.
    """

    scene: SceneSpec
    model: ModelFile
    plan: Plan
    dtype: str
    range: ValueRange
    blend: BlendMode
    engine: EngineChoice
    batch: int | None
    streams: int
    aoi: bytes | None
    tracing: TraceSettings
    folder: str
    drawing: Drawing | None = None
    contact: bool = False
    others: tuple[ModelFile, ...] = ()
    tta: str = "none"
    consensus: bool = False

    @property
    def models(self) -> tuple[ModelFile, ...]:
        """All whose probabilities are averaged."""
        return self.model, *self.others

    @property
    def polygons_key(self) -> str | None:
        """Equal for jobs that make equal polygons of equal pixels; None for those whose blocks are not
        looked at one by one: outlines that are shared by classes, and regions that touch at corners, know
        no inside."""
        if self.drawing is None or not self.tracing.trace or self.tracing.tolerance is not None:
            return None
        settings = self.drawing.settings
        if settings.connectivity != 4:
            return None
        told = [self.tracing.key, repr(settings), self.drawing.by_depth, self.contact]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @property
    def looks(self) -> int:
        """Forward passes of each tile."""
        return (1 + len(self.others)) * len(turns_of(self.tta))


@dataclass(frozen=True)
class BlockTask:
    """A job and one of its blocks."""

    job: Job
    block: Block
    path: str


def trace_block(
    plan: Plan, window: Window, read: Callable[[Window], BlockPixels], settings: TraceSettings
) -> Iterator[Fragments]:
    """The fragments of a block by bands; see `trace_bands`. read: the pixels of a window of the grid."""

    def labelled(piece: Window) -> Traceable:
        pixels = read(piece)
        return settings.labels(pixels.classes, pixels.probability), pixels.probability

    if settings.trace:
        yield from trace_bands(plan, window, labelled, settings.outside, settings.tolerance)
