"""The Python interface: the commands as functions, with the same settings and the same results."""

from __future__ import annotations

import dataclasses
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tilesegment.checked import checked
from tilesegment.errors import SettingsError, as_parameters
from tilesegment.raster.source import Scene, open_scene
from tilesegment.run.calibrate import calibrate_model
from tilesegment.run.info import scene_info
from tilesegment.run.many.folder import Folders, SceneResult, run_many
from tilesegment.run.many.inputs import entries_of, sources_of
from tilesegment.run.many.mosaic import discard_others, write_mosaic
from tilesegment.run.scene.outputs import Outputs
from tilesegment.run.scene.pipeline import run_predict
from tilesegment.run.scene.summary import describe
from tilesegment.run.vectorize import vectorize_raster
from tilesegment.settings import (
    FORMATS,
    PredictSettings,
    VectorizeSettings,
    VectorSettings,
    nearest,
)

__all__ = [
    "Scene",
    "calibrate",
    "calibrate_temperature",
    "evaluate_model",
    "evaluate_scene",
    "info",
    "open_scene",
    "plan",
    "predict",
    "predict_many",
    "train_model",
    "vectorize",
]

_Path = str | os.PathLike[str]


def predict(
    source: _Path | Sequence[_Path],
    output: _Path,
    *,
    mask: _Path | None = None,
    probability: _Path | None = None,
    overlay: _Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> dict[str, Any]:
    """Predict a scene and write its polygons or mask; the run record, as beside the output.

    source: anything GDAL opens, or a list of sheets of one scene (files, folders, patterns), which are
    shown as one by a VRT beside the output. output: .gpkg .parquet .fgb .geojson .geojsonl .shp for
    polygons, .tif .png for the mask; mask, probability (.tif .png), overlay (.png) come from the same run.
    progress: is called with (tiles done, tiles in all). settings: the options of `tilesegment predict`
    under their names, such as `model`, `gsd`, `min_area`, `regularize`, `workers`. With `workers`, call it
    under `if __name__ == "__main__":`, since worker processes import the calling script.

    Nothing is left under the outputs' names unless all went well; an interrupted call goes on where it
    stopped when it is repeated. Raises `tilesegment.errors.TilesegmentError`.

    >>> import tilesegment
    >>> record = tilesegment.predict("scene.tif", "roofs.gpkg", min_area=4)   # doctest: +SKIP
    >>> record["counts"]["polygons"]                                          # doctest: +SKIP
    131
    """
    outputs = Outputs(
        _path("output", output),
        _optional("mask", mask),
        _optional("probability", probability),
        _optional("overlay", overlay),
    )
    resolved = predict_settings(settings)
    if isinstance(source, list | tuple):
        outputs.check()
        sheets = sources_of([_source(sheet) for sheet in source], lambda: b"")
        path = write_mosaic(sheets, outputs.main, resolved)
        run = run_predict(str(path), outputs, resolved, progress=progress)
        discard_others(path)
    else:
        run = run_predict(_source(source), outputs, resolved, progress=progress)
    return run.record


def predict_many(
    sources: _Path | Sequence[_Path],
    folder: _Path,
    *,
    format: str = "gpkg",
    mask: _Path | None = None,
    probability: _Path | None = None,
    overlay: _Path | None = None,
    skip_existing: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, words: None,
    **settings: Any,
) -> Iterator[SceneResult]:
    """Predict many scenes, one after the other with a model that is loaded once; what became of each, as it
    is finished. One that fails does not stop the others.

    sources: files, folders, patterns, `@` and a file that lists them, as on the command line. folder: of
    the outputs, each under its scene's name; format: their kind, such as gpkg, parquet, geojson or tif.
    mask, probability, overlay: folders as well. skip_existing: do nothing where outputs are there; those
    that the same settings made of the same scene are always kept. progress: is called with (scenes done,
    scenes in all, what is under way). settings: as for `predict`.

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
    entries = entries_of([_source(source) for source in sources], lambda: b"")
    folders = Folders(
        _path("folder", folder),
        f".{format}",
        _optional("mask", mask),
        _optional("probability", probability),
        _optional("overlay", overlay),
    )
    found = run_many(
        entries, folders, predict_settings(settings), skip_existing=skip_existing, progress=progress
    )
    return (dataclasses.replace(result, reason=as_parameters(result.reason)) for result in found)


def plan(source: _Path, **settings: Any) -> dict[str, Any]:
    """What `predict` would do, without doing it: grid, blocks, tiles, recompute factor, memory in bytes.

    >>> import tilesegment
    >>> tilesegment.plan("scene.tif", max_memory="2GB")["tiles"]              # doctest: +SKIP
    45
    """
    return describe(_source(source), predict_settings(settings))


def info(source: _Path, **settings: Any) -> dict[str, Any]:
    """What a scene is: grid, bands, metres per pixel, share of valid and blank pixels, percentiles of its
    values; under `plan` what `predict` would do with these settings, None where the model cannot read it,
    and why under `unfit`.

    Raises `tilesegment.errors.InputError` where it cannot be opened.

    >>> import tilesegment
    >>> tilesegment.info("scene.tif")["metres_per_pixel"]                     # doctest: +SKIP
    [0.15, 0.15]
    """
    return scene_info(_source(source), predict_settings(settings))


def vectorize(source: _Path, output: _Path, **settings: Any) -> dict[str, Any]:
    """Polygons of every class but 0 and nodata of a class raster; counts and classes, by name.

    settings: `min_area`, `simplify`, `fill_holes`, `connectivity`, `regularize`, `tolerance`, `keep_raw`,
    `layer`, `dst_crs`, `nodata`, `src_crs`, `lco`, `gdal`, `overwrite`, as in `tilesegment vectorize`.

    >>> import tilesegment
    >>> tilesegment.vectorize("mask.tif", "roofs.gpkg", simplify="1px")       # doctest: +SKIP
    {'input': 'mask.tif', ...}
    """
    vector, rest = _split(settings, VectorizeSettings)
    given = VectorizeSettings(**checked(VectorizeSettings, rest))
    return vectorize_raster(_source(source), _path("output", output), _vector_settings(vector), given)


def calibrate(
    model: str,
    source: _Path,
    *,
    output: _Path | None = None,
    agreement: float = 0.995,
    sites: int = 24,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure the overlap that a model needs on a scene, and store it in the model's card.

    model: as for `predict`; output: the model file to write, by default `model` itself, which must then be
    a file. agreement: see `tilesegment.evaluate.calibrate`.

    Raises ModelError, InputError and OutputError.

    >>> import tilesegment
    >>> tilesegment.calibrate("model.safetensors", "scene.tif")["overlap"]    # doctest: +SKIP
    48
    """
    return calibrate_model(
        str(model), _source(source), _optional("output", output), agreement, sites, overwrite
    )


def quantize(
    model: str,
    sources: Sequence[_Path],
    *,
    output: _Path | None = None,
    tiles: int = 96,
    data: _Path | None = None,
    kind: str | None = None,
    split: str = "val",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Give a model a graph in int8 beside its weights, by post-training quantisation on tiles of scenes.

    model: as for `predict`; output: the model file to write, by default `model` itself, which must then be
    a file. data, kind, split: a labelled data set to judge by, as for `evaluate_model`.

    Raises ModelError where IoU falls by more than half a point, or, without labels, where masks have an IoU
    of less than .98 with those of the network in floats; InputError and OutputError.

    >>> import tilesegment
    >>> tilesegment.quantize("model.safetensors", ["scene.tif"], output="model8.safetensors")
    ... # doctest: +SKIP
    {'model': 'model8.safetensors', ...}
    """
    from tilesegment.run import quantize as story

    if (data is None) != (kind is None):
        raise SettingsError("--data and --as need each other")
    if not sources:
        raise SettingsError("name at least one scene")
    labels = None
    if data is not None and kind is not None:
        labels = story.Labels(_reader_for(model, data, kind, ()), os.fspath(data), split)
    return story.quantize_model(
        str(model), [_source(source) for source in sources], _optional("output", output), tiles, labels,
        overwrite,
    )  # fmt: skip


def evaluate_scene(
    prediction: _Path,
    truth: _Path,
    *,
    output: _Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> dict[str, Any]:
    """Hold a prediction against the truth, class rasters or polygon layers each; the figures by name.

    output: a folder to write figures, objects (CSV, GeoPackage), pictures and `report.html` to. settings:
    `aoi`, `probability`, `distances`, `sizes`, `pixel`, `nodata`, as in `tilesegment evaluate`. Pixels are
    those of the prediction, or of the truth where that is the raster. What cannot be said is None.

    Raises `tilesegment.errors.TilesegmentError`.

    >>> import tilesegment
    >>> tilesegment.evaluate_scene("roofs.gpkg", "truth.gpkg")["objects"]["f1"]      # doctest: +SKIP
    0.71
    """
    from tilesegment.run import evaluate as story
    from tilesegment.run.evaluate_files import check_folder, write_answer

    given = checked(story.Question, settings)
    if output is not None:
        check_folder(Path(output), overwrite)
    question = story.Question(_source(prediction, "prediction"), _source(truth, "truth"), **given)
    with story.evaluate_scene(question, progress) as answer:
        if output is not None:
            write_answer(Path(output), answer)
        return answer.figures


def evaluate_model(
    model: str,
    data: _Path,
    kind: str,
    *,
    split: str = "test",
    changes: Sequence[str] = (),
    output: _Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Predict a split of a labelled data set as `predict` does, and compare; the figures by name.

    kind: a configuration or a reader, changes: `key=value` for it, as in `tilesegment check`. output: a
    folder for figures, panels and `report.html`. Raises `tilesegment.errors.TilesegmentError`.

    >>> import tilesegment
    >>> tilesegment.evaluate_model("roofs", "dataset", "rooftop")["pixels"]["iou"]     # doctest: +SKIP
    0.74
    """
    from tilesegment.run import evaluate_model as story
    from tilesegment.run.evaluate_files import check_folder, write_model_answer

    if output is not None:
        check_folder(Path(output), overwrite)
    reader = _reader_for(model, data, kind, changes)
    figures, panels = story.evaluate_model(model, reader, os.fspath(data), split, progress=progress)
    if output is not None:
        write_model_answer(Path(output), figures, panels)
    return figures


def calibrate_temperature(
    model: str,
    data: _Path,
    kind: str,
    *,
    split: str = "val",
    changes: Sequence[str] = (),
    output: _Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fit the temperature that makes a model's probabilities most likely on a split, and store it in its
    card, where prediction finds it. output: the model file to write, by default `model` itself.

    Raises `tilesegment.errors.TilesegmentError`.

    >>> import tilesegment
    >>> tilesegment.calibrate_temperature("m.safetensors", "dataset", "rooftop")["temperature"]
    ... # doctest: +SKIP
    1.4
    """
    from tilesegment.run import evaluate_model as story

    path = None if output is None else Path(output)
    return story.calibrate_temperature(
        model, _reader_for(model, data, kind, changes), split, path, overwrite
    )


def _reader_for(model: str, data: _Path, kind: str, changes: Sequence[str]) -> Any:
    """A data set as a model sees it: aerial tiles at the model's pixel size."""
    from tilesegment.datasets.opening import open_reader, reader_names
    from tilesegment.model.store import find_model
    from tilesegment.train.config import load_config, load_options

    card = find_model(model).card
    if kind in reader_names():
        options, size, seed = load_options(changes), card.tile, 0
    else:
        config = load_config(kind, changes)
        options, size, seed = config.data.options, config.data.size, config.seed
        kind = config.data.reader
    if kind.startswith("rooftop") and card.gsd is not None:
        options.setdefault("gsd", card.gsd)
    return open_reader(kind, Path(data), options, size, seed)


def train_model(
    config: _Path,
    data: _Path,
    output: _Path,
    *,
    start: _Path | None = None,
    changes: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    line: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train what a configuration says on a data set, into a run folder; metrics of the best weights.

    config: a bundled name (`rooftop`) or a YAML file; changes: `key=value` as for `--set`; data: folder of
    the data set; output: the run folder, which `predict(model=...)` takes. start: a model to go on with, at
    low rates. line: is given every epoch's line. Call it under `if __name__ == "__main__":`, since reading
    processes import the calling script.

    Raises `tilesegment.errors.TilesegmentError`.

    >>> import tilesegment
    >>> tilesegment.train_model("rooftop", "dataset", "runs/a")["iou"]        # doctest: +SKIP
    0.81
    """
    from tilesegment.train.config import load_config
    from tilesegment.train.run import Listener, resumed_config, run_training
    from tilesegment.train.start import changes_from

    if start is not None and resume:
        raise SettingsError("start begins a run, and resume goes on with one: give one of them")
    begin = [] if start is None else changes_from(start)
    before = resumed_config(Path(output), changes) if resume else None
    return run_training(
        before or load_config(os.fspath(config), [*begin, *changes]),
        Path(data),
        Path(output),
        resume=resume,
        overwrite=overwrite,
        device=device,
        listener=Listener(line=line),
    )


def predict_settings(settings: Mapping[str, Any]) -> PredictSettings:
    """Settings by name, as commands, configuration files and callers give them.

    Raises SettingsError for an unknown name or an unusable value.
    """
    if isinstance(settings.get("model"), str | os.PathLike):
        settings = {**settings, "model": (settings["model"],)}
    vector, rest = _split(settings, PredictSettings)
    return PredictSettings(**checked(PredictSettings, rest), vector=_vector_settings(vector))


def _vector_settings(given: Mapping[str, Any]) -> VectorSettings:
    settings = VectorSettings(**checked(VectorSettings, given))
    if settings.connectivity not in (4, 8):
        raise SettingsError(f"connectivity {settings.connectivity} is neither 4 nor 8")
    return settings


def _split(settings: Mapping[str, Any], kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the polygons, and the rest. Raises SettingsError for an unknown name."""
    vector, others = _names(VectorSettings), [name for name in _names(kind) if name != "vector"]
    for name in settings:
        if name not in (*vector, *others):
            raise SettingsError(f"unknown setting {name!r}{nearest(name, [*vector, *others])}")
    return (
        {name: value for name, value in settings.items() if name in vector},
        {name: value for name, value in settings.items() if name not in vector},
    )


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _path(name: str, value: Any) -> Path:
    """Raises SettingsError for what is no path."""
    if not isinstance(value, str | os.PathLike):
        raise SettingsError(f"{name}: {reprlib.repr(value)} is no path")
    return Path(os.fspath(value))


def _optional(name: str, value: Any) -> Path | None:
    return None if value is None else _path(name, value)


def _source(value: Any, name: str = "source") -> str:
    """Raises SettingsError for what is neither a path nor a URI."""
    if not isinstance(value, str | os.PathLike):
        raise SettingsError(f"{name}: {reprlib.repr(value)} is neither a path nor a URI")
    return os.fspath(value)
