"""Pictures as their camera was held: the EXIF orientation, which GDAL leaves to its callers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

# From the stored to the upright array, by EXIF orientation: transpose, then reverse rows, then columns.
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(dataset: Any) -> Any:
    """An open dataset as it is to be seen. One with a georeference is as it is: its pixels have their
    places already."""
    text = dataset.tags().get("EXIF_Orientation", "").strip()
    turn = _TURNS.get(int(text)) if text.isdigit() else None
    if turn is None or dataset.crs is not None or not dataset.transform.is_identity or dataset.gcps[0]:
        return dataset
    return Upright(dataset, turn)


class Upright:
    """A dataset whose size and windows are those of the turned picture; else it is the dataset itself."""

    def __init__(self, dataset: Any, turn: tuple[bool, bool, bool]) -> None:
        self._dataset = dataset
        self._transposed, self._rows, self._cols = turn
        self.height, self.width = dataset.height, dataset.width
        if self._transposed:
            self.height, self.width = self.width, self.height

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.height, self.width

    def read(self, indexes: Any = None, window: Any = None, out_shape: Any = None, **options: Any) -> Any:
        """As rasterio's `read`."""
        return self._turned(self._dataset.read(indexes, **self._stored(window, out_shape), **options))

    def read_masks(self, indexes: Any = None, window: Any = None, out_shape: Any = None) -> Any:
        """As rasterio's `read_masks`."""
        return self._turned(self._dataset.read_masks(indexes, **self._stored(window, out_shape)))

    def dataset_mask(self, window: Any = None, out_shape: Any = None) -> Any:
        """As rasterio's `dataset_mask`."""
        return self._turned(self._dataset.dataset_mask(**self._stored(window, out_shape)))

    def _stored(self, window: Any, shape: Any) -> dict[str, Any]:
        """Where a window of the upright picture is stored, and the shape to read it at."""
        if window is None:
            window = Window(0, 0, self.width, self.height)
        row, col, rows, cols = window.row_off, window.col_off, window.height, window.width
        if self._rows:
            row = self.height - row - rows
        if self._cols:
            col = self.width - col - cols
        if self._transposed:
            row, col, rows, cols = col, row, cols, rows
            shape = None if shape is None else (*shape[:-2], shape[-1], shape[-2])
        return {"window": Window(col, row, cols, rows), "out_shape": shape}

    def _turned(self, array: NDArray[Any]) -> NDArray[Any]:
        if self._transposed:
            array = array.swapaxes(-1, -2)
        if self._rows:
            array = array[..., ::-1, :]
        if self._cols:
            array = array[..., ::-1]
        return np.ascontiguousarray(array)
