"""`tilesegment predict`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilesegment.cli import logs, options
from tilesegment.errors import SettingsError, TilesegmentError
from tilesegment.settings import FORMATS, PredictSettings

if TYPE_CHECKING:
    from tilesegment.run.many.folder import Folders
    from tilesegment.run.many.inputs import Entry
    from tilesegment.run.many.one import SceneResult
    from tilesegment.run.scene.outputs import Outputs

_PATH = click.Path(path_type=Path)
# The exit code where some of several scenes failed.
_SOME_FAILED = 3


@click.command(
    "predict", short_help="Predict a scene.", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@options.option(
    "-o",
    "--output",
    required=True,
    envvar=None,
    help="File to write; with several scenes the folder of their files.",
)
@options.option(
    "--format",
    type=click.Choice(FORMATS),
    default="gpkg",
    show_default=True,
    help="Kind of the files in a folder.",
)
@click.option("--mask", type=_PATH, help="Also write the class mask (.tif, .png).")
@click.option("--probability", type=_PATH, help="Also write the probability of the class (.tif, .png).")
@click.option("--overlay", type=_PATH, help="Also write a picture of the result (.png).")
@click.option("--pmtiles", type=_PATH, help="Also write vector tiles, and a page that shows them.")
@click.option("--report", type=_PATH, help="Also write a page about the run (.html).")
@click.option(
    "--consensus", type=_PATH, help="Also write how far overlapping tiles disagreed (.tif, .png)."
)
@options.SCENE
@options.VECTOR
@options.RUNNING
@options.RASTER
@options.GDAL
@options.OVERWRITE
@options.RESUME
@options.option("--mosaic", is_flag=True, help="Inputs are sheets of one scene; OUTPUT is one file.")
@options.option("--merge", is_flag=True, help="Polygons of all scenes as one layer; OUTPUT is one file.")
@options.option("--skip-existing", is_flag=True, help="Skip scenes whose outputs are there already.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@options.PRINT_CONFIG
@options.LOGS
def command(
    inputs: tuple[str, ...],
    output: str,
    format: str,
    mask: Path | None,
    probability: Path | None,
    overlay: Path | None,
    pmtiles: Path | None,
    report: Path | None,
    consensus: Path | None,
    mosaic: bool,
    merge: bool,
    skip_existing: bool,
    dry_run: bool,
    print_config: bool,
    as_json: bool,
    log_format: str,
    quiet: bool,
    verbose: int,
    **settings: Any,
) -> None:
    """Predict INPUT (anything GDAL opens) and write OUTPUT: polygons for .gpkg .parquet .fgb .geojson
    .geojsonl .shp .coco.json, the class mask for .tif .png.

    Several scenes (files, folders, patterns such as 'scenes/**/*.tif', @LIST for a file of such lines, -
    for lines from the standard input) go to a folder, each to a file of its name; --mask, --probability and
    --overlay are folders too. One that fails does not stop the others; the exit code is then 3. With
    --mosaic they are sheets of one scene, whose roofs are whole across their edges; with --merge the
    polygons of all scenes are one layer, with a column that says of which, and each building once.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    logs.start(-1 if quiet else verbose, log_format)
    settings["connectivity"] = int(settings["connectivity"])
    if print_config:
        settings |= {"format": format, "mosaic": mosaic, "merge": merge, "skip_existing": skip_existing}
        click.echo(options.as_yaml(settings), nl=False)
        return
    from tilesegment.api import predict_settings
    from tilesegment.run.many.inputs import is_several
    from tilesegment.run.scene.outputs import Outputs

    resolved = predict_settings(settings)
    if mosaic and merge:
        raise SettingsError("--mosaic makes one scene of sheets, --merge one layer: give one of them")
    others = mask, probability, overlay
    if mosaic or (not merge and not is_several(inputs, output)):
        if skip_existing:
            raise SettingsError("--skip-existing is for several scenes, whose outputs are in a folder")
        _scene(
            inputs,
            Outputs(Path(output), *others, pmtiles, report, consensus),
            resolved,
            mosaic,
            dry_run,
            as_json,
        )
        return
    if any(path is not None for path in (pmtiles, report, consensus)):
        raise SettingsError(
            "--pmtiles, --report and --consensus are for one scene, or for sheets with --mosaic"
        )
    ending = None if merge else f".{format}"
    if _scenes(inputs, Path(output), ending, others, resolved, skip_existing, dry_run, as_json):
        raise click.exceptions.Exit(_SOME_FAILED)


def _scene(
    inputs: tuple[str, ...],
    outputs: Outputs,
    settings: PredictSettings,
    mosaic: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from tilesegment.run.many.inputs import sources_of
    from tilesegment.run.many.mosaic import discard_others, write_mosaic

    outputs.check()
    if not mosaic:
        _one(inputs[0], outputs, settings, dry_run, as_json)
        return
    with ExitStack() as stack:
        place = outputs.main
        if dry_run:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / place.name
        sheets = write_mosaic(sources_of(inputs, sys.stdin.buffer.read), place, settings)
        _one(str(sheets), outputs, settings, dry_run, as_json)
        discard_others(sheets)


def _scenes(
    inputs: tuple[str, ...],
    output: Path,
    ending: str | None,
    others: tuple[Path | None, Path | None, Path | None],
    settings: PredictSettings,
    skip_existing: bool,
    dry_run: bool,
    as_json: bool,
) -> bool:
    """Whether a scene failed. ending: of the files in the folder `output`; None for one layer."""
    from tilesegment.run.many.folder import Folders, run_many
    from tilesegment.run.many.inputs import entries_of
    from tilesegment.run.many.merge import run_merged, scene_folders

    entries = entries_of(inputs, sys.stdin.buffer.read)
    folders = scene_folders(output, *others) if ending is None else Folders(output, ending, *others)
    if dry_run:
        return _plans(entries, folders, settings, as_json)
    bar = logs.ProgressBar("scenes")
    if ending is not None:
        results = run_many(entries, folders, settings, skip_existing=skip_existing, progress=bar)
    else:
        told = _told_merged(as_json)
        results = run_merged(
            entries, output, folders, settings, skip_existing=skip_existing, progress=bar, merged=told
        )
    return _many(results, as_json)


def _one(input: str, outputs: Outputs, settings: PredictSettings, dry_run: bool, as_json: bool) -> None:
    from tilesegment.run.scene.pipeline import run_predict
    from tilesegment.run.scene.summary import describe

    if dry_run:
        outputs.check(input)
        plan = describe(input, settings, outputs)
        click.echo(json.dumps(plan) if as_json else plan_text(plan))
        return
    run = run_predict(input, outputs, settings, progress=logs.ProgressBar("tiles"))
    if as_json:
        click.echo(json.dumps(run.record, default=str))
    logs.inform(_summary(run.record))


def _told_merged(as_json: bool) -> Callable[[dict[str, Any]], None]:
    def told(record: dict[str, Any]) -> None:
        counts = record["counts"]
        if as_json:
            click.echo(json.dumps({"merged": record}, default=str))
        # Pictures have no place, so that none can be seen twice.
        doubles = f", {counts['doubles']} doubles removed" if "doubles" in counts else ""
        logs.inform(
            f"{counts['polygons']} polygons of {counts['scenes']} scenes{doubles}: "
            f"{', '.join(record['outputs'])}"
        )

    return told


def _many(results: Iterator[SceneResult], as_json: bool) -> bool:
    """Whether a scene failed."""
    failed, counts = [], Counter[str]()
    for result in results:
        counts[result.outcome] += 1
        if as_json:
            click.echo(json.dumps(result.plain(), default=str))
        if result.record is not None:
            logs.inform(_summary(result.record))
        elif result.outcome == "failed":
            failed.append(result.reason)
            logs.report_error(result.reason)
    logs.inform(", ".join(f"{counts[name]} {name}" for name in ("predicted", "skipped", "failed")))
    if len(failed) < sum(counts.values()):
        # They scrolled away between the others.
        for reason in failed:
            logs.report_error(f"failed: {reason}")
    return bool(failed)


def _plans(entries: list[Entry], folders: Folders, settings: PredictSettings, as_json: bool) -> bool:
    """Print the plan of each scene; whether one has none."""
    from tilesegment.run.scene.summary import describe

    entries = folders.without_outputs(entries)
    folders.check(entries)
    failed, pixels, tiles, seconds, start = False, 0.0, 0, 0.0, 0.0
    for entry in entries:
        try:
            plan = describe(entry.source, settings, folders.outputs(entry))
        except TilesegmentError as error:
            failed = True
            logs.report_error(str(error))
            continue
        pixels, tiles = pixels + plan["megapixels"], tiles + plan["tiles"]
        if plan["seconds"] is not None:
            start = plan["seconds"]["start"]
            seconds += plan["seconds"]["total"] - start
        memory = plan["memory_bytes"]["total"] / 1e6
        line = f"{plan['input']}: {plan['megapixels']:.1f} Mpx, {plan['tiles']} tiles, {memory:.0f} MB"
        click.echo(json.dumps(plan) if as_json else line)
    if not as_json:
        told = f", about {start + seconds:.0f} s" if seconds else ""
        click.echo(f"{len(entries)} scenes: {pixels:.1f} Mpx, {tiles} tiles{told}")
    return failed


def _summary(record: dict[str, Any]) -> str:
    counts, seconds = record["counts"], record["seconds"]
    polygons = f"{counts['polygons']} polygons, " if "polygons" in counts else ""
    return (
        f"{polygons}{record['plan']['megapixels']:.1f} Mpx in {seconds['wall']:.1f} s: "
        f"{', '.join(record['outputs'])}"
    )


def _time_text(seconds: dict[str, float] | None) -> str:
    if seconds is None:
        return "unknown: the cluster's machines are not this one"
    return f"about {seconds['total']:.0f} s, {seconds['forward']:.0f} s of it forward passes"


def plan_text(plan: dict[str, Any]) -> str:
    """A plan, as `tilesegment.plan` gives it, for people."""
    grid, memory = plan["grid"], plan["memory_bytes"]
    metres = grid["metres_per_pixel"]
    size = "unknown size" if metres is None else f"{metres[0]:.3f} x {metres[1]:.3f} m"
    read = "resampled" if grid["resampled"] else "as it is"
    parts = ", ".join(f"{name} {value / 1e6:.0f}" for name, value in memory.items() if name != "total")
    lines = [
        f"grid       {grid['height']} x {grid['width']} pixels of {size}, read {read}",
        f"region     {plan['megapixels']:.1f} Mpx",
        f"tiles      {plan['tiles']} of {plan['tile'][0]} x {plan['tile'][1]}, overlap {plan['overlap']}, "
        f"forward passes of each: {plan['looks']}",
        f"blocks     {plan['blocks']}, recompute factor {plan['recompute']:.3f}",
        f"memory     {memory['total'] / 1e6:.0f} MB a process ({parts})",
        f"disk       up to {plan['disk_bytes'] / 1e6:.0f} MB until the outputs are written",
        f"time       {_time_text(plan['seconds'])}",
    ]
    return "\n".join([*lines, *(f"warning    {line}" for line in plan["warnings"])])
