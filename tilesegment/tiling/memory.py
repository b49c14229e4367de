"""Memory is known before the run: what a process needs, and the blocks that fit a budget.

The figures are upper estimates; `benchmarks/memory.py` holds them against what a run really takes.
"""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass, fields, replace

from tilesegment.errors import MemoryBudgetError
from tilesegment.tiling.plan import Plan

MB = 1_000_000
# Interpreter, GDAL, PROJ, GEOS, Arrow and the engine once imported, as resident bytes.
PROCESS_BYTES = {"torch": 1050 * MB, "openvino": 275 * MB, "onnx": 260 * MB}
# Of what torch takes for a forward pass in fp32, which is what cards say; the others use buffers again.
ACTIVATION_SHARE = {"torch": 1.0, "openvino": 0.5, "onnx": 0.5}
_HALF_SHARE = 0.7
# As large as the scene at most.
GDAL_CACHE_BYTES = 64 * MB
# Rows traced at a time. It bounds the tracer's arrays and has no influence on the polygons.
TRACE_ROWS = 256
# Bytes a pixel while a band is traced: class, validity, probability, two running sums.
TRACE_BYTES = 14
# While outputs are written: bytes of saved pixels that are kept, the largest window in which buildings that
# touch are told apart, and bytes a pixel of it.
KEPT_BYTES = 64 * MB
SPLIT_PIXELS = 2048**2
SPLIT_BYTES = 35
# A block above this is cut even where memory allows more: it is what a killed run can lose.
MOST_BLOCK_PIXELS = 400_000_000
# A block below this is not worth its rim of tiles predicted twice.
LEAST_BLOCK_PIXELS = 24_000_000
# Memory of fewer pixels is not given back between two scenes.
_WORTH_GIVING = 4_000_000
# Work done / work needed.
MOST_WORK = 1.05


@dataclass(frozen=True)
class Load:
    """What one process holds, independent of the scene's size.

    bands, pixel_bytes: of the scene; channels: blended ones (1 for two classes); contact: and one more.
    model_bytes: weights in memory; activation_bytes: of one forward pass of one tile at its peak.
    streams: forward passes at the same time; batch: tiles in each. process_bytes: before any of this.
    scene_bytes: of the whole scene, uncompressed; splits: buildings that touch are told apart. looks:
    forward passes of a tile, whose results are summed; consensus: it is saved how far tiles disagree.
    """

    bands: int
    pixel_bytes: int
    channels: int
    model_bytes: int
    activation_bytes: int
    streams: int
    batch: int
    process_bytes: int
    contact: bool = False
    scene_bytes: int = GDAL_CACHE_BYTES
    splits: bool = False
    looks: int = 1
    consensus: bool = False

    @property
    def saved_bytes(self) -> int:
        """Bytes of a finished pixel: probability, and the class where there are several."""
        return (1 if self.channels == 1 else 2) + self.contact + self.consensus


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, by part. strip: the rows being read and blended; finished: those that wait
    to be traced and saved; outputs: what making polygons and writing them takes more than these three, and
    beside them."""

    process: int
    model: int
    forward: int
    strip: int
    finished: int
    trace: int
    outputs: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def activation_bytes(stated: int, engine: str, precision: str) -> int:
    """Bytes a pixel of a forward pass, of what a model's card states."""
    half = _HALF_SHARE if engine == "openvino" and precision == "bf16" else 1.0
    return int(stated * ACTIVATION_SHARE[engine] * half)


def rows_waiting(plan: Plan) -> int:
    """Finished rows that may wait for the tracer: what it takes at a time, and one row of tiles more."""
    return max(TRACE_ROWS, plan.tile[0]) + plan.tile[0]


def worst_memory(plan: Plan, load: Load) -> Memory:
    """The memory that predicting the plan's widest block takes at its peak; its height costs nothing."""
    height = max(end - begin for begin, end, _ in plan.row_parts)
    width = max(end - begin for begin, end, _ in plan.col_parts)
    tile_cols = max(len(tiles) for _, _, tiles in plan.col_parts)
    tile_pixels = plan.tile[0] * plan.tile[1]
    strip_pixels = plan.tile[0] * (tile_cols * (plan.tile[1] - plan.overlap) + plan.overlap)
    source = load.bands * load.pixel_bytes + 1
    channels = load.channels + load.contact
    # A tile waits as raw values, float32 values and probabilities; two batches a stream are under way, and
    # turned copies of them.
    waiting = 2 if load.looks == 1 else 4
    tile_bytes = tile_pixels * (source + 4 * load.bands + 4 * channels)
    # The strip in use and the one read ahead; sums of classes and weights.
    strip = strip_pixels * (2 * source + 4 * channels + 4 + 8)
    # The extremes of each class, and their copies while rows move up.
    strip += strip_pixels * 8 * load.channels if load.consensus else 0
    # A band more is on its way to the file.
    saved = load.saved_bytes
    finished = min(rows_waiting(plan) + plan.tile[0], height) * width * saved
    trace = min(TRACE_ROWS, height) * width * TRACE_BYTES
    outputs = min(KEPT_BYTES, plan.region.area * saved)
    outputs += SPLIT_BYTES * min(SPLIT_PIXELS, plan.region.area) if load.splits else 0
    # The polygons of a block are made while the next one is predicted; they hardly ever take the most that
    # they can (measured: 720 to 850 MB where 784 and 852 are planned so).
    beside = outputs // 2 if plan.block_rows * plan.block_cols > 1 else 0
    return Memory(
        process=load.process_bytes + min(GDAL_CACHE_BYTES, load.scene_bytes),
        model=load.model_bytes,
        forward=load.streams * load.batch * (load.activation_bytes + waiting * tile_bytes),
        strip=strip,
        finished=finished,
        trace=trace,
        outputs=max(outputs - strip - finished - trace, beside),
    )


def fit_blocks(plan: Plan, load: Load, budget: int, workers: int = 1) -> Plan:
    """The plan with its blocks chosen: within `budget` bytes a process, and with little work wasted.

    Waste is what tiles predicted twice and workers without a block would cost together. Among the cuts
    that waste at most 5 %, the one that takes the least memory wins (narrow, high blocks); beyond that the
    one that wastes least. There are at least as many blocks as workers where the scene has the tiles.

    Raises MemoryBudgetError where even the smallest block needs more.
    """
    region = plan.region
    most_rows = len(plan.rows.cells(region.row, region.row_end))
    most_cols = len(plan.cols.cells(region.col, region.col_end))
    enough = min(workers, most_rows * most_cols)
    best: tuple[tuple[bool, float, int], Plan] | None = None
    for cols in _divisors(most_cols):
        for rows in _divisors(most_rows):
            candidate = replace(plan, block_rows=rows, block_cols=cols)
            blocks = rows * cols
            if blocks < enough or region.area / blocks > MOST_BLOCK_PIXELS:
                continue
            recompute = candidate.recompute
            if recompute > 2 and best is not None:
                break
            need = worst_memory(candidate, load).total
            if need > budget:
                continue
            work = recompute * workers * math.ceil(blocks / workers) / blocks
            worth = blocks == enough or region.area / blocks >= LEAST_BLOCK_PIXELS
            cheap = work <= MOST_WORK and worth
            score = (not cheap, need if cheap else work, -blocks)
            if best is None or score < best[0]:
                best = (score, candidate)
    if best is not None:
        return best[1]
    smallest = replace(plan, block_rows=most_rows, block_cols=most_cols)
    need = worst_memory(smallest, load).total
    if need > budget:
        raise MemoryBudgetError(
            f"--max-memory {budget / 1e9:.2f}GB is less than the {need / 1e9:.2f}GB that the smallest "
            "block of this model needs; give more, or a smaller --tile or --batch"
        )
    return smallest


def _divisors(most: int) -> list[int]:
    """Candidate numbers of parts, 1 to `most`: all small ones, then about 20 % apart."""
    parts, result = 1, []
    while parts < most:
        result.append(parts)
        parts = max(parts + 1, int(parts * 1.2))
    return [*result, most]


def give_back_memory(pixels: int = MOST_BLOCK_PIXELS) -> None:
    """Give freed memory back to the system where the C library keeps it (glibc): its heaps grow with every
    block otherwise, as arrays of several threads come and go in other orders. pixels: of what was worked
    on; a small picture is not worth the time, since the next one takes the same memory again."""
    if sys.platform == "linux" and pixels >= _WORTH_GIVING:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
