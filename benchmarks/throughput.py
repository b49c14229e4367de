"""End-to-end speed of `predict` (mask and polygons) against the pure forward rate of the same engine.

    python benchmarks/throughput.py [--scene FILE] [--megapixels 100] [--model roofs] [--engine auto]
                                    [--repeat 3] [-- OPTIONS]

Efficiency is tile pixels predicted per second of the whole command (start-up, model, reading, blending,
tracing, writing) over tile pixels per second of the engine alone, on random tiles, in one run; the two
alternate and medians are taken. The seconds by stage are the command's own; those of threads overlap.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from measure import RESULTS, mosaic, show, tilesegment, town

from tilesegment.model.engines import Setup, load_engine
from tilesegment.model.engines.choose import choose_engine
from tilesegment.model.store import find_model
from tilesegment.run.prepare import cores


def forward_rate(model: str, engine: str, seconds: float, batch: int | None) -> float:
    """Tile pixels a second, in millions, of an engine that is kept busy."""
    choice, found = choose_engine(engine, "auto", "auto"), find_model(model)
    tile, bands = found.card.tile, len(found.card.bands)
    low, high = (0.0,) * bands, (255.0,) * bands
    setup = Setup(tile, "uint8", low, high, choice.device, 0, choice.precision, batch, cores())
    predictor = load_engine(choice.engine, found, setup)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 255, (predictor.batch, bands, *tile)).astype(np.uint8)
    valid = np.ones((predictor.batch, *tile), np.bool_)

    def run(count: int) -> float:
        begin, waiting = time.perf_counter(), []
        for _ in range(count):
            if len(waiting) == predictor.depth:
                waiting.pop(0).result()
            waiting.append(predictor.submit(values, valid))
        for pending in waiting:
            pending.result()
        return time.perf_counter() - begin

    run(2 * predictor.depth)
    each = run(2 * predictor.depth) / (2 * predictor.depth)
    count = max(8, int(seconds / each))
    return count * predictor.batch * tile[0] * tile[1] / run(count) / 1e6


def main() -> None:
    """Alternate the two, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=Path)
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("--model", default="roofs")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--forward-only", type=float, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    if given.forward_only:
        # In a process of its own, so that its memory and threads do not disturb the other.
        print(forward_rate(given.model, given.engine, given.forward_only, given.batch))
        return
    work = RESULTS / "work"
    work.mkdir(parents=True, exist_ok=True)
    scene = given.scene or mosaic(town(work), given.megapixels, work)
    rows = []
    for number in range(given.repeat):
        command = [sys.executable, __file__, "--model", given.model, "--engine", given.engine]
        command += ["--batch", str(given.batch)] if given.batch else []
        before = float(subprocess.check_output([*command, "--forward-only", "15"]))
        begin = time.perf_counter()
        done = subprocess.run(
            tilesegment(
                "predict", scene, "-o", work / "out.gpkg", "--mask", work / "out.tif", "--json", "-q",
                "--overwrite", "--no-resume", "--model", given.model, "--engine", given.engine,
                *(["--batch", str(given.batch)] if given.batch else []), *given.options,
            ),
            check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        after = float(subprocess.check_output([*command, "--forward-only", "15"]))
        record = json.loads(done.stdout)
        tile = record["plan"]["tile"]
        predicted = record["counts"]["tiles_predicted"] * tile[0] * tile[1] / 1e6
        forward = (before + after) / 2
        rows.append(
            {
                "run": str(number + 1),
                "engine": record["engine"][0],
                "seconds": round(seconds, 2),
                "scene Mpx/s": record["plan"]["megapixels"] / seconds,
                "tile Mpx/s": predicted / seconds,
                "forward Mpx/s": forward,
                "efficiency": predicted / seconds / forward,
                **{f"{stage} s": spent for stage, spent in record["seconds"].items()},
            }
        )
        print(rows[-1], flush=True)
    middle = {key: median(row[key] for row in rows) for key in rows[0] if key not in ("run", "engine")}
    show("throughput", [*rows, {"run": "median", "engine": rows[0]["engine"], **middle}])


if __name__ == "__main__":
    main()
