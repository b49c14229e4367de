"""Scenes: predicted, one or many, planned, looked at, vectorised."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

from tilesegment.api.given import (
    Place,
    optional_path,
    path_of,
    predict_settings,
    source_of,
    split_settings,
    vector_settings,
)
from tilesegment.api.typed import PredictOptions, RunPlan, RunRecord, VectorizeOptions
from tilesegment.checked import checked
from tilesegment.errors import SettingsError, as_parameters
from tilesegment.raster.given import as_file, is_value
from tilesegment.report.notebook import Record
from tilesegment.run.info import scene_info
from tilesegment.run.many.folder import Folders, run_many
from tilesegment.run.many.inputs import entries_of, sources_of
from tilesegment.run.many.merge import run_merged, scene_folders
from tilesegment.run.many.mosaic import discard_others, write_mosaic
from tilesegment.run.many.one import SceneResult
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.pipeline import run_predict
from tilesegment.run.scene.summary import describe
from tilesegment.run.vectorize import vectorize_raster
from tilesegment.settings import (
    FORMATS,
    PredictSettings,
    VectorizeSettings,
)
from tilesegment.vector.read import read_polygons

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


@overload
def predict(
    source: Any, output: Place, *, transform: Any = ..., crs: str | None = ...,
    mask: Place | None = ..., probability: Place | None = ..., overlay: Place | None = ...,
    pmtiles: Place | None = ..., report: Place | None = ..., consensus: Place | None = ...,
    progress: Callable[[int, int], None] = ..., **settings: Unpack[PredictOptions],
) -> RunRecord: ...  # fmt: skip
@overload
def predict(
    source: Any, output: None = None, *, transform: Any = ..., crs: str | None = ...,
    mask: Place | None = ..., probability: Place | None = ..., overlay: Place | None = ...,
    pmtiles: Place | None = ..., report: Place | None = ..., consensus: Place | None = ...,
    progress: Callable[[int, int], None] = ..., **settings: Unpack[PredictOptions],
) -> GeoDataFrame: ...  # fmt: skip
def predict(
    source: Any,
    output: Place | None = None,
    *,
    transform: Any = None,
    crs: str | None = None,
    mask: Place | None = None,
    probability: Place | None = None,
    overlay: Place | None = None,
    pmtiles: Place | None = None,
    report: Place | None = None,
    consensus: Place | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: Unpack[PredictOptions],
) -> RunRecord | GeoDataFrame:
    """Predict a scene and write its polygons or mask; the run record, as beside the output. Without an
    output the polygons themselves, as a GeoDataFrame whose `attrs["record"]` is the record.

    source: anything GDAL opens; a list of sheets of one scene (files, folders, patterns), which are shown
    as one by a VRT beside the output; a data set that rasterio has open for reading; or an array (bands,
    rows, columns), masked where nothing is to be seen, with its transform (pixels to coordinates) and crs,
    or without them for a picture.

    output: .gpkg .parquet .fgb .geojson .geojsonl .shp for polygons, .tif .png for the mask; mask,
    probability (.tif .png), overlay (.png) come from the same run, and so do vector tiles with a page
    that shows them (pmtiles, .pmtiles) and a page about the run (report, .html) and how far overlapping
    tiles disagreed (consensus, .tif .png). progress: is called with (tiles done, tiles in all). settings:
    the options of `tilesegment predict` under their names, such as `model`, `gsd`, `min_area`,
    `regularize`, `workers`. With `workers`, call it under `if __name__ == "__main__":`, since worker
    processes import the calling script.

    Nothing is left under the outputs' names unless all went well; an interrupted call that writes a file's
    pixels to a file goes on where it stopped when it is repeated. Raises
    `tilesegment.errors.TilesegmentError`.

    >>> import tilesegment
    >>> record = tilesegment.predict("scene.tif", "roofs.gpkg", min_area=4)   # doctest: +SKIP
    >>> record["counts"]["polygons"]                                          # doctest: +SKIP
    131
    >>> roofs = tilesegment.predict(pixels, transform=affine, crs="EPSG:32737")    # doctest: +SKIP
    """
    resolved = predict_settings(settings)
    if resolved.scheduler is not None and (output is None or is_value(source)):
        raise SettingsError(
            "scheduler: workers elsewhere cannot see what has no file; give paths of a scene and an output"
        )
    with ExitStack() as stack:
        beside = Path()
        if output is None or is_value(source):
            beside = Path(stack.enter_context(TemporaryDirectory(prefix="tilesegment-")))
        outputs = Outputs(
            beside / "polygons.parquet" if output is None else path_of("output", output),
            optional_path("mask", mask),
            optional_path("probability", probability),
            optional_path("overlay", overlay),
            optional_path("pmtiles", pmtiles),
            optional_path("report", report),
            optional_path("consensus", consensus),
        )
        path = _path_of(source, transform, crs, outputs, beside, resolved)
        record = Record(run_predict(path, outputs, resolved, progress=progress).record)
        if isinstance(source, list | tuple):
            discard_others(Path(path))
        return (
            cast(RunRecord, record)
            if output is not None
            else _with_record(read_polygons(outputs.main), record)
        )


def _with_record(polygons: GeoDataFrame, record: Record) -> GeoDataFrame:
    polygons.attrs["record"] = record
    return polygons


def _path_of(
    source: Any, transform: Any, crs: str | None, outputs: Outputs, folder: Path, settings: PredictSettings
) -> str:
    """A path of whatever a scene was given as. folder: for pixels that have none."""
    if is_value(source):
        outputs.check()
        return as_file(source, transform, crs, folder)
    if transform is not None or crs is not None:
        raise SettingsError("transform and crs are for arrays; src_crs names that of a file")
    if isinstance(source, list | tuple):
        outputs.check()
        sheets = sources_of([source_of(sheet) for sheet in source], lambda: b"")
        return str(write_mosaic(sheets, outputs.main, settings))
    return source_of(source)


def predict_many(
    sources: Place | Sequence[Place],
    folder: Place,
    *,
    format: str = "gpkg",
    mask: Place | None = None,
    probability: Place | None = None,
    overlay: Place | None = None,
    merge: bool = False,
    skip_existing: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, words: None,
    **settings: Unpack[PredictOptions],
) -> Iterator[SceneResult]:
    """Predict many scenes, one after the other with a model that is loaded once; what became of each, as it
    is finished. One that fails does not stop the others.

    sources: files, folders, patterns, `@` and a file that lists them, as on the command line. folder: of
    the outputs, each under its scene's name; format: their kind, such as gpkg, parquet, geojson or tif.
    mask, probability, overlay: folders as well. merge: `folder` is a file, of one layer with the polygons
    of all, each building once, and a column `source`; it is written after the last scene. skip_existing:
    do nothing where outputs are there; those that the same settings made of the same scene are always
    kept. progress: is called with (scenes done, scenes in all, what is under way). settings: as for
    `predict`.

    Raises `tilesegment.errors.TilesegmentError` where nothing can be begun.

    >>> import tilesegment
    >>> for result in tilesegment.predict_many(["scenes/*.tif"], "roofs"):    # doctest: +SKIP
    ...     print(result.source, result.outcome, result.reason)
    scenes/a.tif predicted
    """
    if format not in FORMATS:
        raise SettingsError(f"--format {format!r}: use one of {', '.join(FORMATS)}")
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    entries = entries_of([source_of(source) for source in sources], lambda: b"")
    folders = Folders(
        path_of("folder", folder),
        f".{format}",
        optional_path("mask", mask),
        optional_path("probability", probability),
        optional_path("overlay", overlay),
    )
    given = predict_settings(settings)
    if merge:
        place = scene_folders(folders.main, *folders.others)
        found = run_merged(
            entries, folders.main, place, given, skip_existing=skip_existing, progress=progress
        )
    else:
        found = run_many(entries, folders, given, skip_existing=skip_existing, progress=progress)
    return (dataclasses.replace(result, reason=as_parameters(result.reason)) for result in found)


def plan(source: Place, **settings: Unpack[PredictOptions]) -> RunPlan:
    """What `predict` would do, without doing it: grid, blocks, tiles, recompute factor, memory in bytes.

    >>> import tilesegment
    >>> tilesegment.plan("scene.tif", max_memory="2GB")["tiles"]              # doctest: +SKIP
    45
    """
    return cast(RunPlan, describe(source_of(source), predict_settings(settings)))


def info(source: Place, **settings: Unpack[PredictOptions]) -> dict[str, Any]:
    """What a scene is: grid, bands, metres per pixel, share of valid and blank pixels, percentiles of its
    values; under `plan` what `predict` would do with these settings, None where the model cannot read it,
    and why under `unfit`.

    Raises `tilesegment.errors.InputError` where it cannot be opened.

    >>> import tilesegment
    >>> tilesegment.info("scene.tif")["metres_per_pixel"]                     # doctest: +SKIP
    [0.15, 0.15]
    """
    return scene_info(source_of(source), predict_settings(settings))


def vectorize(source: Place, output: Place, **settings: Unpack[VectorizeOptions]) -> dict[str, Any]:
    """Polygons of every class but 0 and nodata of a class raster; counts and classes, by name.

    settings: `min_area`, `simplify`, `fill_holes`, `connectivity`, `regularize`, `tolerance`, `keep_raw`,
    `layer`, `dst_crs`, `nodata`, `src_crs`, `lco`, `gdal`, `overwrite`, as in `tilesegment vectorize`.

    >>> import tilesegment
    >>> tilesegment.vectorize("mask.tif", "roofs.gpkg", simplify="1px")       # doctest: +SKIP
    {'input': 'mask.tif', ...}
    """
    vector, rest = split_settings(settings, VectorizeSettings)
    given = VectorizeSettings(**checked(VectorizeSettings, rest))
    return vectorize_raster(source_of(source), path_of("output", output), vector_settings(vector), given)
