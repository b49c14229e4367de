"""GeoParquet of ten million polygons: seconds and memory to write it, and what a reader of a place takes.

Every tenth polygon of a grid is missing, and they come in the order of their ids, from top to bottom.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from tilesegment.vector.files import Target, schema_of, write_tables

_BATCH = 50_000
_KINDS = {"id": pa.int64(), "class": pa.string(), "area_m2": pa.float64(), "confidence": pa.float64()}


def batches(count: int, schema: Any) -> Iterator[Any]:
    """Squares of 8 m, 20 m apart, as record batches."""
    rng = np.random.default_rng(0)
    across = int(np.sqrt(count))
    for start in range(0, count, _BATCH):
        number = np.arange(start, min(count, start + _BATCH))
        x, y = number % across * 20.0 + rng.uniform(0, 5, len(number)), -(number // across) * 20.0
        shapes = shapely.box(500000 + x, 5e6 + y, 500008 + x, 5e6 + 8 + y)
        columns = [number, np.full(len(number), "building"), np.full(len(number), 64.0)]
        columns.append(rng.uniform(0.5, 1, len(number)))
        arrays = [pa.array(column) for column in columns] + [pa.array(shapely.to_wkb(shapes))]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000_000)
    count = parser.parse_args().count
    schema = schema_of(_KINDS, "Parquet")
    begin = time.perf_counter()
    for _ in batches(count, schema):
        pass
    making = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "squares.parquet"
        begin = time.perf_counter()
        write_tables(path, Target("squares", "EPSG:32633"), schema, batches(count, schema))
        seconds = time.perf_counter() - begin - making
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        file = pq.ParquetFile(path)
        size = path.stat().st_size / 1e6
        print(f"{count} polygons, {size:.0f} MB: written in {seconds:.1f} s, peak {peak:.2f} GB")
        side = np.sqrt(count) * 20
        low, high = 0.45 * side, 0.55 * side
        box = (500000 + low, 5e6 - high, 500000 + high, 5e6 - low)
        # What a reader that looks at the statistics of row groups must take.
        taken = 0
        for k in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(k)
            found = {
                group.column(c).path_in_schema: group.column(c).statistics for c in range(group.num_columns)
            }
            meets = (
                found["bbox.xmin"].min <= box[2] and found["bbox.xmax"].max >= box[0]
                and found["bbox.ymin"].min <= box[3] and found["bbox.ymax"].max >= box[1]
            )  # fmt: skip
            taken += sum(group.column(c).total_compressed_size for c in range(group.num_columns)) * meets
        begin = time.perf_counter()
        where = (
            (pc.field("bbox", "xmin") <= box[2]) & (pc.field("bbox", "xmax") >= box[0])
            & (pc.field("bbox", "ymin") <= box[3]) & (pc.field("bbox", "ymax") >= box[1])
        )  # fmt: skip
        rows = pq.read_table(path, filters=where).num_rows
        print(
            f"a box of 1 % of the area: {rows} polygons in {time.perf_counter() - begin:.2f} s, "
            f"{taken / path.stat().st_size:.1%} of the bytes"
        )


if __name__ == "__main__":
    main()
