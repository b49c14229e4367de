"""`tilesegment calibrate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tilesegment.cli import logs, options


@click.command(
    "calibrate",
    short_help="Measure the overlap that a model needs, and store it in its card.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("model", metavar="MODEL")
@click.argument("scene", metavar="SCENE")
@options.MODEL_OUTPUT
@options.option(
    "--agreement",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.995,
    show_default=True,
    help="Share of pixels whose class must be that of a tile around them.",
)
@options.option("--sites", type=click.IntRange(1), default=24, show_default=True, help="Places to look at.")
@options.OVERWRITE
@options.LOGS
def command(
    model: str,
    scene: str,
    output: Path | None,
    agreement: float,
    sites: int,
    overwrite: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Measure on SCENE at what distance from a tile's rim the class can be relied on, and store the
    overlap that follows from it in the card of MODEL (a file; for a bundled model or a folder name a new
    file with -o).
    """
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment.api import calibrate

    result = calibrate(model, scene, output=output, agreement=agreement, sites=sites, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(result))
    for distance in (0, 8, 16, 32, 64):
        if distance < len(result["agreement"]):
            logs.inform(f"{distance:4d} px from the rim: {result['agreement'][distance]:.4f}")
    if not result["reached"]:
        best = max(result["agreement"])
        logs.warn(
            f"tiles agree in {best:.2%} of the pixels at best, not in {agreement:.2%}: for that it is"
        )
    logs.inform(
        f"overlap {result['overlap_before']} -> {result['overlap']} px, each pixel predicted "
        f"{result['cost']:.2f} times, stored in {result['model']}"
    )
