"""`tilesegment vectorize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tilesegment.cli import logs, options


@click.command(
    "vectorize",
    short_help="Trace a class raster.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("mask", metavar="MASK")
@options.OUTPUT
@options.VECTOR
@options.NODATA
@options.SRC_CRS
@options.GDAL
@options.OVERWRITE
@options.PRINT_CONFIG
@options.LOGS
def command(
    mask: str,
    output: Path,
    print_config: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
    **settings: Any,
) -> None:
    """Trace every class but 0 and nodata of MASK (a raster of whole numbers) to polygons in OUTPUT:
    .gpkg .parquet .fgb .geojson .geojsonl or .shp.
    """
    logs.start(-1 if quiet else verbose, log_format)
    settings["connectivity"] = int(settings["connectivity"])
    if print_config:
        click.echo(options.as_yaml(settings), nl=False)
        return
    from tilesegment.api import vectorize

    result = vectorize(mask, output, **settings)
    for line in result["warnings"]:
        logs.warn(line)
    if as_json:
        click.echo(json.dumps(result))
    logs.inform(f"{result['polygons']} polygons in {result['seconds']:.1f} s: {output}")
