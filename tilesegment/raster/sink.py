"""Writing rasters: tiled, compressed, with colours, overviews and provenance."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterioWindow

from tilesegment.atomic import write_text
from tilesegment.errors import OutputError, SettingsError
from tilesegment.grid import Grid, Window
from tilesegment.model.card import ModelClass
from tilesegment.raster.opening import open_file
from tilesegment.raster.stderr import without_libtiff
from tilesegment.tiling.blend import NODATA, PROBABILITY_MAX

RASTERS = (".tif", ".tiff", ".png")
_TILE = 512
# What rasterio's `open` would take for arguments of its own.
_NOT_OPTIONS = frozenset(
    (
        *("driver", "width", "height", "count", "crs", "transform", "dtype", "nodata", "mode"),
        *("sharing", "opener", "thread_safe", "gcps", "rpcs", "fp"),
    )
)
# Bytes that are left of a disk that is full.
_FULL = 1_000_000
# Pixels of a side of the raster that creation options are tried on.
_TRIAL = 256


@dataclass(frozen=True)
class Band:
    """A one-band uint8 raster to be written.

    labels: classes by value, for colours and category names; None for probabilities, which get a scale.
    """

    grid: Grid
    labels: dict[int, ModelClass] | None
    cog: bool = False
    options: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def resampling(self) -> Resampling:
        """For overviews."""
        return Resampling.average if self.labels is None else Resampling.nearest


def is_raster(path: str | Path) -> bool:
    """Whether the extension is one that rasters are written to."""
    return Path(path).suffix.lower() in RASTERS


def write_band(path: Path, band: Band, read: Callable[[Window], NDArray[np.uint8]]) -> None:
    """Write a raster to `path` from `read(window)`, asked for bands of 512 rows from top to bottom, and the
    names of its classes beside it.

    Raises OutputError where the disk or the driver refuses.
    """
    png = path.suffix.lower() == ".png"
    plain = path.with_name(path.stem + ".plain.tif") if band.cog or png else path
    try:
        with without_libtiff():
            _write_tiled(plain, band, read)
            if png:
                copy_raster(plain, path, driver="PNG", ZLEVEL=9)
            elif band.cog:
                _to_cog(plain, path, band)
        sidecar = path.with_name(path.name + ".aux.xml")
        if png:
            write_text(sidecar, _pam(_placed(band.grid, band.metadata), band.labels))
        elif band.labels is not None:
            write_text(sidecar, category_sidecar(band.labels))
    except (RasterioError, CPLE_BaseError, OSError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be written ({_reason(path, error)})") from error
    finally:
        if plain != path:
            plain.unlink(missing_ok=True)


def _reason(path: Path, error: Exception) -> str:
    """What GDAL says; of a full disk it speaks of directories and offsets."""
    if shutil.disk_usage(path.parent).free < _FULL:
        return "No space left on device"
    return " ".join(str(error).split())


def check_options(options: tuple[tuple[str, str], ...], cog: bool) -> None:
    """Creation options must leave every class as it is: all 256 values are written with them and read back,
    so that the driver itself says what it does not know.

    Raises SettingsError where it refuses or remarks on an option, or a value comes back as another one.
    """
    if not options:
        return
    for name, _ in options:
        if name.lower() in _NOT_OPTIONS:
            raise SettingsError(f"--co {name}: is no creation option of GeoTIFF")
    values = np.random.default_rng(0).permutation(np.arange(_TRIAL * _TRIAL) % 256)
    trial = values.astype(np.uint8).reshape(_TRIAL, _TRIAL)
    grid = Grid("EPSG:32631", Affine(2, 0, 500_000, 0, -2, 1_000_000), _TRIAL, _TRIAL)
    labels = {value: ModelClass(str(value), (value, value, value)) for value in range(255)}
    named = " ".join(f"--co {name}={value}" for name, value in options)
    with tempfile.TemporaryDirectory(prefix="tilesegment-") as folder, _remarks() as remarks:
        path = Path(folder) / "trial.tif"
        try:
            write_band(path, Band(grid, labels, cog, options), lambda window: trial[window.slices])
            with open_file(str(path)) as dataset:
                same = bool((dataset.read(1) == trial).all())
                placed = dataset.crs == grid.crs and dataset.transform == grid.transform
                marked = dataset.nodata == NODATA and dataset.dtypes == ("uint8",)
        except (OutputError, RasterioError) as error:
            words = remarks[0] if remarks else " ".join(str(error).split()).rpartition("trial.tif: ")[2]
            raise SettingsError(f"{named}: {words}") from error
    if remarks:
        raise SettingsError(f"{named}: {remarks[0]}")
    if not same:
        raise SettingsError(f"{named}: changes class numbers; use lossless options of eight bits")
    if not (placed and marked):
        raise SettingsError(f"{named}: loses {'what marks nodata' if placed else 'the georeference'}")


@contextmanager
def _remarks() -> Iterator[list[str]]:
    """GDAL's warnings of unknown names and values, which it otherwise passes over."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if "creation option" in text:
                found.append(text.partition(" in ")[2] or text)

    logger = logging.getLogger("rasterio")
    before, collector = logger.level, Collector(logging.WARNING)
    logger.setLevel(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        logger.setLevel(before)


def category_sidecar(labels: dict[int, ModelClass]) -> str:
    """Category names as GDAL's `.aux.xml`, the only place a GeoTIFF has for them."""
    return _pam("", labels)


def _pam(head: str, labels: dict[int, ModelClass] | None) -> str:
    if labels is None:
        return (
            f'<PAMDataset>{head}<PAMRasterBand band="1"><Description>probability</Description>'
            f"<Scale>{1 / PROBABILITY_MAX!r}</Scale></PAMRasterBand></PAMDataset>\n"
        )
    names = [escape(labels[v].name) if v in labels else "" for v in range(max(labels) + 1)]
    rows = "".join(f"<Category>{name}</Category>" for name in names)
    described = "<Description>class</Description>" if head else ""
    return (
        f'<PAMDataset>{head}<PAMRasterBand band="1">{described}<CategoryNames>{rows}</CategoryNames>'
        "</PAMRasterBand></PAMDataset>\n"
    )


def _placed(grid: Grid, metadata: dict[str, str]) -> str:
    """Georeference and provenance, for which a PNG has no place."""
    items = "".join(f'<MDI key="{escape(k)}">{escape(v)}</MDI>' for k, v in metadata.items())
    if grid.crs is None:
        return f"<Metadata>{items}</Metadata>"
    numbers = ", ".join(repr(float(v)) for v in grid.transform.to_gdal())
    return (
        f"<SRS>{escape(grid.crs)}</SRS><GeoTransform>{numbers}</GeoTransform><Metadata>{items}</Metadata>"
    )


def _write_tiled(path: Path, band: Band, read: Callable[[Window], NDArray[np.uint8]]) -> None:
    grid = band.grid
    # Of the input's profile nothing is inherited: what suits its pixels need not suit a mask.
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "transform": grid.transform,
        "nodata": NODATA,
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "compress": "deflate",
        "bigtiff": "IF_SAFER",
        "num_threads": "all_cpus",
    }
    if grid.crs is not None:
        profile["crs"] = grid.crs
    if not band.cog:
        profile |= {key.lower(): value for key, value in band.options}
    with rasterio.open(path, "w", **profile) as dataset:
        for window in _bands_of(grid):
            rows = RasterioWindow(window.col, window.row, window.width, window.height)
            dataset.write(read(window), 1, window=rows)
        _describe(dataset, band)
    factors = _overview_factors(grid)
    if factors:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews(factors, band.resampling)


def _describe(dataset: Any, band: Band) -> None:
    dataset.update_tags(TIFFTAG_SOFTWARE=band.metadata.get("software", ""), **band.metadata)
    if band.labels is None:
        dataset.set_band_description(1, "probability")
        dataset.scales = (1 / PROBABILITY_MAX,)
        return
    dataset.set_band_description(1, "class")
    colours = {value: (*entry.colour, 255) for value, entry in band.labels.items()}
    dataset.write_colormap(1, colours)


def _to_cog(plain: Path, path: Path, band: Band) -> None:
    options: dict[str, Any] = {
        "compress": "DEFLATE",
        "bigtiff": "IF_SAFER",
        "overview_resampling": band.resampling.name.upper(),
        "num_threads": "ALL_CPUS",
    }
    options |= {key.lower(): value for key, value in band.options}
    copy_raster(plain, path, driver="COG", **options)


def _bands_of(grid: Grid) -> Iterator[Window]:
    for row in range(0, grid.height, _TILE):
        yield Window(row, 0, min(_TILE, grid.height - row), grid.width)


def _overview_factors(grid: Grid) -> list[int]:
    factors, factor = [], 2
    while max(grid.height, grid.width) / factor >= _TILE / 2:
        factors.append(factor)
        factor *= 2
    return factors
