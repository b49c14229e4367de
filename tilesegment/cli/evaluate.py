"""`tilesegment evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tilesegment.cli import logs, options
from tilesegment.errors import SettingsError
from tilesegment.settings import numbers

_SCENE_OPTIONS = ("aoi", "probability", "distances", "sizes", "pixel", "nodata")


@click.command(
    short_help="Measure how good a prediction or a model is.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("prediction", required=False)
@click.argument("truth", required=False)
@options.option(
    "-o", "--output", type=click.Path(path_type=Path), envvar=None, help="Folder to write, with a report."
)
@options.option("--aoi", help="Vector file of what was labelled: nothing else counts.")
@options.option("--probability", help="Probability raster of the prediction.")
@options.option(
    "--distances",
    type=options.Parsed("METRES", numbers(float, None, "0.5,1,2")),
    default="0.5,1,2",
    show_default=True,
    help="Metres of boundary IoU.",
)
@options.option(
    "--sizes",
    type=options.Parsed("AREAS", numbers(float, None, "25,100,500")),
    default="25,100,500",
    show_default=True,
    help="Limits of size classes in m2.",
)
@options.option(
    "--pixel", type=float, default=0.25, show_default=True, help="Metres a pixel where both are polygons."
)
@options.option("--nodata", type=float, help="Value of both rasters that means unknown.")
@options.option("--model", help="Evaluate this model on --data instead.")
@options.option("--data", type=click.Path(path_type=Path), envvar=None, help="Folder of a data set.")
@options.option("--as", "kind", help="A configuration (rooftop, ...) or a reader (rooftop-tiles, ...).")
@options.option("--split", help="train, val or test (default; val with --calibrate).")
@options.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", envvar=None, help="Change a field of --as."
)
@options.option("--calibrate", is_flag=True, help="Fit the model's temperature and store it in its card.")
@options.OVERWRITE
@options.LOGS
def command(
    prediction: str | None,
    truth: str | None,
    output: Path | None,
    model: str | None,
    data: Path | None,
    kind: str | None,
    split: str | None,
    changes: tuple[str, ...],
    calibrate: bool,
    overwrite: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
    **scene: Any,
) -> None:
    """Hold PREDICTION against TRUTH, class rasters or polygons each: pixels, boundaries, objects, shapes.

    With --model and --data, evaluate a model on a labelled data set; with --calibrate as well, make its
    probabilities mean what they say (-o names the new model file).
    """
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment import api

    if model is None:
        if prediction is None or truth is None:
            raise SettingsError("give PREDICTION and TRUTH, or --model, --data and --as")
        for name, value in (("data", data), ("as", kind), ("split", split), ("calibrate", calibrate)):
            if value:
                raise SettingsError(f"--{name} is for --model")
        bar = logs.ProgressBar("windows")
        figures = api.evaluate_scene(
            prediction, truth, output=output, overwrite=overwrite, progress=bar, **scene
        )
        _show(figures, output, as_json)
        return
    given = [f"--{name}" for name in _SCENE_OPTIONS if options.given(click.get_current_context(), name)]
    if prediction is not None or given:
        raise SettingsError(f"{given[0] if given else 'PREDICTION'} and --model exclude each other")
    if data is None or kind is None:
        raise SettingsError("--model needs --data and --as")
    if calibrate:
        found = api.calibrate_temperature(
            model, data, kind, split=split or "val", changes=changes, output=output, overwrite=overwrite
        )
        if as_json:
            click.echo(json.dumps(found))
        logs.inform(
            f"temperature {found['temperature_before']:.3f} -> {found['temperature']:.3f}, negative log-"
            f"likelihood {found['likelihood_before']:.4f} -> {found['likelihood']:.4f}: {found['model']}"
        )
        return
    figures = api.evaluate_model(
        model, data, kind, split=split or "test", changes=changes, output=output, overwrite=overwrite,
        progress=logs.ProgressBar("pictures"),
    )  # fmt: skip
    _show(figures, output, as_json)


def _show(figures: dict[str, Any], output: Path | None, as_json: bool) -> None:
    from tilesegment.report.evaluation import text_table

    if as_json:
        click.echo(json.dumps(figures))
    else:
        click.echo(text_table(figures))
    if output is not None:
        logs.inform(f"{output}/report.html")
