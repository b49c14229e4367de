"""`tilesegment export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tilesegment.cli import logs, options

_FORMATS = ("onnx", "openvino", "torchscript", "pt2")


@click.command(
    "export",
    short_help="Write a model for another program: ONNX, OpenVINO, TorchScript, pt2.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("model", metavar="MODEL")
@click.argument("scenes", metavar="[SCENE]...", nargs=-1)
@options.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    envvar=None,
    help="File to write: .onnx, .xml (OpenVINO), .pt (TorchScript) or .pt2.",
)
@options.option("--format", type=click.Choice(_FORMATS), help="By default as the extension says.")
@options.option("--tile", type=click.IntRange(32), help="Pixels of a side; by default the model's own.")
@click.option("--stac", type=click.Path(path_type=Path), help="Also write a STAC item (MLM) of it.")
@options.OVERWRITE
@options.LOGS
def command(
    model: str,
    scenes: tuple[str, ...],
    output: Path,
    format: str | None,
    tile: int | None,
    stac: Path | None,
    overwrite: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Write MODEL as a graph from normalised tiles to probabilities, with its card inside, and compare its
    answers with the model's on tiles of SCENE... (or on noise). ONNX files carry the keys that the QGIS
    plugin Deepness reads, and are models for `predict --model` as well. Where buildings touch is left out,
    so that MODEL itself tells more of them apart.
    """
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment.api import export

    found = export(model, output, format=format, tile=tile, scenes=scenes, stac=stac, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(found))
    what = "of the scenes" if found["of"] == "scenes" else "of noise"
    logs.inform(
        f"{', '.join(found['outputs'])}: probabilities differ by {found['largest_difference']:.1g} at most "
        f"({found['tiles_compared']} tile{'s' * (found['tiles_compared'] > 1)} {what})"
    )
