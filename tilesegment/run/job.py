"""A job: everything a worker must know to predict any block of a run. Paths and plain values only."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilesegment.grid import Window
from tilesegment.model.store import ModelFile
from tilesegment.raster.source import SceneSpec
from tilesegment.tiling.blend import NODATA, PROBABILITY_MAX, BlendMode
from tilesegment.tiling.memory import TRACE_ROWS
from tilesegment.tiling.plan import Block, Plan
from tilesegment.vector.trace import Fragments, trace, trace_simplified


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
    def key(self) -> str:
        return hashlib.sha256(json.dumps(list(vars(self).values())).encode()).hexdigest()[:16]

    def classes(
        self, classes: NDArray[np.uint8] | None, probability: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """The class of each pixel from what a block has saved; 255 where nothing was predicted."""
        if classes is not None:
            return classes
        least = math.ceil(self.threshold * PROBABILITY_MAX - 1e-9)
        result = (probability >= least).astype(np.uint8)
        result[probability == NODATA] = NODATA
        return result


@dataclass(frozen=True)
class Job:
    """One run's work, the same for all of its blocks.

    low, high: the value range by band. aoi: WKB in pixel coordinates of the working grid, or None.
    batch: tiles a call, None for the engine's own. lanes: forward passes at a time in a process.
    """

    scene: SceneSpec
    model: ModelFile
    plan: Plan
    low: tuple[float, ...]
    high: tuple[float, ...]
    blend: BlendMode
    device: str
    precision: str
    batch: int | None
    lanes: int
    aoi: bytes | None
    tracing: TraceSettings
    folder: str


@dataclass(frozen=True)
class BlockTask:
    """A job and one of its blocks."""

    job: Job
    block: Block
    path: str


def trace_pieces(plan: Plan, window: Window, shared_outlines: bool) -> list[Window]:
    """The windows that a block is traced in: bands of rows, or, where outlines are simplified together,
    the cells of the lattice, which are the same whatever the blocks."""
    if not shared_outlines:
        return [
            Window(row, window.col, min(TRACE_ROWS, window.row_end - row), window.width)
            for row in range(window.row, window.row_end, TRACE_ROWS)
        ]
    pieces = []
    for i in plan.rows.cells(window.row, window.row_end):
        for j in plan.cols.cells(window.col, window.col_end):
            row, col = plan.rows.cell_start(i), plan.cols.cell_start(j)
            height, width = plan.rows.cell_start(i + 1) - row, plan.cols.cell_start(j + 1) - col
            part = Window(row, col, height, width).intersection(window)
            if part is not None:
                pieces.append(part)
    return pieces


def trace_block(
    plan: Plan,
    window: Window,
    classes: NDArray[np.uint8] | None,
    probability: NDArray[np.uint8],
    settings: TraceSettings,
) -> Fragments:
    """The fragments of a block from its saved pixels, (rows, columns) of `window`."""
    pieces = []
    shared = settings.tolerance is not None
    for piece in trace_pieces(plan, window, shared) if settings.trace else ():
        rows, cols = piece.relative_to(window).slices
        part = probability[rows, cols]
        values = settings.classes(None if classes is None else classes[rows, cols], part)
        values = np.ascontiguousarray(values)
        mask = np.isin(values, settings.values)
        if settings.tolerance is None:
            pieces.append(trace(values, part, piece, plan.width, mask))
        else:
            tolerance = settings.tolerance
            pieces.append(trace_simplified(values, part, piece, plan.width, mask, tolerance))
    if not pieces:
        pieces = [_nothing(plan, window)]
    return Fragments.concatenate(pieces)


def _nothing(plan: Plan, window: Window) -> Fragments:
    empty = np.zeros((1, 1), np.uint8)
    corner = Window(window.row, window.col, 1, 1)
    return trace(empty, None, corner, plan.width, np.zeros((1, 1), np.bool_))
