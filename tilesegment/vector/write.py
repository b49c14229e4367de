"""Writing polygons: GeoPackage, GeoParquet, FlatGeobuf, GeoJSON and Shapefile, in Arrow batches."""

from __future__ import annotations

import codecs
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import IO, Any

import numpy as np
import shapely
from affine import Affine

from tilesegment.errors import OutputError, SettingsError
from tilesegment.grid import Grid
from tilesegment.model.card import ModelClass
from tilesegment.vector.attributes import attribute_columns
from tilesegment.vector.coco import COCO_ENDING, Picture
from tilesegment.vector.files import DRIVERS, Target, ending_of, schema_of, write_tables
from tilesegment.vector.project import as_multipolygons, crosses_180, layer_crs, projector, to_world
from tilesegment.vector.rings import Geometries
from tilesegment.vector.seams import Features
from tilesegment.vector.style import add_style, layer_style
from tilesegment.vector.tally import Tally

# Tables of SQLite, of the format, and of QGIS.
_RESERVED = re.compile(r"gpkg|sqlite_|rtree_|(layer_styles|ogr_empty_table)$", re.IGNORECASE)
# Layer creation options that two layers cannot have both.
_OF_ONE = ("IDENTIFIER", "DESCRIPTION")


@dataclass(frozen=True)
class Layer:
    """A vector layer to be written.

    grid: the working grid of the features; labels: classes by value; multi: write multipolygons;
    regularized: the features say what became of them; raw: a second layer, NAME_raw, has their outlines
    before that (GeoPackage);
    metadata: provenance, written where the format has a place for it; size: (rows, columns) of the picture
    itself and source: its name, for COCO, whose polygons are in its pixels.
    """

    grid: Grid
    labels: dict[int, ModelClass]
    name: str
    confidence: bool = True
    multi: bool = False
    regularized: bool = False
    raw: bool = False
    dst_crs: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    source: str = ""

    @property
    def in_pixels(self) -> Layer:
        """The same polygons in pixels of the picture."""
        rows, cols = self.size or (self.grid.height, self.grid.width)
        own = Grid(None, Affine.identity(), rows, cols)
        return replace(self, grid=own.resized(self.grid.height, self.grid.width), dst_crs=None)

    @property
    def picture(self) -> Picture:
        """What a COCO file says of the picture."""
        rows, cols = self.size or (self.grid.height, self.grid.width)
        names = tuple(dict.fromkeys(entry.name for entry in self.labels.values()))
        return Picture(self.source, rows, cols, names)


def write_layer(path: Path, layer: Layer, batches: Iterator[Features]) -> Tally:
    """Write all features to `path`, which must not exist; what was written.

    Memory holds one batch at a time. Raises OutputError where the disk or the driver refuses.
    """
    driver = DRIVERS[ending_of(path)]
    if driver == "COCO":
        layer = layer.in_pixels
    target = layer_crs(layer.grid.crs, layer.dst_crs, driver)
    counter = _Counter()
    with counter.failures(path), _Raw.beside(path) if layer.raw else nullcontext() as raw:
        tables = counter.count(_record_batches(layer, target, driver, batches, raw))
        mixed = crosses_180(layer.grid, target)
        main = Target(layer.name, target, layer.multi, mixed, layer.options, layer.metadata, layer.picture)
        write_tables(path, main, _schema(driver, layer), tables)
        if raw is not None:
            # What names a layer is for one alone.
            options = tuple(pair for pair in layer.options if pair[0].upper() not in _OF_ONE)
            before = replace(main, name=f"{layer.name}_raw", options=options, metadata={})
            write_tables(path, before, raw.schema, raw.batches())
        if driver == "GPKG":
            add_style(path, layer.name, layer_style(layer.labels))
    return counter.tally


def write_counted(path: Path, target: Target, schema: Any, tables: Iterator[Any]) -> Tally:
    """As `write_tables`, and what was written. Raises OutputError, or what stops the tables."""
    counter = _Counter()
    with counter.failures(path):
        write_tables(path, target, schema, counter.count(tables))
    return counter.tally


def check_layer(path: Path, layer: Layer) -> None:
    """The layer's name and its CRS are looked at, and layer creation options are tried on one polygon,
    before anything is predicted.

    Raises SettingsError where they cannot be used, or the driver remarks on them.
    """
    if layer.raw and path.suffix.lower() != ".gpkg":
        raise SettingsError(
            f"--keep-raw writes a second layer, which {path.suffix} has no place for; use .gpkg"
        )
    if layer.raw and not layer.regularized:
        raise SettingsError("--keep-raw: no outline is changed; give --regularize right")
    if ending_of(path) == COCO_ENDING and (layer.dst_crs is not None or layer.options):
        raise SettingsError(f"{path.name}: COCO JSON is in pixels, and has no CRS and no creation options")
    if path.suffix.lower() == ".gpkg" and _RESERVED.match(layer.name):
        raise SettingsError(
            f"layer {layer.name!r}: GeoPackage keeps names like this for itself; give another with --layer"
        )
    for name, value in layer.options:
        _check_silent(name, value)
    target = layer_crs(layer.grid.crs, layer.dst_crs, DRIVERS[ending_of(path)])
    if target is not None and target != layer.grid.crs:
        projector(layer.grid.crs, target)
    usual = re.fullmatch(r"\w[\w.-]*", layer.name) is not None
    if not layer.options and usual:
        return
    named = " ".join(f"--lco {name}={value}" for name, value in layer.options)
    if not usual:
        named = f"layer {layer.name!r} (--layer gives another) {named}".rstrip()
    square = np.array([shapely.box(1, 1, 2, 2)], object)
    one = np.ones(1, np.int64)
    trial = Features(square, one, one, one, one)
    if layer.regularized:
        trial = replace(trial, plain=square, state=np.zeros(1, np.uint8), deviation=np.zeros(1))
    with tempfile.TemporaryDirectory(prefix="tilesegment-") as folder:
        path = Path(folder) / f"trial{ending_of(path)}"
        try:
            with warnings.catch_warnings(record=True) as remarks:
                warnings.simplefilter("always")
                write_layer(path, layer, iter([trial]))
        except (OutputError, SettingsError) as error:
            words = str(error).removeprefix(f"{path}: ").removeprefix("--lco: ")
            raise SettingsError(f"{named}: {words}") from error
    told = [text for remark in remarks if "creation option" in (text := str(remark.message))]
    if told:
        raise SettingsError(f"{named}: {told[0].replace(f'dataset {path}', 'the driver')}")


def _check_silent(name: str, value: str) -> None:
    """Raises SettingsError for values of a Shapefile's options that its driver passes over."""
    fault = None
    if name.upper() == "ENCODING" and value and not value.upper().startswith("LDID/"):
        try:
            codecs.lookup(value)
        except LookupError:
            fault = "no such encoding"
    elif name.upper() == "DBF_DATE_LAST_UPDATE":
        try:
            date.fromisoformat(value)
        except ValueError:
            fault = "no date as 2026-01-31"
    if fault is not None:
        raise SettingsError(f"--lco {name}={value}: {fault}")


class _Counter:
    """Counts the rows that pass, and keeps what stops them: a signal too would reach the driver as no more
    than an unreadable stream."""

    error: BaseException | None = None

    def __init__(self) -> None:
        self.tally = Tally()

    @contextmanager
    def failures(self, path: Path) -> Iterator[None]:
        """What goes wrong in the body is what stopped the rows, or the disk's or the driver's refusal."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            if self.error is not None:
                raise self.error from None
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error

    def count(self, tables: Iterator[Any]) -> Iterator[Any]:
        try:
            for table in tables:
                self.tally.add(table)
                yield table
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


def _record_batches(
    layer: Layer, target: str | None, driver: str, batches: Iterator[Features], raw: _Raw | None
) -> Iterator[Any]:
    import pyarrow as pa

    schema = _schema(driver, layer)
    names = {value: entry.name for value, entry in layer.labels.items()}
    for features in batches:
        if not len(features):
            continue
        columns = attribute_columns(features, layer.grid, names, layer.confidence)
        arrays = [pa.array(values, from_pandas=True) for values in columns.values()]
        arrays.append(_binary(features.geometry, layer, target))
        if raw is not None and features.plain is not None:
            raw.add(features.first_pixel + 1, _binary(features.plain, layer, target))
        yield pa.RecordBatch.from_arrays(
            [array.cast(kind) for array, kind in zip(arrays, schema.types, strict=True)], schema=schema
        )


def _binary(geometry: Geometries, layer: Layer, target: str | None) -> Any:
    import pyarrow as pa

    world = to_world(geometry, layer.grid, target)
    if crosses_180(layer.grid, target):
        world = as_multipolygons(world)
    return pa.array(shapely.to_wkb(world, byte_order=1))


class _Raw:
    """Outlines before they were regularised, on disk until the layer before theirs is complete."""

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow as pa

        geometry = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
        self.schema = pa.schema([pa.field("id", pa.int64()), geometry])
        self._file = file
        self._writer = pa.ipc.new_stream(file, self.schema)

    @classmethod
    @contextmanager
    def beside(cls, path: Path) -> Iterator[_Raw]:
        """In a file without a name in the folder of another."""
        with tempfile.TemporaryFile(dir=path.parent) as file:
            yield cls(file)

    def add(self, number: Any, geometry: Any) -> None:
        """Outlines by their id."""
        import pyarrow as pa

        self._writer.write_batch(pa.record_batch([pa.array(number), geometry], schema=self.schema))

    def batches(self) -> Iterator[Any]:
        """All that were added."""
        import pyarrow as pa

        self._writer.close()
        self._file.seek(0)
        yield from pa.ipc.open_stream(self._file)


def _schema(driver: str, layer: Layer) -> Any:
    import pyarrow as pa

    kinds = {
        "id": pa.int64(),
        "class": pa.string(),
        "area_m2": pa.float64(),
        "perimeter_m": pa.float64(),
        "confidence": pa.float64(),
    }
    if layer.regularized:
        kinds |= {"regularized": pa.string(), "deviation_m": pa.float64()}
    return schema_of(kinds, driver)
