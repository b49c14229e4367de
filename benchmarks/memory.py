"""Peak memory against scene size, held against the budget and against what the plan had said.

    python benchmarks/memory.py [--scene FILE] [--sizes 1,25,100,400] [--max-memory 2GB] [-- OPTIONS]

Scenes are VRT mosaics of the given scene (default: the demo's town); further options go to `predict`.
Exit 1 where a run takes more than its budget, or the largest more than 1.1 times the 25 Mpx one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from measure import RESULTS, mosaic, run_measured, show, tilesegment, town

from tilesegment.settings import parse_bytes


def main() -> int:
    """Run the sizes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=Path)
    parser.add_argument("--sizes", default="1,25,100,400")
    parser.add_argument("--max-memory", default="2GB")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    work = RESULTS / "work"
    scene = given.scene or town(work)
    rows = []
    for megapixels in map(float, given.sizes.split(",")):
        path, out = mosaic(scene, megapixels, work), work / "memory.gpkg"
        command = tilesegment(
            "predict", path, "-o", out, "--mask", work / "memory.tif", "--max-memory", given.max_memory,
            "--overwrite", "--no-resume", *given.options,
        )  # fmt: skip
        planned = subprocess.run([*command, "--dry-run", "--json"], check=True, capture_output=True)
        plan = json.loads(planned.stdout)
        measured = run_measured(command)
        rows.append(
            {
                "Mpx": megapixels,
                "blocks": plan["blocks"],
                "recompute": plan["recompute"],
                "planned MB": round(plan["memory_bytes"]["total"] / 1e6),
                "peak MB": round(measured.peak_bytes / 1e6),
                "seconds": round(measured.seconds, 1),
                "Mpx/s": round(megapixels / measured.seconds, 3),
            }
        )
        print(rows[-1], flush=True)
    show("memory", rows)
    budget = parse_bytes(given.max_memory) / 1e6
    at_25 = next((row["peak MB"] for row in rows if row["Mpx"] == 25), None)
    growth = rows[-1]["peak MB"] / at_25 if at_25 else None
    if growth is not None:
        print(f"largest against 25 Mpx: {growth:.3f}")
    over = [row for row in rows if row["peak MB"] > budget]
    return 1 if over or (growth is not None and growth > 1.1) else 0


if __name__ == "__main__":
    sys.exit(main())
