"""`tilesegment predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tilesegment.cli import logs, options

_PATH = click.Path(path_type=Path)


@click.command(
    "predict", short_help="Predict a scene.", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("input", metavar="INPUT")
@options.OUTPUT
@click.option("--mask", type=_PATH, help="Also write the class mask (.tif).")
@click.option("--probability", type=_PATH, help="Also write the probability of the class (.tif).")
@click.option("--overlay", type=_PATH, help="Also write a picture of the result (.png).")
@options.SCENE
@options.VECTOR
@options.RUNNING
@options.together(
    options.pairs("--co", "Raster creation option (repeatable)."),
    options.option("--cog", is_flag=True, help="Write masks as cloud-optimised GeoTIFFs."),
)
@options.GDAL
@options.OVERWRITE
@options.option("--resume/--no-resume", default=True, help="Go on with an interrupted run.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@options.PRINT_CONFIG
@options.LOGS
def command(
    input: str,
    output: Path,
    mask: Path | None,
    probability: Path | None,
    overlay: Path | None,
    dry_run: bool,
    print_config: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
    **settings: Any,
) -> None:
    """Predict INPUT (anything GDAL opens) and write OUTPUT: polygons for .gpkg .parquet .fgb .geojson
    .geojsonl .shp, the class mask for .tif.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    logs.start(-1 if quiet else verbose, log_format)
    settings["connectivity"] = int(settings["connectivity"])
    if print_config:
        click.echo(options.as_yaml(settings), nl=False)
        return
    from tilesegment.api import predict_settings
    from tilesegment.run.outputs import Outputs
    from tilesegment.run.pipeline import describe, run_predict

    resolved = predict_settings(settings)
    outputs = Outputs(output, mask, probability, overlay)
    if dry_run:
        outputs.check(input)
        plan = describe(input, resolved, outputs)
        click.echo(json.dumps(plan) if as_json else _plan_text(plan))
        return
    run = run_predict(input, outputs, resolved, progress=logs.ProgressBar("tiles"))
    if as_json:
        click.echo(json.dumps(run.record, default=str))
    logs.inform(_summary(run.record))


def _summary(record: dict[str, Any]) -> str:
    counts, seconds = record["counts"], record["seconds"]
    polygons = f"{counts['polygons']} polygons, " if "polygons" in counts else ""
    return (
        f"{polygons}{record['plan']['megapixels']:.1f} Mpx in {seconds['wall']:.1f} s: "
        f"{', '.join(record['outputs'])}"
    )


def _plan_text(plan: dict[str, Any]) -> str:
    grid, memory = plan["grid"], plan["memory_bytes"]
    metres = grid["metres_per_pixel"]
    size = "unknown size" if metres is None else f"{metres[0]:.3f} x {metres[1]:.3f} m"
    read = "resampled" if grid["resampled"] else "as it is"
    parts = ", ".join(f"{name} {value / 1e6:.0f}" for name, value in memory.items() if name != "total")
    lines = [
        f"grid       {grid['height']} x {grid['width']} pixels of {size}, read {read}",
        f"region     {plan['megapixels']:.1f} Mpx",
        f"tiles      {plan['tiles']} of {plan['tile'][0]} x {plan['tile'][1]}, overlap {plan['overlap']}",
        f"blocks     {plan['blocks']}, recompute factor {plan['recompute']:.3f}",
        f"memory     {memory['total'] / 1e6:.0f} MB a process ({parts})",
        f"disk       up to {plan['disk_bytes'] / 1e6:.0f} MB until the outputs are written",
    ]
    return "\n".join([*lines, *(f"warning    {line}" for line in plan["warnings"])])
