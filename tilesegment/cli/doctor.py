"""`tilesegment doctor`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from tilesegment.cli import logs, options


@click.command(
    "doctor",
    short_help="Look whether this machine can do the work.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("folder", metavar="[FOLDER]", default=".", type=click.Path(path_type=Path))
@options.LOGS
def command(folder: Path, as_json: bool, log_format: str, quiet: bool, verbose: int) -> None:
    """Look at versions, projection data, devices, memory, and at FOLDER, where outputs are to go; load the
    bundled model and predict a tile. What is wrong comes with what helps; the exit code is then 1."""
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment.run.doctor import FAILURE, OK, examined

    failed = False
    for finding in examined(folder):
        failed |= finding.state == FAILURE
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(finding)))
        elif finding.state != OK or not quiet:
            state = "" if finding.state == OK else f"{finding.state}: "
            advice = f"; {finding.advice}" if finding.advice else ""
            click.echo(f"{finding.name:<17}{state}{finding.text}{advice}")
    if failed:
        raise click.exceptions.Exit(1)
