"""`tilesegment quantize`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tilesegment.cli import logs, options


@click.command(
    "quantize",
    short_help="Give a model a graph in int8, which CPUs compute two to three times as fast.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("model", metavar="MODEL")
@click.argument("scenes", metavar="SCENE...", nargs=-1, required=True)
@options.MODEL_OUTPUT
@options.option("--tiles", type=click.IntRange(3), default=96, show_default=True, help="Tiles to look at.")
@options.option("--data", envvar=None, help="Labelled data set to judge by.")
@options.option("--as", "kind", help="What the data set is: a configuration or a reader.")
@options.option("--split", default="val", show_default=True, help="train, val or test.")
@options.OVERWRITE
@options.LOGS
def command(
    model: str,
    scenes: tuple[str, ...],
    output: Path | None,
    tiles: int,
    data: str | None,
    kind: str | None,
    split: str,
    overwrite: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Quantise MODEL after training, its ranges taken from tiles of SCENE..., and write it with its int8
    graph beside the weights; `predict` takes that where it is fastest. Nothing is written where masks would
    change by more than they may.
    """
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment.api import quantize

    result = quantize(
        model, scenes, output=output, tiles=tiles, data=data, kind=kind, split=split, overwrite=overwrite
    )
    if as_json:
        click.echo(json.dumps(result))
    if "iou" in result:
        logs.inform(f"IoU {result['iou_before']:.4f} -> {result['iou']:.4f}")
    logs.inform(
        f"masks have an IoU of {result['alike']:.4f} with those in floats; here "
        f"{result['megapixels_per_second_fp32']:.1f} -> {result['megapixels_per_second_int8']:.1f} Mpx/s; "
        f"stored in {result['model']}"
    )
