"""End-to-end speed of `predict` (mask and polygons) against the pure forward rate of the same engine.

    python benchmarks/throughput.py [--scene FILE] [--megapixels 100] [--model roofs] [--engine auto]
                                    [--device auto] [--precision auto] [--repeat 3] [-- OPTIONS]

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
from tilesegment.model.preprocess import ValueRange
from tilesegment.model.store import find_model
from tilesegment.run.scene.prepare import cores


def forward_rate(given: argparse.Namespace) -> float:
    """Tile pixels a second, in millions, of an engine that is kept busy."""
    choice = choose_engine(given.engine, given.device, given.precision)
    found, seconds = find_model(given.model), given.forward_only
    tile, bands = found.card.tile, len(found.card.bands)
    known = ValueRange.of_all((0.0, 255.0), bands)
    setup = Setup(tile, "uint8", known, choice.device, 0, choice.precision, given.batch, cores())
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


def arguments(description: str | None, **defaults: str) -> argparse.Namespace:
    """The command line, with other defaults for some options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scene", type=Path)
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("--model", default="roofs")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--forward-only", type=float, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*")
    parser.set_defaults(**defaults)
    return parser.parse_args()


def compare(name: str, given: argparse.Namespace) -> None:
    """Alternate the two, print the table."""
    work = RESULTS / "work"
    work.mkdir(parents=True, exist_ok=True)
    scene = mosaic(given.scene or town(work), given.megapixels, work)
    same = ["--model", given.model, "--engine", given.engine]
    same += ["--device", given.device, "--precision", given.precision]
    same += ["--batch", str(given.batch)] if given.batch else []
    # In a process of its own, so that its memory and threads do not disturb the other.
    forward_only = [sys.executable, sys.argv[0], *same, "--forward-only", "15"]
    rows = []
    for number in range(given.repeat):
        before = float(subprocess.check_output(forward_only))
        begin = time.perf_counter()
        done = subprocess.run(
            tilesegment(
                "predict", scene, "-o", work / "out.gpkg", "--mask", work / "out.tif", "--json", "-q",
                "--overwrite", "--no-resume", *same, *given.options,
            ),
            check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        after = float(subprocess.check_output(forward_only))
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
    show(name, [*rows, {"run": "median", "engine": rows[0]["engine"], **middle}])


def main() -> None:
    """The whole command, or the engine alone."""
    given = arguments(__doc__)
    if given.forward_only:
        print(forward_rate(given))
    else:
        compare("throughput", given)


if __name__ == "__main__":
    main()
