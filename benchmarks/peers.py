"""The same weights and scene through others and through us: time, memory and agreement of masks.

    python benchmarks/peers.py [--scene FILE] [--megapixels 38] [--model FILE] [--repeat 3]
                               [--only geoai,torchgeo,...] [--python geoai=/path/to/python ...]

Every peer runs in an environment of its own, bench/envs/NAME, made on first use (needs the package index
and some gigabytes); `--python` names one that exists. Tile 512 and overlap 128 for all, on the scene's own
pixels, polygons simplified by 0.1 m from 2 m2 on; the last row is what `tilesegment predict` does without
options. The runs alternate and medians are taken. Agreement is the share of pixels that have the class
which our torch engine gives them in fp32. Let nothing else run on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
from measure import RESULTS, Measured, mosaic, plain_copy, run_measured, show, tilesegment, town
from rasterio.windows import Window

from tilesegment.model.export import graph_file
from tilesegment.model.store import find_model

TILE, OVERLAP = 512, 128
HERE = Path(__file__).parent
PACKAGES = {
    "geoai": ["geoai-py==0.40.*", "segmentation-models-pytorch", "safetensors"],
    "torchgeo": ["torchgeo==0.8.*", "segmentation-models-pytorch", "safetensors"],
    "rastervision": ["rastervision_pytorch_learner", "segmentation-models-pytorch", "safetensors"],
}


def environment(name: str, given: dict[str, str]) -> str:
    """The interpreter of a peer's environment."""
    if name in given:
        return given[name]
    folder = RESULTS / "envs" / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
    return str(python)


def ours(model: str, scene: Path, out: Path, *options: str) -> list[str]:
    """Our command, its mask and polygons beside each other."""
    files = ["-o", out.with_suffix(".gpkg"), "--mask", out.with_suffix(".tif")]
    return tilesegment(
        "predict", scene, *files, "--model", model, "--overwrite", "--no-resume", "-q", *options
    )


def output(work: Path, name: str) -> Path:
    """Where a row of the table writes, without an extension."""
    return work / f"peer-{name.replace(', ', '-').replace(' ', '-')}"


def agreement(mask: Path, reference: Path) -> float:
    """The share of pixels of equal class; nodata is background."""
    same = total = 0
    with rasterio.open(mask) as one, rasterio.open(reference) as other:
        for row in range(0, one.height, TILE):
            window = Window(0, row, one.width, min(TILE, one.height - row))
            values = [dataset.read(1, window=window) == 1 for dataset in (one, other)]
            same += int(np.count_nonzero(values[0] == values[1]))
            total += values[0].size
    return same / total


def main() -> None:
    """Alternate all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=Path)
    parser.add_argument("--megapixels", type=float, default=38)
    parser.add_argument("--model", default="roofs")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default=",".join(PACKAGES))
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH")
    given = parser.parse_args()
    work = RESULTS / "work"
    work.mkdir(parents=True, exist_ok=True)
    scene = plain_copy(mosaic(given.scene or town(work), given.megapixels, work))
    weights = find_model(given.model).path
    interpreters = dict(entry.split("=", 1) for entry in given.python)
    commands = {}
    for name in filter(None, given.only.split(",")):
        out = output(work, name)
        files = [weights, scene, out.with_suffix(".tif"), out.with_suffix(".gpkg")]
        script = HERE / "peers" / f"with_{name}.py"
        commands[name] = [environment(name, interpreters), script, *files, TILE, OVERLAP]
    same = ["--overlap", str(OVERLAP), "--tile", str(TILE), "--min-area", "2", "--simplify", "0.1"]
    pixels = ["--gsd", str(own_pixel(scene))]
    for name, options in {
        "ours, torch fp32": [*same, *pixels, "--engine", "torch", "--precision", "fp32"],
        "ours, openvino fp32": [*same, *pixels, "--engine", "openvino", "--precision", "fp32"],
        "ours, defaults": pixels,
    }.items():
        commands[name] = ours(given.model, scene, output(work, name), *options)
    # A network is converted once and kept; that is not part of what is compared.
    graph_file(find_model(given.model), "openvino", (TILE, TILE))
    found: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in range(given.repeat):
        for name, command in commands.items():
            found[name].append(run_measured(list(map(str, command))))
            print(f"{name}: {found[name][-1]}", flush=True)
    masks = {name: output(work, name).with_suffix(".tif") for name in commands}
    with rasterio.open(scene) as dataset:
        size = dataset.height * dataset.width / 1e6
    seconds = {name: median(run.seconds for run in runs) for name, runs in found.items()}
    slowest = seconds.get("geoai", max(seconds.values()))
    show(
        "peers",
        [
            {
                "": name,
                "seconds": round(seconds[name], 1),
                "Mpx/s": size / seconds[name],
                "against geoai": slowest / seconds[name],
                "peak MB": round(median(run.peak_bytes for run in runs) / 1e6),
                "agreement": f"{agreement(masks[name], masks['ours, torch fp32']):.4%}",
            }
            for name, runs in found.items()
        ],
    )


def own_pixel(scene: Path) -> float:
    """The pixel size in metres on the ground at the scene's centre, so that nobody resamples."""
    from tilesegment.raster.source import open_scene

    with open_scene(str(scene)) as opened:
        metres = opened.grid.metres_per_pixel
    if metres is None:
        raise SystemExit(f"{scene}: has no CRS")
    return (metres[0] * metres[1]) ** 0.5


if __name__ == "__main__":
    sys.exit(main())
