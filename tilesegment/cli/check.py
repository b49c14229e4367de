"""`tilesegment check`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tilesegment.cli import logs, options


@click.command(
    "check",
    short_help="Verify a data set before training.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@options.option(
    "--as",
    "kind",
    required=True,
    metavar="NAME|FILE.yaml|READER",
    envvar=None,
    help="A configuration (rooftop, urban, ...) or a reader (rooftop-tiles, cityscapes, ...).",
)
@options.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", envvar=None, help="Change a field of it."
)
@options.option("--download", is_flag=True, help="Fetch the data set where it is not there (VOC).")
@options.option("--model", is_flag=True, help="Also build the network, and ask it once.")
@options.option(
    "--sheet",
    type=click.Path(path_type=Path),
    default=None,
    envvar=None,
    help="PNG to draw samples to: image, mask, augmented.",
)
@options.LOGS
def command(
    data: Path,
    kind: str,
    changes: tuple[str, ...],
    download: bool,
    model: bool,
    sheet: Path | None,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Read all of the data set DATA: unreadable files, missing partners, sizes, label values, class
    balance, the same picture in several splits. Exit 1 where something would stop a training.
    """
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment.datasets.check import check
    from tilesegment.datasets.opening import open_reader, reader_names
    from tilesegment.errors import InputError, SettingsError
    from tilesegment.train.config import bundled_configs, load_config, load_options

    config, size = None, (512, 512)
    # A configuration knows more than a reader of its name.
    if kind in reader_names() and kind not in bundled_configs():
        fetch = ["download=true"] if download else []
        reader = open_reader(kind, data, load_options([*fetch, *changes]), size)
        if model:
            raise SettingsError("--model: a reader says nothing of a network; give a configuration to --as")
    else:
        config = load_config(kind, [*(["data.download=true"] if download else []), *changes])
        reader = open_reader(config.data.reader, data, config.data.options, config.data.size, config.seed)
    findings = check(reader, logs.ProgressBar("pictures"))
    if sheet is not None:
        from tilesegment.train.sheet import draw_sheet

        draw_sheet(sheet, reader, config, size)
    if model and config is not None:
        from tilesegment.train.trial import tried_network

        logs.inform(tried_network(config, reader))
    for line in findings.warnings:
        logs.warn(line)
    for line in findings.errors:
        logs.report_error(line)
    if as_json:
        click.echo(json.dumps(findings.as_json()))
    labelled = max(1, sum(findings.pixels.values()))
    pictures = ", ".join(f"{name} {count}" for name, count in findings.pictures.items())
    logs.inform(f"pictures: {pictures}")
    for name, count in findings.pixels.items():
        if count:
            logs.inform(f"{name:20} {count / labelled:7.2%}")
    if findings.errors:
        raise InputError(f"{data}: {len(findings.errors)} things must be mended before training")
