"""Finished rows between the thread that blends and the one that traces."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from tilesegment.errors import BlockFailedError
from tilesegment.grid import Window
from tilesegment.run.block.file import BlockPixels


class RowBuffer:
    """Finished rows on their way from the thread that blends to the one that traces.

    window: of the block. most: rows that may wait; who puts more has to wait himself.
    """

    def __init__(self, window: Window, most: int) -> None:
        self._bands: deque[tuple[int, BlockPixels]] = deque()
        self._window, self._most = window, most
        self._needed = self._filled = window.row
        self._closed = False
        self._changed = threading.Condition()

    def put(self, pixels: BlockPixels) -> None:
        """Take the next rows."""
        with self._changed:
            self._changed.wait_for(lambda: self._filled - self._needed < self._most or self._closed)
            if self._closed:
                return
            self._bands.append((self._filled, pixels))
            self._filled += len(pixels.probability)
            self._changed.notify_all()

    def take(self, piece: Window) -> BlockPixels:
        """The pixels of a window of the grid as soon as they are there. What is above it is forgotten.
        Raises BlockFailedError where they never will be there."""
        with self._changed:
            self._needed = piece.row
            while self._bands and self._bands[0][0] + len(self._bands[0][1].probability) <= piece.row:
                self._bands.popleft()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._filled >= piece.row_end or self._closed)
            if self._filled < piece.row_end:
                raise BlockFailedError("the block was not finished")
            bands = [(row, pixels) for row, pixels in self._bands if row < piece.row_end]
        cols = slice(piece.col - self._window.col, piece.col_end - self._window.col)

        def cut(arrays: Iterator[tuple[int, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
            parts = [array[max(0, piece.row - row) : piece.row_end - row, cols] for row, array in arrays]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        probability = cut((row, pixels.probability) for row, pixels in bands)
        if bands[0][1].classes is None:
            return BlockPixels(None, probability)
        return BlockPixels(
            cut((row, pixels.classes) for row, pixels in bands if pixels.classes is not None), probability
        )

    @contextmanager
    def closing(self) -> Iterator[None]:
        """After the body nothing more comes, or nothing more is wanted: nobody waits any longer."""
        try:
            yield
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
