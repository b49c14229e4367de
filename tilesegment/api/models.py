"""Models: measured, quantised, evaluated, trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tilesegment.api.given import Place, optional_path, path_of, source_of
from tilesegment.checked import checked
from tilesegment.errors import SettingsError
from tilesegment.run.calibrate import calibrate_model


def calibrate(
    model: str,
    source: Place,
    *,
    output: Place | None = None,
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
        str(model), source_of(source), optional_path("output", output), agreement, sites, overwrite
    )


def quantize(
    model: str,
    sources: Sequence[Place],
    *,
    output: Place | None = None,
    tiles: int = 96,
    data: Place | None = None,
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
    scenes = [source_of(source) for source in sources]
    return story.quantize_model(
        str(model), scenes, optional_path("output", output), tiles, labels, overwrite
    )


def export(
    model: str,
    output: Place,
    *,
    format: str | None = None,
    tile: int | None = None,
    scenes: Sequence[Place] = (),
    stac: Place | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model for another program: a graph from normalised tiles (n, bands, rows, columns) to
    probabilities of the classes, with the card inside; and compare it with the model.

    model: as for `predict`; output: .onnx (with the keys of the QGIS plugin Deepness; `predict` takes it
    as a model), .xml (OpenVINO), .pt (TorchScript) or .pt2 (torch.export), or any name with a format.
    tile: pixels of a side, by default the model's own. scenes: whose tiles are compared, else noise.
    stac: a file for an item with the MLM extension.

    Raises ModelError where it cannot be converted or its probabilities differ by more than 0.001.

    >>> import tilesegment
    >>> tilesegment.export("roofs", "roofs.onnx")["largest_difference"]       # doctest: +SKIP
    5.4e-07
    """
    from tilesegment.model.sharing import FORMATS
    from tilesegment.run.export import export_model

    if format is not None and format not in FORMATS:
        raise SettingsError(f"--format {format!r}: use one of {', '.join(FORMATS)}")
    return export_model(
        str(model), path_of("output", output), format, tile, [source_of(scene) for scene in scenes],
        optional_path("stac", stac), overwrite,
    )  # fmt: skip


def evaluate_scene(
    prediction: Place,
    truth: Place,
    *,
    output: Place | None = None,
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
    question = story.Question(source_of(prediction, "prediction"), source_of(truth, "truth"), **given)
    with story.evaluate_scene(question, progress) as answer:
        if output is not None:
            write_answer(Path(output), answer)
        return answer.figures


def evaluate_model(
    model: str,
    data: Place,
    kind: str,
    *,
    split: str = "test",
    changes: Sequence[str] = (),
    output: Place | None = None,
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
    data: Place,
    kind: str,
    *,
    split: str = "val",
    changes: Sequence[str] = (),
    output: Place | None = None,
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


def _reader_for(model: str, data: Place, kind: str, changes: Sequence[str]) -> Any:
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
    config: Place,
    data: Place,
    output: Place,
    *,
    start: Place | None = None,
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
