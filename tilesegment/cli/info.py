"""`tilesegment info`."""

from __future__ import annotations

import json
from typing import Any

import click

from tilesegment.cli import logs, options
from tilesegment.cli.predict import command as predict
from tilesegment.cli.predict import plan_text


@click.command(
    "info",
    short_help="Show a scene's grid, values and plan.",
    # What a scene takes is asked for with the file that it will be predicted with.
    context_settings={"help_option_names": ["-h", "--help"], "obj": predict},
)
@click.argument("scene", metavar="SCENE")
@options.SCENE
@options.VECTOR
@options.RUNNING
@options.GDAL
@options.LOGS
def command(scene: str, as_json: bool, log_format: str, quiet: bool, verbose: int, **settings: Any) -> None:
    """Show what SCENE is: its grid, bands, values, blank areas and nodata, and what predicting it with
    these options would take. Nothing is predicted."""
    logs.start(-1 if quiet else verbose, log_format)
    settings["connectivity"] = int(settings["connectivity"])
    from tilesegment.api import info

    found = info(scene, **settings)
    click.echo(json.dumps(found) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    metres = found["metres_per_pixel"]
    size = "" if metres is None else f" of {metres[0]:g} x {metres[1]:g} m, {found['km2']:.3g} km2"
    lines = [
        f"scene      {found['input']} ({found['driver']})",
        f"size       {found['height']} x {found['width']} pixels{size}",
        f"CRS        {found['crs'] or 'none'}",
        f"bands      {found['bands']} of {found['dtype']}, read {','.join(map(str, found['read']))}"
        f"{', with overviews' if found['overviews'] else ''}",
        f"valid      {found['valid_share']:.1%} of the pixels looked at",
    ]
    for value, share in found["blank_shares"].items():
        lines.append(f"blank      {share:.1%} are {value} in every band, and no nodata")
    for band, percentiles in zip(found["read"], found["percentiles"], strict=True):
        if percentiles is None:
            continue
        low, middle, high = percentiles
        lines.append(
            f"values     band {band}: {low:g} to {high:g} (2nd to 98th percentile), median {middle:g}"
        )
    lines += [f"note       {line}" for line in found["notes"]]
    lines += ["", plan_text(found["plan"]) if found["plan"] else f"unfit      {found['unfit']}"]
    return "\n".join(lines)
