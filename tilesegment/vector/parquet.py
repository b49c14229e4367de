"""GeoParquet 1.1: rows sorted along a Hilbert curve, so that readers of a place skip what is elsewhere.

Format: https://geoparquet.org/releases/v1.1.0/. Curve: `xy2d` of https://en.wikipedia.org/wiki/Hilbert_curve.
Features come in the order of their ids, so that a file is written in two passes: all rows to a file without
a name, with some 20 bytes of each in memory, then sorted row groups from there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from tilesegment.errors import SettingsError, TilesegmentError
from tilesegment.vector.project import projjson

# Rows of a group, a part of the layer that readers take or skip; rows of a part of the file in between, and
# how many such parts are kept at a time.
_GROUP, _SPOOLED, _KEPT = 20_000, 16_000, 48
# The curve passes through 2**_LEVEL squared cells.
_LEVEL = 12
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def write_parquet(
    path: Path,
    schema: Any,
    tables: Iterator[Any],
    crs: str | None,
    kinds: list[str],
    options: tuple[tuple[str, str], ...],
    metadata: dict[str, str],
) -> None:
    """Write record batches, whose geometry (the column of that name) is WKB, sorted by place.

    kinds: types of geometry that occur; options: of pyarrow's ParquetWriter. Memory holds some
    20 bytes a row, and some row groups. Raises SettingsError for options that cannot be used.
    """
    whole = schema.append(pa.field("bbox", pa.struct([(name, pa.float64()) for name in _CORNERS])))
    known = {key.lower(): value for key, value in options}
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            rows = _Rows(file, whole)
            for table in tables:
                rows.add(table)
            geo = {"geo": json.dumps(_geo(crs, kinds, rows.bounds))}
            with pq.ParquetWriter(
                str(path), whole.with_metadata({**geo, **metadata}), **{"compression": "zstd", **known}
            ) as writer:
                for group in rows.sorted_groups():
                    writer.write_table(group, row_group_size=_GROUP)
    except (TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        if not options or isinstance(error, TilesegmentError):
            raise
        raise SettingsError(f"--lco: {str(error).split(') ')[-1]} (Parquet)") from error


def _geo(crs: str | None, kinds: list[str], bounds: NDArray[np.float64] | None) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": kinds,
        "orientation": "counterclockwise",
        "crs": projjson(crs),
        "covering": {"bbox": {name: ["bbox", name] for name in _CORNERS}},
    }
    if bounds is not None:
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


class _Rows:
    """Rows on disk, and where each lies. bounds: (4,) of all, None without rows."""

    def __init__(self, file: IO[bytes], schema: Any) -> None:
        self._file, self._schema = file, schema
        self._writer = pa.ipc.new_file(file, schema)
        self._waiting: list[Any] = []
        self._counts: list[int] = []
        self._centres: list[NDArray[np.float32]] = []
        self.bounds: NDArray[np.float64] | None = None

    def add(self, batch: Any) -> None:
        if not batch.num_rows:
            return
        geometry = batch.column("geometry").to_numpy(zero_copy_only=False)
        bounds = shapely.bounds(shapely.from_wkb(geometry))
        self._centres.append(((bounds[:, :2] + bounds[:, 2:]) / 2).astype(np.float32))
        ends = bounds if self.bounds is None else np.vstack([bounds, self.bounds])
        self.bounds = np.concatenate([ends[:, :2].min(axis=0), ends[:, 2:].max(axis=0)])
        corners = pa.StructArray.from_arrays([pa.array(side) for side in bounds.T], names=_CORNERS)
        self._waiting.append(pa.RecordBatch.from_arrays([*batch.columns, corners], schema=self._schema))
        if sum(waiting.num_rows for waiting in self._waiting) >= _SPOOLED:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        self._waiting.clear()
        for part in table.to_batches(max_chunksize=_SPOOLED):
            self._writer.write_batch(part)
            self._counts.append(part.num_rows)

    def sorted_groups(self) -> Iterator[Any]:
        """All rows in the order of the curve, equal ones as they came."""
        self._flush()
        self._writer.close()
        if self.bounds is None:
            return
        order = np.argsort(hilbert(np.concatenate(self._centres), self.bounds), kind="stable")
        self._centres.clear()
        begins = np.concatenate([[0], np.cumsum(self._counts)])
        self._file.seek(0)
        reader = pa.ipc.open_file(self._file)
        read = lru_cache(_KEPT)(reader.get_batch)
        for start in range(0, len(order), _GROUP):
            rows = order[start : start + _GROUP]
            owners = np.searchsorted(begins, rows, side="right") - 1
            parts, places = [], []
            for owner in np.unique(owners):
                mine = np.flatnonzero(owners == owner)
                parts.append(read(int(owner)).take(pa.array(rows[mine] - begins[owner])))
                places.append(mine)
            back = np.argsort(np.concatenate(places), kind="stable")
            yield pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))


def hilbert(points: NDArray[np.floating], bounds: NDArray[np.float64]) -> NDArray[np.uint32]:
    """How far along a Hilbert curve through `bounds` (xmin, ymin, xmax, ymax) points (n, 2) lie."""
    side = np.maximum(bounds[2:] - bounds[:2], np.finfo(np.float64).tiny)
    cells = np.clip((points - bounds[:2]) / side * 2**_LEVEL, 0, 2**_LEVEL - 1).astype(np.uint32)
    x, y = cells[:, 0].copy(), cells[:, 1].copy()
    found = np.zeros(len(points), np.uint32)
    for level in reversed(range(_LEVEL)):
        bit = np.uint32(1 << level)
        right, upper = (x & bit) > 0, (y & bit) > 0
        found += bit * bit * ((np.uint32(3) * right) ^ upper.astype(np.uint32))
        # The curve inside the quarter is turned and mirrored.
        flip = right & ~upper
        x[flip], y[flip] = bit - 1 - (x[flip] & (bit - 1)), bit - 1 - (y[flip] & (bit - 1))
        x[~upper], y[~upper] = y[~upper].copy(), x[~upper].copy()
    return found
