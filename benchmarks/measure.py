"""What the benchmarks share: scenes of any size, commands with their time and memory, tables and JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import psutil
import rasterio
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).parent.parent))
RESULTS = Path("bench")


@dataclass(frozen=True)
class Measured:
    """A finished command: seconds by the clock, and the peak of the memory that its processes held
    together (PSS: a page shared by n processes counts 1/n for each), sampled ten times a second."""

    seconds: float
    peak_bytes: int


def run_measured(command: list[str], **environment: str) -> Measured:
    """Run a command to its end. Raises SystemExit with its last words where it fails."""
    begin = time.perf_counter()
    child = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    watched = psutil.Process(child.pid)
    peak = 0
    while child.poll() is None:
        peak = max(peak, _pss(watched))
        time.sleep(0.1)
    words = child.stderr.read().decode() if child.stderr else ""
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {child.returncode}\n{words}")
    return Measured(time.perf_counter() - begin, peak)


def _pss(parent: psutil.Process) -> int:
    total = 0
    try:
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # It ended between the listing and the reading.
            continue
    return total


def tilesegment(*arguments: str | Path) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "tilesegment", *map(str, arguments)]


def town(folder: Path) -> Path:
    """The demo's scene as a tiled GeoTIFF, made once."""
    path = folder / "town.tif"
    if not path.exists():
        from examples.demo import make_town, write_scene

        folder.mkdir(parents=True, exist_ok=True)
        write_scene(path, make_town(seed=4))
    return path


def mosaic(scene: Path, megapixels: float, folder: Path) -> Path:
    """A VRT of `megapixels` million pixels, nearly square, that repeats a scene side by side."""
    with rasterio.open(scene) as dataset:
        height, width, at = dataset.height, dataset.width, dataset.transform
        wkt, block = dataset.crs.to_wkt(), dataset.block_shapes[0]
    side = math.sqrt(megapixels * 1e6)
    rows, cols = round(side), round(side)
    lines = [
        f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}"><SRS>{escape(wkt)}</SRS>',
        f"<GeoTransform>{at.c},{at.a},{at.b},{at.f},{at.d},{at.e}</GeoTransform>",
    ]
    name = escape(str(scene.resolve()))
    for band, colour in ((1, "Red"), (2, "Green"), (3, "Blue")):
        lines.append(f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{colour}</ColorInterp>')
        for row in range(0, rows, height):
            for col in range(0, cols, width):
                high, wide = min(height, rows - row), min(width, cols - col)
                lines.append(
                    f'<SimpleSource><SourceFilename relativeToVRT="0">{name}</SourceFilename>'
                    f"<SourceBand>{band}</SourceBand>"
                    f'<SourceProperties RasterXSize="{width}" RasterYSize="{height}" DataType="Byte" '
                    f'BlockXSize="{block[1]}" BlockYSize="{block[0]}"/>'
                    f'<SrcRect xOff="0" yOff="0" xSize="{wide}" ySize="{high}"/>'
                    f'<DstRect xOff="{col}" yOff="{row}" xSize="{wide}" ySize="{high}"/></SimpleSource>'
                )
        lines.append("</VRTRasterBand>")
    lines.append("</VRTDataset>")
    path = folder / f"{scene.stem}-{megapixels:g}.vrt"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def plain_copy(scene: Path) -> Path:
    """A scene as a tiled, deflated GeoTIFF that every reader takes, made once."""
    path = scene.with_name(f"{scene.stem}-plain.tif")
    if not path.exists():
        with rasterio.open(scene) as source:
            profile = {
                "driver": "GTiff", "dtype": "uint8", "count": 3, "height": source.height,
                "width": source.width, "crs": source.crs, "transform": source.transform, "tiled": True,
                "blockxsize": 512, "blockysize": 512, "compress": "deflate", "photometric": "rgb",
            }  # fmt: skip
            with rasterio.open(path, "w", **profile) as out:
                for row in range(0, source.height, 512):
                    window = Window(0, row, source.width, min(512, source.height - row))
                    out.write(source.read([1, 2, 3], window=window), window=window)
    return path


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """Print a table, and write it with the machine's description to bench/NAME.json."""
    columns = list(rows[0])
    cells = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
    RESULTS.mkdir(exist_ok=True)
    machine = {"platform": platform.platform(), "cores": os.cpu_count(), "cpu": _cpu()}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"written: {path}")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else str(value)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
