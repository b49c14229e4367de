"""Speed with 1, 2 and 4 local workers, and what 1,000 workers would do to a scene of 1 Tpx.

    python benchmarks/scaling.py [--scene FILE] [--megapixels 100] [--model roofs] [--workers 1,2,4]

The second table is a simulation: the planner's own blocks for the large scene, handed out as the executor
does it, each with the measured cost of its tiles and their polygons, of a worker's start and of the writing
at the end, which one machine does. Block times vary as much as those that were measured.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS, mosaic, show, tilesegment, town

from tilesegment.grid import Window
from tilesegment.model.store import find_model
from tilesegment.tiling.memory import Load, fit_blocks
from tilesegment.tiling.plan import Plan

LARGE, MANY = 1_000_000, 1_000


def measure(scene: Path, model: str, workers: int | None) -> tuple[float, dict[str, Any]]:
    """Seconds of a run and its record."""
    out = RESULTS / "work" / "scaling.gpkg"
    command = tilesegment(
        "predict", scene, "-o", out, "--mask", out.with_suffix(".tif"), "--model", model, "--json", "-q",
        "--overwrite", "--no-resume", *([] if workers is None else ["--workers", str(workers)]),
    )  # fmt: skip
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - begin, json.loads(done.stdout)


def simulate(
    model: str, lone: float, record: dict[str, Any], write: float, spread: float
) -> dict[str, Any]:
    """The large scene on many workers like the one that was measured alone. write: seconds of the client at
    the end of a run in several blocks, whose polygons the workers make."""
    card = find_model(model).card
    plan = Plan(LARGE, LARGE, Window(0, 0, LARGE, LARGE), card.tile, card.overlap)
    parts = record["plan"]["memory_bytes"]
    load = Load(3, 1, card.channels, parts["model"], parts["forward"], 1, 1, parts["process"])
    plan = fit_blocks(plan, load, 2_000_000_000, MANY)
    per_tile = (lone - write) / record["counts"]["tiles_predicted"]
    start = record["seconds"].get("load", 0.0)
    factors = np.clip(np.random.default_rng(0).normal(1, spread, len(plan.blocks)), 0.5, 2)
    free = [start] * MANY
    busy = 0.0
    for block, factor in zip(plan.blocks, factors, strict=True):
        cost = block.tiles * per_tile * factor
        busy += cost
        heapq.heappush(free, heapq.heappop(free) + cost)
    predicting, publishing = max(free), write * LARGE**2 / 1e6 / record["plan"]["megapixels"]
    return {
        "workers": MANY,
        "blocks": len(plan.blocks),
        "recompute": plan.recompute,
        "predicting h": predicting / 3600,
        "workers busy": busy / MANY / predicting,
        "writing h": publishing / 3600,
        "Mpx/s": LARGE**2 / 1e6 / (predicting + publishing),
    }


def main() -> None:
    """Measure, simulate, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=Path)
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("--model", default="roofs")
    parser.add_argument("--workers", default="1,2,4")
    given = parser.parse_args()
    work = RESULTS / "work"
    scene = mosaic(given.scene or town(work), given.megapixels, work)
    rows, records = [], {}
    for workers in [None, *map(int, given.workers.split(","))]:
        seconds, record = measure(scene, given.model, workers)
        records[workers] = seconds, record
        rows.append(
            {
                "workers": "none" if workers is None else str(workers),
                "blocks": record["counts"]["blocks"],
                "recompute": record["plan"]["recompute"],
                "seconds": round(seconds, 1),
                "Mpx/s": record["plan"]["megapixels"] / seconds,
                "against none": records[None][0] / seconds,
            }
        )
        print(rows[-1], flush=True)
    show("scaling", rows)
    lone, record = records.get(1, records[None])
    times = [measure(scene, given.model, 1)[0] for _ in range(2)]
    spread = statistics.stdev([lone, *times]) / statistics.mean([lone, *times])
    several = [found for _, found in records.values() if found["counts"]["blocks"] > 1]
    write = (several or [record])[-1]["seconds"]["write"]
    show("scaling-simulated", [simulate(given.model, lone, record, write, spread)])


if __name__ == "__main__":
    main()
