"""`tilesegment train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tilesegment.cli import logs, options
from tilesegment.errors import SettingsError


@click.command(
    "train",
    short_help="Train a model from a configuration.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("system", metavar="NAME|FILE.yaml")
@options.option(
    "--data",
    type=click.Path(path_type=Path),
    default="dataset",
    show_default=True,
    envvar=None,
    help="Folder of the data set.",
)
@options.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    envvar=None,
    help="Run folder; runs/NAME by default.",
)
@options.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    envvar=None,
    help="Change a field: epochs=2, data.size=[128,128], loss.dice=0.5.",
)
@options.option(
    "--from", "start", envvar=None, help="Go on with this model, at low rates: roofs, or a file."
)
@options.option("--download", is_flag=True, help="Fetch the data set where it is not there (VOC).")
@options.option("--resume", is_flag=True, help="Go on from the run folder's last state.")
@options.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@options.OVERWRITE
@click.option("--print-config", is_flag=True, help="Show the resolved configuration and stop.")
@options.LOGS
def command(
    system: str,
    data: Path,
    output: Path | None,
    changes: tuple[str, ...],
    start: str | None,
    download: bool,
    resume: bool,
    device: str,
    overwrite: bool,
    print_config: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Train what a configuration says: a bundled NAME (rooftop, roofs, urban, urban-binary, voc2012,
    camvid, coco-binary, coco-multiclass) or a YAML file. The run folder can be given to `predict --model`.
    """
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment.train.config import load_config, plain
    from tilesegment.train.start import changes_from

    if start is not None and resume:
        raise SettingsError("--from begins a run, and --resume goes on with one: give one of them")
    begin = [] if start is None else changes_from(start)
    fetch = ["data.download=true"] if download else []
    settings = load_config(system, [*begin, *fetch, *changes])
    if print_config:
        import yaml

        click.echo(yaml.safe_dump(plain(settings), sort_keys=False), nl=False)
        return
    from tilesegment.train.run import Listener, resumed_config, run_training

    listener = Listener(logs.inform, _Bar(), logs.warn, logs.ProgressBar("outlines"))
    folder = output or Path("runs") / settings.name
    if resume:
        settings = resumed_config(folder, changes) or settings
    result = run_training(
        settings, data, folder, resume=resume, overwrite=overwrite, device=device, listener=listener
    )
    if as_json:
        click.echo(json.dumps(result))
    logs.inform(
        f"{result['split']} IoU {result['iou']:.4f}, Dice {result['dice']:.4f}, accuracy "
        f"{result['accuracy']:.4f}: {folder}/report.md"
    )


class _Bar:
    """A progress bar an epoch, with loss, IoU, speed and the time left."""

    def __init__(self) -> None:
        self._epoch, self._bar = 0, logs.ProgressBar("")

    def __call__(self, status: Any) -> None:
        if status.epoch != self._epoch:
            self._epoch, self._bar = status.epoch, logs.ProgressBar(f"epoch {status.epoch}/{status.epochs}")
        self._bar(
            status.done,
            status.total,
            f"loss {status.loss:.4f} IoU {status.iou:.3f} {status.images_per_second:.1f} images/s",
        )
