"""Polygons of many scenes as one layer, each building once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine
from numpy.typing import NDArray

from tilesegment.atomic import write_text
from tilesegment.errors import (
    BusyError,
    ExistsError,
    InputError,
    SettingsError,
    TilesegmentError,
    without_secrets,
)
from tilesegment.grid import Grid, require_crs
from tilesegment.model.store import ModelFile, find_models
from tilesegment.raster.environment import gdal_environment
from tilesegment.raster.opening import Additions, opened
from tilesegment.run.files import discard, publish, writing
from tilesegment.run.many.ahead import Progress
from tilesegment.run.many.folder import Folders, run_many
from tilesegment.run.many.inputs import Entry
from tilesegment.run.many.one import Outcome, SceneResult, is_up_to_date
from tilesegment.run.many.parts import Part, crs_of_scene, doubles, part_of, schema_of_scene, without_crs
from tilesegment.run.record import name_of, now, plain_settings, software
from tilesegment.run.scene.ledger import open_ledger
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.summary import NO_MATTER
from tilesegment.settings import PredictSettings
from tilesegment.vector.coco import COCO_ENDING, merge_coco
from tilesegment.vector.files import DRIVERS, Target, driver_of, ending_of, is_vector, schema_of
from tilesegment.vector.project import as_multipolygons, layer_crs
from tilesegment.vector.style import add_style, layer_style
from tilesegment.vector.write import Layer, check_layer, write_counted


def scene_folders(
    output: Path, mask: Path | None = None, probability: Path | None = None, overlay: Path | None = None
) -> Folders:
    """Where the polygons of each scene are kept for the next time: a folder beside the layer.

    Raises SettingsError where the output is no layer.
    """
    if not is_vector(output):
        raise SettingsError(
            f"-o {output}: --merge makes a layer of polygons; masks become one by --mosaic or gdalbuildvrt"
        )
    ending = COCO_ENDING if driver_of(output) == "COCO" else ".parquet"
    return Folders(output.with_name(f"{output.name}.scenes"), ending, mask, probability, overlay)


def run_merged(
    entries: Sequence[Entry],
    output: Path,
    folders: Folders,
    settings: PredictSettings,
    *,
    skip_existing: bool = False,
    progress: Progress = lambda done, total, words: None,
    merged: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Iterator[SceneResult]:
    """As `run_many`, and then all polygons as one layer, whose record `merged` is told. A layer that is
    there already, of the same scenes with the same settings, stays as it is.

    Raises SettingsError, ModelError and OutputError before anything is predicted.
    """
    outputs = Outputs(output)
    entries = folders.without_outputs(entries)
    _check(outputs, entries, settings)
    # What is there of a scene is ours, and replaced where it must be.
    vector = replace(settings.vector, dst_crs=None, layer=None)
    of_scene = replace(settings, overwrite=True, lco=(), vector=vector)
    if not settings.overwrite:
        _refuse_others(entries, folders)
    kept = False
    if not settings.overwrite:
        kept = _is_up_to_date(entries, outputs, folders, settings, of_scene)
        if not kept:
            outputs.refuse_existing()
    results = run_many(entries, folders, of_scene, skip_existing=skip_existing, progress=progress)
    return _then_merged(results, outputs, settings, kept, merged)


def _check(outputs: Outputs, entries: Sequence[Entry], settings: PredictSettings) -> None:
    """Raises SettingsError or OutputError for what cannot be written."""
    if settings.vector.keep_raw:
        raise SettingsError("--keep-raw is not for merged layers")
    if settings.vector.dst_crs is not None:
        require_crs(settings.vector.dst_crs, "--dst-crs")
    outputs.check(*(entry.source for entry in entries))
    if ending_of(outputs.main) != COCO_ENDING and settings.src_crs is None and entries:
        _check_place(entries[0].source, settings)
    # Any CRS and any place: name and options of the layer are looked at.
    anywhere = Grid("EPSG:4326", Affine(1e-5, 0, 10, 0, -1e-5, 50), 10, 10)
    name = settings.vector.layer or outputs.main.stem
    check_layer(outputs.main, Layer(anywhere, {}, name, options=settings.lco))


def _check_place(source: str, settings: PredictSettings) -> None:
    """Raises InputError for a scene without a CRS: in a folder of pictures the first one has none. One that
    cannot be opened is another matter, and stops no other."""
    has_crs = True
    with suppress(InputError), gdal_environment(settings.gdal), opened(source, Additions()) as (dataset, _):
        has_crs = dataset.crs is not None
    if not has_crs:
        raise without_crs(source)


def _refuse_others(entries: Sequence[Entry], folders: Folders) -> None:
    """Raises ExistsError for masks and pictures that no run of ours wrote."""
    for entry in entries:
        outputs = folders.outputs(entry)
        written = outputs.read_record().get("outputs", [])
        for path in outputs.all[1:]:
            if path.exists() and str(path) not in written:
                raise ExistsError(f"{path}: exists already; choose another name or give --overwrite")


def _then_merged(
    results: Iterator[SceneResult],
    outputs: Outputs,
    settings: PredictSettings,
    kept: bool,
    merged: Callable[[dict[str, Any]], None],
) -> Iterator[SceneResult]:
    """The results, and then the merging. kept: a layer of all scenes but those that failed is there."""
    found = []
    for result in results:
        found.append(result)
        yield result
    busy = [result for result in found if result.busy]
    if busy:
        raise BusyError(f"{outputs.main}: not written, since another run predicts {busy[0].source}")
    if all(result.outcome is not Outcome.PREDICTED for result in found) and kept:
        return
    if kept:
        # A scene that had failed can be read now.
        outputs.refuse_existing()
    if any(result.outcome is not Outcome.FAILED for result in found):
        merged(merge_scenes(found, outputs.main, settings))


def _is_up_to_date(
    entries: Sequence[Entry],
    outputs: Outputs,
    folders: Folders,
    settings: PredictSettings,
    of_scene: PredictSettings,
) -> bool:
    """Whether a layer is what would be written now, but for scenes that had failed."""
    record = outputs.read_record()
    if not outputs.is_untouched() or record.get("inputs") != [
        without_secrets(entry.source) for entry in entries
    ]:
        return False
    if record.get("settings") != json.loads(json.dumps(_that_matter(settings), default=str)):
        return False
    failed = {entry["input"] for entry in record.get("failed", [])}
    return all(
        without_secrets(entry.source) in failed or _is_done(entry, folders, of_scene) for entry in entries
    )


def _is_done(entry: Entry, folders: Folders, settings: PredictSettings) -> bool:
    try:
        return is_up_to_date(entry, folders.outputs(entry), settings)
    except TilesegmentError:
        # It cannot be read any more: the run will say so.
        return True


def _that_matter(settings: PredictSettings) -> dict[str, Any]:
    return {name: value for name, value in plain_settings(settings).items() if name not in NO_MATTER}


def merge_scenes(results: Sequence[SceneResult], output: Path, settings: PredictSettings) -> dict[str, Any]:
    """Write the polygons of all scenes that were predicted, now or before, as one layer with a column
    `source`, and its record, which is returned.

    COCO JSON holds all pictures, with the polygons of each in its own pixels. Elsewhere, where scenes
    overlap and two polygons of different ones are one building, that which is not cut by its
    scene's edge stays, then the more confident one, then that of the scene named first. Ids are numbered
    anew. Memory holds the polygons of where scenes overlap.

    Raises InputError where there is nothing to merge or a scene has no CRS; OutputError.
    """
    done = [result for result in results if result.outcome is not Outcome.FAILED]
    if not done:
        raise InputError(f"{output}: no scene has polygons to merge")
    with gdal_environment(settings.gdal), open_ledger(output, {"merge": str(output)}, False) as ledger:
        counts = {"scenes": len(done)}
        if driver_of(output) == "COCO":
            counts["polygons"] = _write_pictures(output, done, settings)
        else:
            first = schema_of_scene(done[0], None)
            target = layer_crs(
                crs_of_scene(done[0], first), settings.vector.dst_crs, DRIVERS[ending_of(output)]
            )
            parts = [part_of(result, target, first) for result in done]
            dropped = doubles(parts, target)
            counts["doubles"] = int(sum(map(len, dropped)))
            counts["polygons"] = _write(output, parts, dropped, first, target, settings)
        record = {
            "software": software(),
            "finished": now(),
            "outputs": [str(output)],
            "inputs": [without_secrets(result.source) for result in results],
            "failed": [r.plain() for r in results if r.outcome is Outcome.FAILED],
            "settings": _that_matter(settings),
            "counts": counts,
        }
        write_text(Outputs(output).record, json.dumps(record, indent=1, default=str) + "\n")
        ledger.remove()
    return record


def _marks(model: ModelFile) -> dict[str, str]:
    return {"software": software(), "model": model.name, "model_sha256": model.sha256}


@contextmanager
def _published(output: Path) -> Iterator[Path]:
    """The temporary name of an output, which has its own once the body is through."""
    discard(output)
    try:
        with writing(output) as temporary:
            yield temporary
        publish(output)
    except BaseException:
        discard(output)
        raise


def _write_pictures(output: Path, results: Sequence[SceneResult], settings: PredictSettings) -> int:
    names = [name_of(result.source) for result in results]
    if len(set(names)) < len(names):
        names = [without_secrets(result.source) for result in results]
    with _published(output) as temporary:
        files = [result.outputs.main for result in results]
        return merge_coco(files, names, temporary, _marks(find_models(settings.model)[0]))


def _write(
    output: Path,
    parts: Sequence[Part],
    dropped: Sequence[NDArray[np.int64]],
    first: Any,
    target: str | None,
    settings: PredictSettings,
) -> int:
    driver = DRIVERS[ending_of(output)]
    kinds = {name: first.field(name).type for name in first.names if name not in ("geometry", "bbox")}
    schema = schema_of({**kinds, "source": pa.string()}, driver)
    mixed = any(part.has_multipolygons or part.crs != target for part in parts)
    model = find_models(settings.model)[0]
    marks = _marks(model)
    layer = Target(
        settings.vector.layer or output.stem, target, settings.vector.connectivity == 8, mixed,
        settings.lco, marks,
    )  # fmt: skip
    total = 0

    def tables() -> Iterator[Any]:
        nonlocal total
        for part, lost in zip(parts, dropped, strict=True):
            start = 0
            for batch, shapes in part.batches(target):
                kept = np.setdiff1d(np.arange(start, start + len(shapes)), lost) - start
                start += len(shapes)
                if not len(kept):
                    continue
                rows = batch.take(pa.array(kept))
                found = as_multipolygons(shapes[kept]) if mixed else shapes[kept]
                columns = [pa.array(np.arange(total + 1, total + 1 + len(kept)))]
                columns += [rows.column(name) for name in kinds if name != "id"]
                columns.append(pa.array([without_secrets(part.source)] * len(kept), pa.string()))
                columns.append(pa.array(shapely.to_wkb(found, byte_order=1)))
                total += len(kept)
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

    with _published(output) as temporary:
        write_counted(temporary, layer, schema, tables())
        if driver == "GPKG":
            add_style(temporary, layer.name, layer_style(model.card.labels))
    return total
