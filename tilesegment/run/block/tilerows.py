"""The pixels of a block, row of tiles by row of tiles, each read while the one before is predicted."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tilesegment.grid import Window
from tilesegment.raster.aoi import inside_aoi
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.spec import Pixels
from tilesegment.run.block.job import Job
from tilesegment.run.block.stopwatch import Stopwatch
from tilesegment.tiling.plan import Block


@dataclass(frozen=True)
class TileRow:
    """One row of tiles, read: the pixels from its first tile's first column on, as bands of rows one below
    the other, and which of them may be written (valid and inside the area of interest)."""

    index: int
    bands: tuple[Pixels, ...]
    wanted: NDArray[np.bool_]


class PixelSource(Protocol):
    """What tiles are cut from: a scene, or a picture in memory."""

    def read(self, window: Window) -> Pixels:
        """Pixels of a window, invalid where it reaches beyond the source."""
        ...


def tile_rows(
    scene: PixelSource, job: Job, block: Block, watch: Stopwatch, reader: ThreadPoolExecutor
) -> Generator[TileRow]:
    """The rows of tiles of a block, each read by a thread of `reader`, which is the caller's, while the one
    before is being predicted."""
    plan = job.plan
    first, last = plan.cols.start(block.tile_cols[0]), plan.cols.start(block.tile_cols[-1])
    width = last + plan.tile[1] - first
    above: tuple[Pixels, ...] = ()

    def read(index: int) -> TileRow:
        nonlocal above
        with watch.stage("read"), gdal_environment(job.scene.gdal):
            top = begin = plan.rows.start(index)
            bands: tuple[Pixels, ...] = ()
            if above:
                begin = plan.rows.start(index - 1) + plan.tile[0]
                bands = _last_rows(above, begin - top)
            above = bands = (*bands, scene.read(Window(begin, first, top + plan.tile[0] - begin, width)))
            wanted = np.concatenate([band.valid for band in bands])
            if job.aoi is not None:
                wanted = wanted & inside_aoi(job.aoi, Window(top, first, plan.tile[0], width))
            return TileRow(index, bands, wanted)

    ahead: Future[TileRow] = reader.submit(read, block.tile_rows[0])
    for index in block.tile_rows:
        row = ahead.result()
        if index != block.tile_rows[-1]:
            ahead = reader.submit(read, index + 1)
        yield row


def _last_rows(bands: tuple[Pixels, ...], rows: int) -> tuple[Pixels, ...]:
    """Copies of the last rows, so that the rest need not stay in memory."""
    found: tuple[Pixels, ...] = ()
    for band in reversed(bands):
        height = min(rows, len(band.valid))
        if height:
            begin = len(band.valid) - height
            found = (Pixels(band.values[:, begin:].copy(), band.valid[begin:].copy()), *found)
            rows -= height
    return found


def cut_tile(row: TileRow, col: int, width: int) -> Pixels | None:
    """One tile; None where nothing of it will be written."""
    cols = slice(col, col + width)
    if not row.wanted[:, cols].any():
        return None
    if len(row.bands) == 1:
        return Pixels(row.bands[0].values[:, :, cols], row.bands[0].valid[:, cols])
    return Pixels(
        np.concatenate([band.values[:, :, cols] for band in row.bands], axis=1),
        np.concatenate([band.valid[:, cols] for band in row.bands]),
    )


def wanted_part(row: TileRow, left: int, width: int) -> NDArray[np.bool_] | None:
    """What may be written of a row of tiles, in the block's columns; None for nothing."""
    part = row.wanted[:, left : left + width]
    return part if part.any() else None
