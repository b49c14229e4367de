"""Tracing: class pixels of one window to polygon fragments with their pixel statistics.

Statistics come from the outlines alone. The area is the shoelace sum, and the sum of probabilities
follows from Green's theorem on the grid: with I[y, x] the sum of all values above row y and left of
column x, the sum inside a ring is that of I[y1, x] - I[y0, x] over its vertical edges. No pixel is
labelled and none is visited twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilesegment.grid import Window
from tilesegment.tiling.memory import TRACE_ROWS
from tilesegment.tiling.plan import Plan
from tilesegment.vector.outlines import trace_outlines
from tilesegment.vector.rings import IntArray, Ragged, ring_sums, valid_polygons

# Labels (whole numbers) and probabilities (or None), (rows, columns) each.
Traceable = tuple[NDArray[Any], NDArray[np.uint8] | None]
# No label has this value.
_NOWHERE = -(2**62)


@dataclass(frozen=True)
class Fragments:
    """Polygons of one traced window, or of several, as flat arrays in whole pixel coordinates.

    value: class of each; pixels: how many; probability_sum: of their probabilities (0..254 each);
    first_pixel: linear index (row * width of the grid + column) of the topmost, then leftmost pixel;
    coords, rings, parts: the outlines (see `rings`).
    runs: (r, 6) edges on the window's border: (1 vertical or 0 horizontal, line, 1 on the line's right or
    lower side, from, to, fragment).
    """

    value: IntArray
    pixels: IntArray
    probability_sum: IntArray
    first_pixel: IntArray
    coords: IntArray
    rings: IntArray
    parts: IntArray
    runs: IntArray

    def __len__(self) -> int:
        return len(self.value)

    @property
    def outlines(self) -> Ragged:
        """The polygons in the shape of `rings`."""
        return Ragged(self.coords, self.rings, self.parts)

    def only(self, wanted: NDArray[np.bool_]) -> Fragments:
        """Some of them, without their runs."""
        outlines = self.outlines.with_parts(wanted)
        return Fragments(
            value=self.value[wanted],
            pixels=self.pixels[wanted],
            probability_sum=self.probability_sum[wanted],
            first_pixel=self.first_pixel[wanted],
            coords=outlines.coords,
            rings=outlines.rings,
            parts=outlines.parts,
            runs=np.empty((0, 6), np.int64),
        )

    def with_runs(self, wanted: NDArray[np.bool_]) -> Fragments:
        """Some of them, with theirs."""
        runs = self.runs[wanted[self.runs[:, 5]]].copy()
        runs[:, 5] = (np.cumsum(wanted) - 1)[runs[:, 5]]
        return replace(self.only(wanted), runs=runs)

    def renumbered_runs(self, start: int) -> IntArray:
        """The runs with fragments counted from `start`."""
        runs = self.runs.copy()
        runs[:, 5] += start
        return runs

    @classmethod
    def concatenate(cls, pieces: list[Fragments]) -> Fragments:
        """The fragments of several windows in one value, fragment numbers of the runs counted on."""
        counts = np.cumsum([0, *(len(piece) for piece in pieces)])
        runs = [p.renumbered_runs(int(n)) for p, n in zip(pieces, counts, strict=False)]
        joined = {
            f.name: np.concatenate([getattr(piece, f.name) for piece in pieces])
            for f in fields(cls)
            if f.name not in ("rings", "parts", "runs")
        }
        return cls(
            **joined,
            rings=_chain_offsets([piece.rings for piece in pieces]),
            parts=_chain_offsets([piece.parts for piece in pieces]),
            runs=np.concatenate(runs),
        )


def trace(
    labels: NDArray[Any],
    probability: NDArray[np.uint8] | None,
    window: Window,
    grid_width: int,
    outside: int,
) -> Fragments:
    """The 4-connected regions of equal label of one window.

    labels: (rows, columns) whole numbers; probability: (rows, columns) 0..254 or None;
    window: where they lie; grid_width: of the whole grid, for the first pixel's index;
    outside: the label that is not traced.
    """
    outlines, value = trace_outlines(labels, outside)
    areas = np.abs(outlines.signed_areas())
    hole = outlines.is_hole()
    pixels = _part_sums(outlines, np.where(hole, -areas, areas))
    total = np.zeros(len(value), np.int64)
    if probability is not None and len(value):
        total = _part_sums(outlines, _probability_sums(outlines, probability, hole))
    shifted = outlines.coords + np.array([window.col, window.row])
    outlines = Ragged(shifted, outlines.rings, outlines.parts)
    return Fragments(
        value=value,
        pixels=np.rint(pixels).astype(np.int64),
        probability_sum=total.astype(np.int64),
        first_pixel=_first_pixels(outlines, grid_width),
        coords=outlines.coords,
        rings=outlines.rings,
        parts=outlines.parts,
        runs=_border_runs(outlines, window),
    )


def trace_simplified(
    labels: NDArray[Any],
    probability: NDArray[np.uint8] | None,
    window: Window,
    grid_width: int,
    outside: int,
    tolerance: tuple[float, float],
) -> Fragments:
    """As `trace`, the outlines simplified together so that neighbours keep sharing theirs.

    Everything in the window takes part, what is outside too, and the window's border stays as it is:
    neighbouring windows of a *fixed* lattice fit each other whatever blocks they came in.
    tolerance: pixels of (rows, columns); an outline moves by about as much (Visvalingam-Whyatt on the
    whole coverage, GEOS's CoverageSimplifier).
    """
    everything = trace(labels.astype(np.int64), probability, window, grid_width, _NOWHERE)
    scale = np.array([tolerance[1], tolerance[0]])
    # Where three regions meet, the outline that passes straight through needs the vertex as well, or it
    # would not be recognised as shared.
    noded = everything.outlines.with_vertices(everything.coords, everything.coords)
    polygons = Ragged(noded.coords / scale, noded.rings, noded.parts).geometries()
    polygons = shapely.coverage_simplify(valid_polygons(polygons), 1.0, simplify_boundary=False)
    simplified = Ragged.of(np.asarray(polygons))
    # Vertices are only left out, never moved, so rounding gives back the exact corners.
    coords = np.rint(simplified.coords * scale).astype(np.int64)
    fragments = replace(everything, coords=coords, rings=simplified.rings, parts=simplified.parts)
    fragments = fragments.only(everything.value != outside)
    return replace(fragments, runs=_border_runs(fragments.outlines, window))


def bands_of(plan: Plan, window: Window, shared_outlines: bool) -> list[list[Window]]:
    """The windows that a block is traced in, row by row: bands as wide as the block or, where outlines are
    simplified together, the cells of the lattice, which are the same whatever the blocks. Blocks beside
    each other have the same rows."""
    if not shared_outlines:
        return [
            [Window(row, window.col, min(TRACE_ROWS, window.row_end - row), window.width)]
            for row in range(window.row, window.row_end, TRACE_ROWS)
        ]
    bands = []
    for i in plan.rows.cells(window.row, window.row_end):
        band = []
        for j in plan.cols.cells(window.col, window.col_end):
            row, col = plan.rows.cell_start(i), plan.cols.cell_start(j)
            height, width = plan.rows.cell_start(i + 1) - row, plan.cols.cell_start(j + 1) - col
            part = Window(row, col, height, width).intersection(window)
            if part is not None:
                band.append(part)
        bands.append(band)
    return bands


def trace_bands(
    plan: Plan,
    window: Window,
    read: Callable[[Window], Traceable],
    outside: int,
    tolerance: tuple[float, float] | None,
) -> Iterator[Fragments]:
    """The fragments of a block, one value for each of `bands_of` it.

    read: labels and probability of a window inside the block, asked for from top to bottom; outside: the
    label that is not traced; tolerance: as for `trace_simplified`, None for exact outlines."""
    for band in bands_of(plan, window, tolerance is not None):
        traced = [no_fragments()]
        for piece in band:
            labels, probability = read(piece)
            if (labels == outside).all():
                continue
            if tolerance is None:
                traced.append(trace(labels, probability, piece, plan.width, outside))
            else:
                traced.append(trace_simplified(labels, probability, piece, plan.width, outside, tolerance))
        yield Fragments.concatenate(traced) if len(traced) != 2 else traced[1]


def no_fragments() -> Fragments:
    """The fragments of nothing."""
    none, zero = np.empty(0, np.int64), np.zeros(1, np.int64)
    runs = np.empty((0, 6), np.int64)
    return Fragments(none, none, none, none, np.empty((0, 2), np.int64), zero, zero, runs)


def _probability_sums(
    outlines: Ragged, probability: NDArray[np.uint8], hole: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The sum of probabilities inside each ring, negative for holes."""
    # Sums wrap around harmlessly as long as the largest result fits.
    kind = np.uint32 if probability.size < 2**32 // 256 else np.uint64
    integral = np.zeros((probability.shape[0] + 1, probability.shape[1] + 1), kind)
    # Row by row: numpy's own sum along columns takes eight times as long.
    for (above, row), values in zip(pairwise(integral), probability, strict=True):
        np.cumsum(values, dtype=kind, out=row[1:])
        row += above
    at_vertex = integral[outlines.coords[:, 1], outlines.coords[:, 0]]
    x = outlines.coords[:, 0]
    vertical = x[1:] == x[:-1]
    steps = np.where(vertical, at_vertex[1:] - at_vertex[:-1], kind(0))
    sums = ring_sums(outlines, steps)
    clockwise = outlines.signed_areas() > 0
    sums = np.where(clockwise, sums, kind(0) - sums).astype(np.int64)
    return np.where(hole, -sums, sums)


def _part_sums(outlines: Ragged, of_rings: NDArray[Any]) -> NDArray[Any]:
    if len(outlines.parts) == 1:
        return np.zeros(0, of_rings.dtype)
    return np.asarray(np.add.reduceat(of_rings, outlines.parts[:-1]))


def _first_pixels(outlines: Ragged, grid_width: int) -> IntArray:
    """The corner that is topmost, then leftmost, is the outer corner of the first pixel."""
    if len(outlines.parts) == 1:
        return np.zeros(0, np.int64)
    index = outlines.coords[:, 1] * grid_width + outlines.coords[:, 0]
    return np.asarray(np.minimum.reduceat(index, outlines.rings[outlines.parts[:-1]]), np.int64)


def _border_runs(outlines: Ragged, window: Window) -> IntArray:
    """Edges on the four border lines of the window; see `Fragments.runs`."""
    here, there = outlines.coords[:-1], outlines.coords[1:]
    fragment = outlines.part_of_ring()[outlines.ring_of_vertex()]
    inside = np.ones(max(0, len(outlines.coords) - 1), np.bool_)
    inside[outlines.rings[1:-1] - 1] = False
    found = []
    for axis, line, side in (
        (1, window.col, 1),
        (1, window.col_end, 0),
        (0, window.row, 1),
        (0, window.row_end, 0),
    ):
        across = 1 - axis
        hit = np.flatnonzero((here[:, across] == line) & (there[:, across] == line) & inside)
        ends = np.sort(np.column_stack([here[hit, axis], there[hit, axis]]), axis=1)
        head = np.broadcast_to([axis, line, side], (len(hit), 3))
        found.append(np.column_stack([head, ends, fragment[hit]]))
    return np.concatenate(found).astype(np.int64).reshape(-1, 6)


def _chain_offsets(levels: list[IntArray]) -> IntArray:
    """Offset arrays of several pieces as one."""
    return np.concatenate([[0], *_shifted(levels)]).astype(np.int64)


def _shifted(levels: list[IntArray]) -> Iterator[IntArray]:
    total = 0
    for offsets in levels:
        yield offsets[1:] + total
        total += int(offsets[-1])
