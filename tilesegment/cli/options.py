"""The registry of shared options: one name, one type and one help text for each.

Values come from the command line, then `TILESEGMENT_<NAME>` in the environment, then the `--config`
file, then the defaults of `tilesegment.settings`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tilesegment.errors import SettingsError
from tilesegment.model.engines.choose import ENGINES
from tilesegment.model.engines.several import TTA
from tilesegment.settings import (
    REGULARIZE,
    SPLIT,
    Measure,
    VectorSettings,
    load_yaml,
    parse_bytes,
    parse_tile,
    parse_tolerance,
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_VECTOR = VectorSettings()


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on
    """A click type from a parsing function that raises SettingsError."""

    def __init__(self, name: str, parse: Callable[[Any], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the parser makes of a value; a usage error where it refuses."""
        try:
            return self._parse(value)
        except SettingsError as error:
            self.fail(str(error), param, ctx)


class _Names(click.types.StringParamType):
    """Names, of which an environment variable holds several as PATH does."""

    envvar_list_splitter = os.pathsep

    def __init__(self, name: str) -> None:
        self.name = name


def _measure(value: Any) -> Measure:
    return value if isinstance(value, Measure) else Measure.parse(str(value))


def _tile(value: Any) -> tuple[int, int]:
    if isinstance(value, list | tuple):
        return parse_tile("x".join(map(str, value)))
    return parse_tile(str(value))


def _bytes(value: Any) -> int:
    return parse_bytes(str(value))


def numbers(kind: Callable[[str], Any], count: int | None, example: str) -> Callable[[Any], Any]:
    """A parser of numbers between commas, `count` of them."""

    def parse(value: Any) -> tuple[Any, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        try:
            numbers = tuple(kind(str(part)) for part in parts)
        except ValueError:
            raise SettingsError(f"{value!r} is no list of numbers; write {example}") from None
        if count is not None and len(numbers) != count:
            raise SettingsError(f"{value!r} has {len(numbers)} numbers instead of {count}; write {example}")
        return numbers

    return parse


def _pair(value: Any) -> tuple[str, str]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return str(value[0]), str(value[1])
    name, separator, text = str(value).partition("=")
    if not separator or not name:
        raise SettingsError(f"{value!r} is not NAME=VALUE")
    return name, text


def option(*flags: str, **attributes: Any) -> Decorator:
    """A click option that also reads `TILESEGMENT_<NAME>`."""
    name = next(flag for flag in flags if flag.startswith("--")).split("/")[0]
    variable = "TILESEGMENT_" + name.removeprefix("--").replace("-", "_").upper()
    attributes.setdefault("envvar", variable)
    return click.option(*flags, **attributes)


def pairs(flag: str, text: str) -> Decorator:
    """A repeatable NAME=VALUE option."""
    return option(flag, multiple=True, type=Parsed("NAME=VALUE", _pair), metavar="NAME=VALUE", help=text)


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, shown in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _load_config(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        known = [p.name for p in ctx.command.params if p.name and p.name not in ("config", "help")]
        loaded = load_yaml(value, known)
        for name in ("co", "lco", "gdal"):
            if isinstance(loaded.get(name), dict):
                loaded[name] = [f"{key}={entry}" for key, entry in loaded[name].items()]
        if isinstance(loaded.get("model"), str):
            loaded["model"] = [loaded["model"]]
        if isinstance(loaded.get("max_memory"), int):
            loaded["max_memory"] = str(loaded["max_memory"])
        ctx.default_map = {**(ctx.default_map or {}), **loaded}
    return value


def given(ctx: click.Context, name: str) -> bool:
    """Whether the user set an option, by whatever way."""
    return ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def as_yaml(settings: dict[str, Any]) -> str:
    """Settings as a file that `--config` reads."""
    import yaml

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, Measure):
            return str(value)
        if name in ("co", "lco", "gdal"):
            return dict(value)
        return list(value) if isinstance(value, tuple) else value

    return yaml.safe_dump({name: plain(name, value) for name, value in sorted(settings.items())})


PRINT_CONFIG = click.option("--print-config", is_flag=True, help="Print the settings as YAML and stop.")
OUTPUT = option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write.", envvar=None
)
OVERWRITE = option("--overwrite", is_flag=True, help="Replace outputs that exist.")
MODEL_OUTPUT = option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    envvar=None,
    help="Model file to write; without it MODEL itself is changed.",
)
VECTOR = together(
    option(
        "--min-area",
        type=Parsed("AREA", _measure),
        default=str(_VECTOR.min_area),
        show_default=True,
        help="Drop polygons below this area (m2, or 20px).",
    ),
    option(
        "--simplify",
        type=Parsed("LENGTH", _measure),
        default=str(_VECTOR.simplify),
        show_default=True,
        help="How far outlines may move (m, or 1px; 0 keeps every pixel corner).",
    ),
    option(
        "--fill-holes",
        type=Parsed("AREA", _measure),
        default=str(_VECTOR.fill_holes),
        show_default=True,
        help="Fill holes below this area (m2, or 20px).",
    ),
    option(
        "--connectivity",
        type=click.Choice(["4", "8"]),
        default=str(_VECTOR.connectivity),
        show_default=True,
        help="8 makes one multipolygon of parts that touch at a corner.",
    ),
    option(
        "--regularize",
        type=click.Choice(REGULARIZE),
        default=_VECTOR.regularize,
        show_default=True,
        help="Straight walls: at right angles, also half right ones, or also circles; auto: for buildings.",
    ),
    option(
        "--tolerance",
        type=Parsed("LENGTH", parse_tolerance),
        default="default",
        show_default=True,
        help="How ragged an outline a wall may stand for: fine, default, map, or a length (m, or 3px).",
    ),
    option("--keep-raw", is_flag=True, help="Also write outlines before --regularize, as layer NAME_raw."),
    option("--layer", help="Layer name; the file's stem by default."),
    option("--dst-crs", help="CRS of the polygons; the scene's by default."),
    pairs("--lco", "Layer creation option (repeatable)."),
)
GDAL = pairs("--gdal", "GDAL configuration option (repeatable).")
NODATA = option("--nodata", type=float, help="Value of the input that marks invalid pixels too.")
SRC_CRS = option("--src-crs", help="CRS of the input, where it names none or a wrong one.")
LOGS = together(
    option(
        "--config",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        callback=_load_config,
        help="YAML file with these options by name.",
    ),
    option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
    click.option("-q", "--quiet", is_flag=True, help="Errors only."),
    click.option("-v", "--verbose", count=True, help="Say more; -vv shows tracebacks."),
)
SCENE = together(
    option(
        "--model",
        multiple=True,
        type=_Names("MODEL"),
        metavar="MODEL",
        default=["roofs"],
        show_default=True,
        help="Bundled name, file or folder; of several (repeat it) the mean.",
    ),
    option(
        "--tta",
        type=click.Choice(TTA),
        default="none",
        show_default=True,
        help="Mean of 4 (flips) or 8 (d4) looks at every tile, mirrored and turned.",
    ),
    option("--tile", type=Parsed("PIXELS", _tile), help="Tile: 512, or 512x1024 (rows x columns)."),
    option("--overlap", type=int, help="Pixels shared by neighbouring tiles."),
    option("--blend", default="cosine", show_default=True, help="linear, cosine or gauss."),
    option("--batch", type=int, help="Tiles a forward pass."),
    option("--threshold", type=float, help="Least probability, for models of two classes."),
    option("--gsd", type=float, help="Metres a pixel to predict at; the model's by default."),
    option("-b", "--bidx", type=Parsed("BANDS", numbers(int, None, "1,2,3")), help="Bands, from 1: 1,2,3."),
    NODATA,
    SRC_CRS,
    option("--stretch", help="Value range: MIN,MAX or percentiles 2%,98%."),
    option(
        "--bbox",
        type=Parsed("BOX", numbers(float, 4, "left,bottom,right,top")),
        help="left,bottom,right,top in the scene's CRS.",
    ),
    option("--aoi", help="Vector file: only inside its polygons."),
    option(
        "--split",
        type=click.Choice(SPLIT),
        default="auto",
        show_default=True,
        help="A polygon for each building, where the model says that they touch; depth: at narrow places.",
    ),
    option("--match-input", is_flag=True, help="Masks on the input's own grid."),
)
RUNNING = together(
    option(
        "--engine",
        type=click.Choice(ENGINES),
        default="auto",
        show_default=True,
        help="auto: torch on a GPU, OpenVINO on a CPU.",
    ),
    option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps."),
    option("--precision", default="auto", show_default=True, help="auto, fp32, bf16, fp16 or int8."),
    option("--workers", type=int, help="Start this many Dask worker processes."),
    option("--scheduler", help="Join a Dask scheduler: tcp://host:8786."),
    option(
        "--max-memory",
        type=Parsed("BYTES", _bytes),
        help="Budget of each process, like 2GB; half of the machine's by default.",
    ),
)
