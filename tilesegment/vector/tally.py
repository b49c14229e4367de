"""What a layer holds, counted while it is written."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

# Square metres between which polygons are counted.
AREA_EDGES = (0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, np.inf)
CONFIDENCE_BINS = 20


class Tally:
    """Of record batches as they pass: rows, and by class how many and what area; how many polygons between
    `AREA_EDGES`, and how many in each of `CONFIDENCE_BINS` equal parts of 0..1."""

    def __init__(self) -> None:
        self.rows = 0
        self.by_class: Counter[str] = Counter()
        self.area_by_class: dict[str, float] = {}
        self.areas = np.zeros(len(AREA_EDGES) - 1, np.int64)
        self.confidences = np.zeros(CONFIDENCE_BINS, np.int64)

    def add(self, batch: Any) -> None:
        """Count a batch."""
        self.rows += batch.num_rows
        areas = batch.column("area_m2").to_numpy(zero_copy_only=False)
        known = np.isfinite(areas)
        names, owner = np.unique(batch.column("class").to_numpy(zero_copy_only=False), return_inverse=True)
        sums = np.bincount(owner[known], areas[known], len(names))
        for name, count, area in zip(names, np.bincount(owner, minlength=len(names)), sums, strict=True):
            self.by_class[name] += int(count)
            self.area_by_class[name] = self.area_by_class.get(name, 0.0) + float(area)
        self.areas += np.histogram(areas[known], AREA_EDGES)[0]
        confidence = batch.column("confidence").to_numpy(zero_copy_only=False).astype(float)
        self.confidences += np.histogram(confidence[np.isfinite(confidence)], CONFIDENCE_BINS, (0, 1))[0]

    def plain(self) -> dict[str, Any]:
        """In values that JSON can hold."""
        return {
            "by_class": {
                name: {"polygons": count, "area_m2": round(self.area_by_class[name], 2)}
                for name, count in sorted(self.by_class.items())
            },
            "area_edges_m2": [edge for edge in AREA_EDGES if np.isfinite(edge)],
            "by_area": self.areas.tolist(),
            "by_confidence": self.confidences.tolist(),
        }
